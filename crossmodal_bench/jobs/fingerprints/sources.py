"""The fingerprint of a job that is run here: its sources, settings, protocols and libraries."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import metadata
from typing import Any

from crossmodal_bench.evaluation.protocols.judgements import judgements_digest
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.evaluation.protocols.splits import members_digest
from crossmodal_bench.jobs.fingerprints.closure import DIGITS, SourceTree, package_location
from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint

SCHEME = 1
"""Increment it when the digests of unchanged sources or settings change; schemes are never compared."""

OURS = "crossmodal_bench"

WORKER = (f"{OURS}.training.worker", f"{OURS}.jobs.results")
"""What every job runs: training, checkpoint selection, evaluation, and the record's fields about it."""
EVALUATOR = (f"{OURS}.evaluation.evaluate", f"{OURS}.evaluation.numbers")
"""What evaluates a model from elsewhere."""

ASIDE = (
    # What a job is called, and where its files are and how they are read. The resulting configuration is
    # hashed itself.
    f"{OURS}.jobs",
    # What users see.
    f"{OURS}.reporting",
    f"{OURS}.bench",
    f"{OURS}.cli",
    f"{OURS}.training.projection",
    # What validates, reports, waits and writes.
    f"{OURS}.core.errors",
    f"{OURS}.core.validation",
    f"{OURS}.core.atomic_files",
    f"{OURS}.core.file_locks",
    f"{OURS}.core.signals",
    f"{OURS}.training.configuration",
    f"{OURS}.training.resumption",
)
"""Modules that the worker imports but that do not affect any number: changing them leaves records fresh."""

_HOMES = tuple(f"{OURS}.{package}" for package in ("methods", "methods.hosts", "data.datasets", "networks"))
"""Where a class given by its bare name is looked up."""

_AROUND = ("data.root", "data.cache", "data.seed", "seed_everything")
"""Settings that do not affect what a row measures: paths on this machine; and the seed, so that the seeds of
a row are recognised as belonging together."""

DRAW = "data.dataset.init_args.draw_seed"
"""The setting that selects the draw of a split. If every seed has its own draw, it equals the seed; the
data's own fingerprint includes the draw."""

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "lightning_fabric": "pytorch-lightning",
    "pytorch_lightning": "pytorch-lightning",
    "sklearn": "scikit-learn",
}
"""The distributions of top-level modules whose names differ."""
NUMBER_NEUTRAL_LIBRARIES = frozenset(
    {"jsonargparse", "matplotlib", "pydantic", "pydantic_core", "threadpoolctl", "tqdm", "yaml"}
)
"""Libraries whose versions do not affect any number: what they read from a file is hashed itself."""

VERSIONED_LIBRARIES = frozenset(
    {
        "lightning_fabric",
        "numpy",
        "pytorch_lightning",
        "scipy",
        "sklearn",
        "torch",
        "torchmetrics",
        "torchvision",
        "transformers",
    }
)
"""Libraries whose classes a configuration may name, and whose sources are represented by their versions."""

_RESOLVED = frozenset({"protocols.yaml"})
"""Files of which only the values that a job uses are hashed."""

_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def fingerprint_of(
    config: Mapping[str, Any],
    protocols: Iterable[Protocol] = (),
    roots: Sequence[str] = WORKER,
    packages: Collection[str] | None = None,
) -> Fingerprint:
    """The fingerprint of a job that this process runs.

    Args:
        config: the resolved configuration: ``model``, ``data``, ``trainer``.
        protocols: those that it is measured under.
        roots: what runs it, in addition to the classes of the configuration.
        packages: top-level packages whose sources count; for all others the version does. None: this package,
            and those of the configuration's classes that are not in ``VERSIONED_LIBRARIES``.
    """
    if packages is None:
        named = {name.partition(".")[0] for name in class_paths(config) if "." in name}
        packages = {*(named - VERSIONED_LIBRARIES), OURS}
    return fingerprint_in(source_tree(frozenset(packages)), config, protocols, roots)


def fingerprint_in(
    tree: SourceTree,
    config: Mapping[str, Any],
    protocols: Iterable[Protocol] = (),
    roots: Iterable[str] = WORKER,
) -> Fingerprint:
    """The same with the sources of ``tree``."""
    protocols = list(protocols)
    closure = tree.closure([*roots, *_roots(tree, class_paths(config))])
    around = {*_AROUND, DRAW} if any(protocol.redrawn for protocol in protocols) else {*_AROUND}
    versions = {
        _DISTRIBUTIONS.get(name, name): _version(name)
        for name in closure.libraries - NUMBER_NEUTRAL_LIBRARIES
    }
    return Fingerprint(
        scheme=SCHEME,
        modules=dict(closure.modules),
        files={
            name: digest for name, digest in closure.files.items() if name.rpartition("/")[2] not in _RESOLVED
        },
        libraries={name: found for name, found in sorted(versions.items()) if found},
        settings={key: _digest(value) for key, value in sorted(_flat("", config)) if key not in around},
        protocols={protocol.name: _protocol_digest(protocol) for protocol in protocols},
    )


@cache
def source_tree(packages: frozenset[str]) -> SourceTree:
    """This process's sources of those packages; packages that are not found are skipped."""
    locations = {name: package_location(name) for name in packages}
    return SourceTree({name: path for name, path in locations.items() if path is not None}, ASIDE)


def class_paths(config: Any, key: str = "") -> Iterator[str]:
    """The classes that a configuration names: each ``class_path``, and each string that looks like one."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from class_paths(value, str(name))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from class_paths(value)
    elif isinstance(config, str) and _CLASS_PATH.fullmatch(config):
        last = config.rpartition(".")[2]
        # Matches `model: my_package.MyMethod` but not `weights: resnet18.pth`.
        if key == "class_path" or last[0].isupper():
            yield config


def _roots(tree: SourceTree, classes: Iterable[str]) -> Iterator[str]:
    """Classes with their packages; a bare name is one of this package's classes, or not a class at all."""
    for name in classes:
        if "." in name:
            yield name
        else:
            yield from (f"{home}.{name}" for home in _HOMES if tree.exports(home, name))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is not a mapping, by its dotted key; an empty section yields nothing."""
    if isinstance(value, Mapping) and (value or "." not in path):
        for name, below in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), below)
    else:
        yield path, value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _protocol_digest(protocol: Protocol) -> str:
    """The digest of its values and of the photo list or judgements that it names; its note does not count."""
    content = {name: value for name, value in asdict(protocol).items() if name != "note"}
    if protocol.judged is None:
        # Keeps digests equal to those in records from before this field existed.
        del content["pairs"]
    if protocol.split.members:
        content["listed"] = members_digest(protocol.split.members)
    if protocol.judged is not None:
        content["judged"] = judgements_digest(protocol.judged)
    return _digest(content)


@cache
def _version(library: str) -> str:
    """The version as major.minor; empty if the library is not installed or its version is unknown."""
    try:
        full = metadata.version(_DISTRIBUTIONS.get(library, library))
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    numbers = re.match(r"\d+(\.\d+)?", full)
    return numbers.group() if numbers else ""
