"""Which data sets exist, which views they provide, and what methods are missing; reads nothing large."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.cli.doctor.devices import gpu_visible
from crossmodal_bench.cli.doctor.findings import IMPATIENT, Finding, Status, Target, guarded, told, within
from crossmodal_bench.cli.doctor.limits import discriminators
from crossmodal_bench.core.class_paths import imported_class
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.corpus import SPLITS, Corpus
from crossmodal_bench.data.datasets.base import DatasetReader
from crossmodal_bench.data.datasets.karpathy import is_karpathy_folder
from crossmodal_bench.data.datasets.precomputed import precomputed_folder
from crossmodal_bench.data.images import unreadable
from crossmodal_bench.data.view_builders import lacking
from crossmodal_bench.data.views import VIEWS
from crossmodal_bench.evaluation.protocols.protocol import unverified
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.inputs import Inputs, fitting_protocols, matched_protocols
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.training.devices import trainer_devices

ROOT_SECONDS = 5.0
"""Timeout for DATA_ROOT."""
DATASET_SECONDS = 10.0
"""Timeout for one data set when all are examined."""
ALL_SECONDS = 8.0
"""After this time, no further data set is started."""
REQUESTED_SECONDS = 300.0
"""Timeout for a requested data set."""
MANUAL = "see the table of data sets in docs/datasets.md"
SAMPLE = 16
"""Number of pictures decoded from each data set."""


def data_sets(target: Target) -> Iterator[Finding]:
    """Every requested data set, or else every known one and every folder in a known layout."""
    # Query CUDA before anything forks: it does not survive a fork.
    several = gpu_visible() and trainer_devices("auto")["devices"] != 1
    answer = within(ROOT_SECONDS, "DATA_ROOT", partial(root, target))
    yield from answer
    if any(finding.fix == IMPATIENT for finding in answer):
        return
    deadline = time.monotonic() + ALL_SECONDS
    absent = []
    for name in target.datasets or dataset_names(target.data_root):
        if not target.datasets and name == "synthetic":
            yield Finding(name, "ok", "always available: generated from a seed")
            continue
        if not target.datasets and time.monotonic() > deadline:
            text = f"not checked, to save time; crossmodal-bench doctor --dataset {name} checks it"
            yield Finding(name, "information", text)
            continue
        missing = guarded(name, partial(folder_missing, name, target))
        if missing and not target.datasets and missing[0].status == "information":
            absent.append(missing[0])
        elif missing:
            yield from missing
        else:
            seconds = REQUESTED_SECONDS if target.datasets else DATASET_SECONDS
            fix = f"crossmodal-bench doctor --dataset {name} allows more time"
            yield from within(seconds, name, partial(examined, name, target, several=several), fix)
    yield from absent


def root(target: Target) -> Iterator[Finding]:
    """DATA_ROOT itself; an unresponsive disk shows up here."""
    if target.data_root.is_dir():
        count = sum(path.is_dir() for path in target.data_root.iterdir())
        yield Finding("DATA_ROOT", "ok", f"{target.data_root}: {count} folder{'s' * (count != 1)}")
        return
    text = f"{target.data_root} is not a folder: only synthetic data can be used"
    fix = "create it and put data sets there, or name the folder that has them with --data-root (DATA_ROOT=)"
    yield Finding("DATA_ROOT", "problem" if target.datasets else "warning", text, fix)


def dataset_names(root: Path) -> list[str]:
    """Names of the known data sets, and of folders in layouts that need no YAML file."""
    names = experiments.names("datasets")
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name not in names)
    except OSError:
        return names
    return names + [path.name for path in folders if _looks_like_data(path)]


def _looks_like_data(folder: Path) -> bool:
    try:
        return is_karpathy_folder(folder) or precomputed_folder(folder) is not None
    except BadInput:
        return True
    except OSError:
        return False


def folder_missing(name: str, target: Target) -> Iterator[Finding]:
    """The message of the data set's reader if not even its folder exists."""
    settings = experiments.dataset_settings(name, target.data_root)["data"]["dataset"]
    kind = imported_class(
        "data.dataset.class_path", settings["class_path"], DatasetReader, "crossmodal_bench.data.datasets"
    )
    reader: Any = kind(**settings.get("init_args", {}))
    folder = getattr(reader, "folder", None)
    if folder is None or (target.data_root / folder).is_dir():
        return
    try:
        reader.read(target.data_root)
    except MissingInput as error:
        yield told(name, "problem" if target.datasets else "information", str(error), MANUAL)


def examined(name: str, target: Target, *, several: bool) -> Iterator[Finding]:
    """Counts, views, a sample of the pictures, and what methods are missing, in the planner's words.

    ``several``: whether one job uses several devices.
    """
    corpora: dict[str, Inputs] = {}
    options = BenchOptions(dataset=name, data_root=target.data_root, runs=target.runs, methods="cca", seeds=1)
    try:
        # One method first: missing files are missing for all methods.
        plan = make_plan(options, gpu_visible(), corpora)
        if not plan[0].missing:
            options = replace(options, methods="all" if target.datasets else "default")
            plan = make_plan(options, gpu_visible(), corpora)
    except BadInput as error:
        yield told(name, "problem", str(error), MANUAL)
        return
    corpus = next((planned.corpus for planned in plan if planned.corpus is not None), None)
    if corpus is None:
        # Some data sets are optional extra files in another one's folder.
        own = (target.data_root / name).is_dir()
        status: Status = "problem" if target.datasets else "warning" if own else "information"
        yield told(name, status, plan[0].missing, MANUAL)
        return
    yield Finding(name, "ok", _described(corpus, plan))
    yield from _protocols(name, corpus)
    yield from _pictures(name, corpus)
    yield from _methods(name, plan)
    runnable = [planned for planned in plan if not planned.missing]
    dims = (_discriminators_dim(planned.config) for planned in runnable)
    for dim in sorted({dim for dim in dims if dim is not None}):
        yield discriminators(name, runnable[0].counts["train"]["images"], dim, several=several)


def _described(corpus: Corpus, plan: list[PlannedJob]) -> str:
    counts = corpus.counts()
    images = "/".join(f"{counts[split]['images']:,}" for split in SPLITS)
    sources = {str(planned.config["data"].get("images", {}).get("regions", "auto")) for planned in plan}
    views = [view for view in VIEWS if any(not lacking(corpus, {view}, source) for source in sources)]
    return f"{images} images ({'/'.join(SPLITS)}); provides {', '.join(views)}"


def _protocols(name: str, corpus: Corpus) -> Iterator[Finding]:
    """The protocols of the test split, and why one that resembles a published split is not verified."""
    labels = ", ".join(protocol.label for protocol in fitting_protocols(corpus))
    near = [
        match
        for match in matched_protocols(corpus)
        if match.counts_agree and (not match.verified or match.obstacle)
    ]
    if not near:
        yield Finding(f"{name}: protocols", "ok", f"the test split is measured under {labels}")
    for match in near:
        if match.protocol.judged is not None:
            if match.obstacle:
                fix = "fix it if you want these numbers; all others are measured without it"
                yield Finding(f"{name}: protocols", "information", match.sentence, fix)
            continue
        text = f"{match.sentence}; the protocol is {unverified(match.protocol).label} (split unverified)"
        if match.protocol.split.verifiable:
            fix = "put the published split there, or report the numbers as those of your own split"
            yield Finding(f"{name}: protocols", "warning", text, fix)
        else:
            fix = f"crossmodal-bench prepare {name} prints what is needed to recognise it"
            yield Finding(f"{name}: protocols", "information", text, fix)


def _pictures(name: str, corpus: Corpus) -> Iterator[Finding]:
    if corpus.images is None:
        return
    rows = np.unique(np.linspace(0, len(corpus.images) - 1, SAMPLE).astype(np.int64))
    bad = unreadable(corpus.images.subset(rows))
    if bad:
        text = f"{len(bad)} of {len(rows)} sampled pictures cannot be read: {next(iter(bad.values()))}"
        fix = f"crossmodal-bench prepare {name} checks all of them; --on-bad-image skip skips such pictures"
        yield Finding(f"{name}: pictures", "problem", text, fix)
    else:
        fine = f"{len(rows)} pictures were decoded; crossmodal-bench prepare {name} checks all of them"
        yield Finding(f"{name}: pictures", "ok", fine)


def _methods(name: str, plan: list[PlannedJob]) -> Iterator[Finding]:
    reasons: dict[str, dict[str, None]] = {}
    for planned in plan:
        reasons.setdefault(planned.missing, {})[planned.job.method] = None
    ready = [
        method for method in reasons.pop("", {}) if not any(method in others for others in reasons.values())
    ]
    if ready:
        yield Finding(f"{name}: methods", "ok", f"everything is available for {', '.join(ready)}")
    for why, methods in reasons.items():
        finding = told(f"{name}: methods", "warning", why)
        yield replace(finding, text=f"{', '.join(methods)} cannot run: {finding.text}")


def _discriminators_dim(config: dict[str, Any]) -> int | None:
    """The width of ADDR's discriminators, if a configuration has one per pair."""
    model = config.get("model", {})
    arguments = model.get("init_args", {})
    is_addr = str(model.get("class_path", "")).endswith(".ADDR")
    if not is_addr or (arguments.get("discriminator") or {}).get("shared", False):
        return None
    dim = (arguments.get("host") or {}).get("init_args", {}).get("dim")
    return int(dim) if dim is not None else None
