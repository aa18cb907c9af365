"""Checks of a bench's options that need no heavy imports."""

from __future__ import annotations

import os

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.reference import check_reference
from crossmodal_bench.reporting.wandb.mode import named_mode

GIVEN_ELSEWHERE = {
    "seed_everything": "SEEDS",
    "data.seed": "SEEDS",
    "data.root": "DATA_ROOT",
    "data.cache": "RUNS",
}
"""Configuration keys that the bench sets itself, and the option that decides them."""


def check_options(options: BenchOptions) -> None:
    """Trust the plugins, register the user's own files, and check what can be checked without data.

    Raises:
        BadInput: an option is invalid, or contradicts another.
    """
    trust(options.plugins)
    if options.seeds is not None and options.seeds < 1:
        raise BadInput(f"SEEDS is {options.seeds}; give the number of seeds, at least 1")
    for key, variable in GIVEN_ELSEWHERE.items():
        if key in options.overrides:
            raise BadInput(f"--set {key} has no effect in a bench; set {variable} instead")
    check_preset(options.preset)
    if named_mode(options.wandb) == "off" and options.wandb_live == "1":
        raise BadInput("WANDB_LIVE=1 has no effect because W&B is off; leave it out, or set WANDB=offline")
    if named_mode(options.wandb) == "off" and options.wandb_media == "1":
        raise BadInput("WANDB_MEDIA=1 has no effect because W&B is off; leave it out, or set WANDB=offline")
    check_reference(options.reference)
    if options.methods not in experiments.names("suites"):
        method_names(options.methods)
    if options.dataset:
        experiments.dataset_settings(dataset_name(options.dataset), options.data_root)


def check_preset(word: str) -> None:
    """Raise BadInput if PRESET is neither a preset nor ``auto``."""
    known = [*experiments.PRESETS, "auto"]
    if word not in known:
        raise BadInput(f"preset '{word}' is unknown{nearest(word, known)}")


def _is_file(word: str) -> bool:
    """Whether a word is the path of a YAML file rather than a name."""
    return word.endswith((".yaml", ".yml"))


def dataset_name(word: str) -> str:
    """The name of a data set given by its name or by a file."""
    return experiments.name_of("datasets", word)


def method_names(methods: str) -> list[str]:
    """The methods that METHODS names, if it is not a suite.

    Raises:
        BadInput: one is unknown, cannot be combined with others, or is an unusable file.
    """
    if methods == "default":
        return experiments.default_methods()
    if methods == "all":
        return experiments.names("methods")
    chosen = [word.strip() for word in methods.split(",") if word.strip()]
    if not chosen:
        raise BadInput("METHODS is empty; give comma-separated names, default, all, or a suite")
    suites = experiments.names("suites")
    files = [os.path.realpath(word) for word in chosen if _is_file(word)]
    stems = {os.path.splitext(os.path.basename(path))[0] for path in files}
    if len(stems) < len(set(files)):
        raise BadInput(f"METHODS is '{methods}', but two of its files have the same name; rename one of them")
    # Register all files first: one may be the base of another.
    named = [experiments.name_of("methods", word) for word in chosen]
    known = experiments.names("methods")
    for name in named:
        if name in (*suites, "default", "all"):
            raise BadInput(
                f"METHODS is '{methods}', but '{name}' cannot be combined; list the methods one by one"
            )
        if name not in known:
            raise BadInput(f"method '{name}' is unknown{nearest(name, [*known, *suites, 'default', 'all'])}")
    return list(dict.fromkeys(named))
