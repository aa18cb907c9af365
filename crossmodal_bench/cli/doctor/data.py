"""Which data sets are there, which views they give, and what each method lacks; nothing large is read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.cli.doctor.devices import gpu_visible
from crossmodal_bench.cli.doctor.findings import IMPATIENT, Finding, Place, Status, guarded, told, within
from crossmodal_bench.cli.doctor.limits import discriminators
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data.corpus import SPLITS, Corpus
from crossmodal_bench.data.datasets.karpathy import is_karpathy_folder
from crossmodal_bench.data.datasets.precomputed import precomputed_folder
from crossmodal_bench.data.images import unreadable
from crossmodal_bench.data.view_builders import lacking
from crossmodal_bench.data.views import VIEWS
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.inputs import Inputs
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.training.devices import trainer_devices

ANSWER, EACH, ALL, ASKED = 5.0, 10.0, 8.0, 300.0
"""Seconds for DATA_ROOT to answer, for one data set, for all of them, and for one that was asked for."""
MANUAL = "see the table of data sets in the README"
SAMPLE = 16
"""Pictures that are decoded of each data set."""


def data_sets(place: Place) -> Iterator[Finding]:
    """Every data set that was asked for, or else every known one and every folder in a known layout."""
    # Asked before anything forks, which CUDA does not forgive.
    several = gpu_visible() and trainer_devices("auto")["devices"] != 1
    answer = within(ANSWER, "DATA_ROOT", lambda: root(place))
    yield from answer
    if any(one.fix == IMPATIENT for one in answer):
        return
    deadline, absent = time.monotonic() + ALL, []
    for name in place.datasets or known_or_found(place.data_root):
        if not place.datasets and name == "synthetic":
            yield Finding(name, "ok", "always there: made from a seed")
            continue
        if not place.datasets and time.monotonic() > deadline:
            text = f"not looked at for lack of time; crossmodal-bench doctor --dataset {name} does it"
            yield Finding(name, "information", text)
            continue
        missing = guarded(name, lambda name=name: folder_missing(name, place))  # type: ignore[misc]
        if missing and not place.datasets and missing[0].status == "information":
            absent.append(missing[0])
        elif missing:
            yield from missing
        else:
            seconds = ASKED if place.datasets else EACH
            more = f"crossmodal-bench doctor --dataset {name} has more patience"
            yield from within(seconds, name, lambda name=name: examined(name, place, several), more)  # type: ignore[misc]
    yield from absent


def root(place: Place) -> Iterator[Finding]:
    """DATA_ROOT itself; a disk that does not answer shows here."""
    if place.data_root.is_dir():
        count = sum(path.is_dir() for path in place.data_root.iterdir())
        yield Finding("DATA_ROOT", "ok", f"{place.data_root}: {count} folder{'s' * (count != 1)}")
        return
    text = f"{place.data_root} is no folder: only synthetic data can be used"
    fix = "make it and put data sets there, or name the folder that has them with --data-root (DATA_ROOT=)"
    yield Finding("DATA_ROOT", "problem" if place.datasets else "warning", text, fix)


def known_or_found(root: Path) -> list[str]:
    """Names of the known data sets, and of folders in the layouts that need no file of their own."""
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


def folder_missing(name: str, place: Place) -> Iterator[Finding]:
    """What the data set's reader says where not even its folder is there."""
    settings = experiments.dataset_settings(name, place.data_root)["data"]["dataset"]
    module, _, kind = settings["class_path"].rpartition(".")
    reader = getattr(import_module(module), kind)(**settings.get("init_args", {}))
    folder = getattr(reader, "folder", None)
    if folder is None or (place.data_root / folder).is_dir():
        return
    try:
        reader.read(place.data_root)
    except MissingInput as error:
        yield told(name, "problem" if place.datasets else "information", str(error), MANUAL)


def examined(name: str, place: Place, several: bool) -> Iterator[Finding]:
    """Counts, views, a sample of the pictures, and what each method lacks, as the bench's planner says it.

    ``several``: whether one training takes several devices.
    """
    corpora: dict[str, Inputs] = {}
    options = BenchOptions(dataset=name, data_root=place.data_root, runs=place.runs, methods="cca", seeds=1)
    try:
        # Of one method first: where files are missing, they are missing for all.
        plan = make_plan(options, gpu_visible(), corpora)
        if not plan[0].missing:
            options = replace(options, methods="all" if place.datasets else "default")
            plan = make_plan(options, gpu_visible(), corpora)
    except BadInput as error:
        yield told(name, "problem", str(error), MANUAL)
        return
    corpus = next((planned.corpus for planned in plan if planned.corpus is not None), None)
    if corpus is None:
        # Some data sets are other files in another one's folder, which most people do not have.
        own = (place.data_root / name).is_dir()
        status: Status = "problem" if place.datasets else "warning" if own else "information"
        yield told(name, status, plan[0].missing, MANUAL)
        return
    yield Finding(name, "ok", _described(corpus, plan))
    yield from _pictures(name, corpus)
    yield from _methods(name, plan)
    for planned in plan:
        dim = None if planned.missing else _discriminators_dim(planned.config)
        if dim is not None:
            yield discriminators(name, planned.counts["train"]["images"], dim, several)
            break


def _described(corpus: Corpus, plan: list[PlannedJob]) -> str:
    counts = corpus.counts()
    images = "/".join(f"{counts[split]['images']:,}" for split in SPLITS)
    sources = {str(planned.config["data"].get("images", {}).get("regions", "auto")) for planned in plan}
    views = [view for view in VIEWS if any(not lacking(corpus, {view}, source) for source in sources)]
    return f"{images} images ({'/'.join(SPLITS)}); gives {', '.join(views)}"


def _pictures(name: str, corpus: Corpus) -> Iterator[Finding]:
    if corpus.images is None:
        return
    rows = np.unique(np.linspace(0, len(corpus.images) - 1, SAMPLE).astype(np.int64))
    bad = unreadable(corpus.images.subset(rows))
    if bad:
        text = (
            f"{len(bad)} of {len(rows)} pictures that were tried cannot be read: {next(iter(bad.values()))}"
        )
        fix = f"crossmodal-bench prepare {name} tries them all; --on-bad-image skip leaves such pictures out"
        yield Finding(f"{name}: pictures", "problem", text, fix)
    else:
        fine = f"{len(rows)} pictures were decoded; crossmodal-bench prepare {name} tries them all"
        yield Finding(f"{name}: pictures", "ok", fine)


def _methods(name: str, plan: list[PlannedJob]) -> Iterator[Finding]:
    reasons: dict[str, dict[str, None]] = {}
    for planned in plan:
        reasons.setdefault(planned.missing, {})[planned.job.method] = None
    ready = [
        method for method in reasons.pop("", {}) if not any(method in others for others in reasons.values())
    ]
    if ready:
        yield Finding(f"{name}: methods", "ok", f"nothing is missing for {', '.join(ready)}")
    for why, methods in reasons.items():
        found = told(f"{name}: methods", "warning", why)
        text = f"{', '.join(methods)} cannot run: {found.text}"
        yield Finding(found.name, found.status, text, found.fix)


def _discriminators_dim(config: dict[str, Any]) -> int | None:
    """The width of ADDR's discriminators, where a configuration has one for each pair."""
    model = config.get("model", {})
    arguments = model.get("init_args", {})
    if (
        not str(model.get("class_path", "")).endswith(".ADDR")
        or arguments.get("discriminators", "pairs") != "pairs"
    ):
        return None
    dim = (arguments.get("host") or {}).get("init_args", {}).get("dim")
    return int(dim) if dim is not None else None
