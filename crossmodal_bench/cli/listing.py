"""`crossmodal-bench list`: what is available, one line each; imports nothing slow."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crossmodal_bench.core.errors import BadInput, MissingInput, nearest, tell

PRESETS = {
    "smoke": "minutes, to check that everything runs",
    "small": "small networks and frozen features, sized for a CPU; not the papers' settings",
    "paper": "each paper's settings, every value with its source",
    "tuned": "the paper's settings, except for values tuned on validation",
    "auto": "smoke on synthetic data, else paper with a GPU and small without",
}


def list_all(arguments: argparse.Namespace) -> int:
    """Print the available items of one kind."""
    kind = arguments.kind
    if kind not in KINDS:
        raise BadInput(f"there is no list of '{kind}'{nearest(kind, KINDS)}")
    entries = KINDS[kind](arguments.data_root)
    if arguments.json:
        print(json.dumps(entries, indent=1))
        return 0
    width = max(len(entry["name"]) for entry in entries)
    for entry in entries:
        tell(f"{entry['name']:{width}s}  {entry['about']}")
    return 0


def _methods(data_root: Path) -> list[dict[str, Any]]:
    from crossmodal_bench.jobs import experiments

    default = experiments.default_methods()
    entries = []
    for name in experiments.names("methods"):
        about = experiments.title_of(name)
        base = experiments.base_of(name)
        ablation = experiments.ablation_of(name)
        parents = experiments.parents_of(name)
        about += f", on {base}" if base and about == name else ""
        about += f"; without its adversary: {ablation}" if ablation else ""
        about += f"; starts from {', '.join(parents)}" if parents else ""
        about += "; in METHODS=default" if name in default else ""
        entries.append({"name": name, "about": about, "default": name in default})
    return entries


def _datasets(data_root: Path) -> list[dict[str, Any]]:
    from crossmodal_bench.jobs import experiments

    entries = []
    for name in experiments.names("datasets"):
        there = name == "synthetic" or _is_there(name, data_root)
        about = experiments.dataset_title(name)
        if not there:
            about += f" (not in {data_root}; crossmodal-bench prepare {name} tells what is missing)"
        entries.append(
            {"name": name, "about": about, "there": there, "licence": experiments.licence_of(name)}
        )
    return entries


def _is_there(name: str, data_root: Path) -> bool:
    """Whether a data set's folder exists; `prepare` checks its contents."""
    from crossmodal_bench.jobs import experiments

    try:
        settings = experiments.dataset_settings(name, data_root)
    except (BadInput, MissingInput):
        return False
    arguments = settings["data"]["dataset"].get("init_args") or {}
    folder = arguments.get("folder", name.partition("-")[0].removesuffix("_deep"))
    return (data_root / str(folder)).is_dir()


def _suites(data_root: Path) -> list[dict[str, Any]]:
    from crossmodal_bench.jobs import experiments

    entries = []
    for name in experiments.names("suites"):
        content = experiments.suite(name)
        entries.append({"name": name, "about": content.description, "datasets": list(content.datasets)})
    return entries


_RIGHT: Mapping[str, str] = {
    **{positives: f"items with the same {positives}" for positives in ("caption", "identity", "label")},
    "eccv": "pairs judged so by ECCV Caption's annotators (package eccv-caption)",
    "cxc": "pairs judged so by Crisscrossed Captions' annotators (package eccv-caption)",
}
"""The correct answers for a query, by a named protocol's field ``pairs`` or ``positives``."""


def _protocols(data_root: Path) -> list[dict[str, Any]]:
    from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS

    entries = []
    for protocol in PROTOCOLS.values():
        images = "any number of" if protocol.images is None else f"{protocol.images:,}"
        captions = " or ".join(f"{count:,}" for count in protocol.captions) or "any number of"
        folds = f", in {protocol.folds} folds" if protocol.folds > 1 else ""
        about = (
            f"{protocol.dataset}: {images} images, {captions} captions{folds}; correct: "
            f"{_RIGHT[protocol.pairs or protocol.positives]}; sorted by {protocol.primary}"
        )
        entries.append(
            {
                "name": protocol.name,
                "about": about,
                "dataset": protocol.dataset,
                "version": protocol.version,
                "primary": protocol.primary,
                "note": protocol.note,
            }
        )
    return entries


def _presets(data_root: Path) -> list[dict[str, Any]]:
    return [{"name": name, "about": about} for name, about in PRESETS.items()]


KINDS: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = {
    "methods": _methods,
    "datasets": _datasets,
    "suites": _suites,
    "protocols": _protocols,
    "presets": _presets,
}
"""What can be listed."""
