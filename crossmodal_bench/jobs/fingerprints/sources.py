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
"""Raise it when the digests of the same sources and settings change: they are not compared across schemes."""

OURS = "crossmodal_bench"

WORKER = (f"{OURS}.training.worker", f"{OURS}.jobs.results")
"""What every job runs: training, the choice of the checkpoint, evaluation, and what the record says of it."""
EVALUATOR = (f"{OURS}.evaluation.evaluate", f"{OURS}.evaluation.numbers")
"""What a model from elsewhere is evaluated by."""

ASIDE = (
    # What a job is called, where its files lie and what is read of them. The configuration that comes out of
    # it is looked at itself.
    f"{OURS}.jobs",
    # What people see.
    f"{OURS}.reporting",
    f"{OURS}.bench",
    f"{OURS}.cli",
    f"{OURS}.training.projection",
    # What refuses, tells, waits and writes.
    f"{OURS}.core.errors",
    f"{OURS}.core.validation",
    f"{OURS}.core.atomic_files",
    f"{OURS}.core.file_locks",
    f"{OURS}.core.signals",
    f"{OURS}.training.configuration",
    f"{OURS}.training.resumption",
)
"""Modules that the worker imports and that decide no number: they change, and records stay fresh."""

_HOMES = tuple(f"{OURS}.{package}" for package in ("methods", "methods.hosts", "data.datasets", "networks"))
"""Where a class is looked up whose path is a name alone."""

_AROUND = ("data.root", "data.cache", "data.seed", "seed_everything")
"""Settings that are no part of what a row measures: where files lie on this machine; and the seed, so that
the seeds of a row can be seen to belong together."""

DRAW = "data.dataset.init_args.draw_seed"
"""The setting that says which draw a split is. Where every seed has a draw of its own, it is the seed; the
data's own fingerprint has the draw in it."""

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "lightning_fabric": "pytorch-lightning",
    "pytorch_lightning": "pytorch-lightning",
    "sklearn": "scikit-learn",
}
"""What top-level modules are called where they are installed from, where that is another name."""
_WITHOUT_NUMBERS = frozenset(
    {"jsonargparse", "matplotlib", "pydantic", "pydantic_core", "threadpoolctl", "tqdm", "yaml"}
)
"""Libraries whose versions move no digit: what they read of a file is looked at itself."""

SPOKEN_FOR = frozenset(
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
"""Libraries whose classes a configuration may name, and whose sources their versions speak for."""

_RESOLVED = frozenset({"protocols.yaml"})
"""Files of which those values are looked at that a job uses."""

_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def fingerprint_of(
    config: Mapping[str, Any],
    protocols: Iterable[Protocol] = (),
    roots: Sequence[str] = WORKER,
    packages: Collection[str] | None = None,
) -> Fingerprint:
    """The fingerprint of a job that is run by this process.

    Args:
        config: resolved: ``model``, ``data``, ``trainer``.
        protocols: that it is measured under.
        roots: what runs it, beside the classes of the configuration.
        packages: top-level packages whose sources count; of all others the version does. None: this package,
            and those of the configuration's classes that are none of ``SPOKEN_FOR``.
    """
    if packages is None:
        named = {name.partition(".")[0] for name in class_paths(config) if "." in name}
        packages = {*(named - SPOKEN_FOR), OURS}
    return fingerprint_in(source_tree(frozenset(packages)), config, protocols, roots)


def fingerprint_in(
    tree: SourceTree,
    config: Mapping[str, Any],
    protocols: Iterable[Protocol] = (),
    roots: Iterable[str] = WORKER,
) -> Fingerprint:
    """Likewise, with the sources of ``tree``."""
    protocols = list(protocols)
    closure = tree.closure([*roots, *_roots(tree, class_paths(config))])
    around = {*_AROUND, DRAW} if any(protocol.redrawn for protocol in protocols) else {*_AROUND}
    versions = {
        _DISTRIBUTIONS.get(name, name): _version(name) for name in closure.libraries - _WITHOUT_NUMBERS
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
    """This process's sources of those packages, of which only what is found counts."""
    locations = {name: package_location(name) for name in packages}
    return SourceTree({name: path for name, path in locations.items() if path is not None}, ASIDE)


def class_paths(config: Any, key: str = "") -> Iterator[str]:
    """The classes that a configuration names: each ``class_path``, and each text that is spelled like one."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from class_paths(value, str(name))
    elif isinstance(config, list | tuple):
        for value in config:
            yield from class_paths(value)
    elif isinstance(config, str) and _CLASS_PATH.fullmatch(config):
        last = config.rpartition(".")[2]
        # For `model: my_package.MyMethod`, and not for `weights: resnet18.pth`.
        if key == "class_path" or last[0].isupper():
            yield config


def _roots(tree: SourceTree, classes: Iterable[str]) -> Iterator[str]:
    """Classes with their packages; a name alone is one of this package's, or none at all."""
    for name in classes:
        if "." in name:
            yield name
        else:
            yield from (f"{home}.{name}" for home in _HOMES if tree.exports(home, name))


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, by its dotted key; a section with nothing in it is none."""
    if isinstance(value, Mapping) and (value or "." not in path):
        for name, below in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), below)
    else:
        yield path, value


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _protocol_digest(protocol: Protocol) -> str:
    """Of its values, and of the list of photos or the judgements that it names; its note does not count."""
    content = {name: value for name, value in asdict(protocol).items() if name != "note"}
    if protocol.judged is None:
        # Digests stand in records from before there were any.
        del content["pairs"]
    if protocol.split.members:
        content["listed"] = members_digest(protocol.split.members)
    if protocol.judged is not None:
        content["judged"] = judgements_digest(protocol.judged)
    return _digest(content)


@cache
def _version(library: str) -> str:
    """major.minor; empty where it is not installed, or no version is known."""
    try:
        full = metadata.version(_DISTRIBUTIONS.get(library, library))
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    numbers = re.match(r"\d+(\.\d+)?", full)
    return numbers.group() if numbers else ""
