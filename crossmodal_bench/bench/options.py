"""The options of a bench, and how they are read from a command line; imports nothing slow."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import parse_yaml

RERUN = ("stale", "resume-anyway")
"""What to do with jobs whose data or sources have changed: run them again, or resume their checkpoints."""


def option(
    help: str,
    default: Any,
    choices: tuple[str, ...] | None = None,
    flag: str | None = None,
    alone: str | None = None,
) -> Any:
    """A field that is an option of the command line.

    Args:
        help: one line of `--help`, without the default.
        default: its value if not given.
        choices: the values it may have, if there are only a few.
        flag: its name on the command line; None: the field's own, which is then also a variable of `make`.
        alone: its value if given without one; None: a value is required.
    """
    metadata = {"help": help, "choices": choices, "flag": flag, "alone": alone}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class BenchOptions:
    """The options of `crossmodal-bench bench`; in capitals, the same names are the variables of `make bench`.

    The Makefile reads its variables and their help from these lines before any Python is installed, so each
    option must be on one line with its help first.
    """

    dataset: str | None = option("synthetic (default), a data set's name, a folder, or a YAML file", None)
    data_root: Path = option("folder of the data sets", Path("data"))
    methods: str = option("comma-separated names or YAML files; or default, all, or a suite", "default")
    plugins: tuple[str, ...] = option("trusted packages with methods of your own, comma-separated", ())
    seeds: int | None = option("number of seeds, counted from 0", None)
    preset: str = option("smoke, small, paper, tuned, or auto: chosen by the devices", "auto")
    runs: Path = option("folder of the records, reports and extracted features", Path("runs"))
    devices: str = option("devices per job: auto (one), cpu, or a number", "auto")
    jobs: int | None = option("jobs at a time (as many as fit on the GPUs; on a CPU at most 4)", None)
    launcher: str = option("where jobs run: here, or as jobs of a cluster", "local", ("local", "slurm"))
    slurm: dict[str, Any] = option("options for sbatch: partition=gpu time=600 ..., or a YAML file", {})
    wandb: str = option("Weights & Biases: auto (online when logged in), online, offline or off", "auto")
    wandb_live: str = option("1: show curves in W&B while jobs run", "0", ("0", "1"), alone="1")
    wandb_media: str = option("1: send captions and pictures of any data to W&B", "0", ("0", "1"), alone="1")
    network: str | None = option("image network that extracts the features", None)
    weights: str | None = option("that network's weights: PATH, IMAGENET1K_V1, DEFAULT or none", None)
    text: str | None = option("dual encoder for the captions: hf:NAME, or same", None)
    rerun: str | None = option("stale: run stale jobs again; resume-anyway: docs/stopping.md", None, RERUN)
    locks: str = option("off: lock nothing in RUNS, for a disk without locks", "on", ("on", "off"))
    reference: str = option("reference rows: auto (the checkout's results), off, or a folder", "auto")
    on_bad_image: str = option("if an image cannot be decoded: fail, or skip it", "fail", ("fail", "skip"))
    overrides: dict[str, Any] = option("a configuration value, e.g. trainer.max_epochs=5", {}, flag="--set")


NAMES = tuple(entry.name for entry in fields(BenchOptions))


def add_options(command: argparse.ArgumentParser, names: Collection[str] = NAMES) -> None:
    """Add options of BenchOptions: all for ``bench`` and ``status``, or those another command shares."""
    types = get_type_hints(BenchOptions)
    for entry in fields(BenchOptions):
        if entry.name not in names:
            continue
        flag = entry.metadata["flag"] or f"--{entry.name.replace('_', '-')}"
        text = entry.metadata["help"]
        default = entry.default
        kind = types[entry.name]
        if get_origin(kind) is dict:
            command.add_argument(
                flag, dest=entry.name, action="append", default=[], metavar="KEY=VALUE", help=text
            )
        elif get_origin(kind) is tuple:
            command.add_argument(
                flag, dest=entry.name, action="append", default=[], metavar="PACKAGE", help=text
            )
        else:
            command.add_argument(
                flag,
                type=get_args(kind)[0] if get_args(kind) else kind,
                default=default,
                choices=entry.metadata["choices"],
                nargs=None if entry.metadata["alone"] is None else "?",
                const=entry.metadata["alone"],
                help=text if default is None else f"{text} ({default})",
            )


def read_options(arguments: argparse.Namespace) -> BenchOptions:
    """The options of a parsed command line; BadInput if they are invalid."""
    check_devices(arguments.devices)
    if arguments.jobs is not None and arguments.jobs < 1:
        raise BadInput(f"JOBS is {arguments.jobs}; give the number of jobs to run at a time, at least 1")
    if arguments.slurm and arguments.launcher != "slurm":
        raise BadInput(f"SLURM has no effect with LAUNCHER={arguments.launcher}; set LAUNCHER=slurm too")
    overrides = dict(_override(pair) for pair in arguments.overrides)
    content = {
        **vars(arguments),
        "slurm": _slurm(arguments.slurm),
        "overrides": overrides,
        "plugins": plugin_names(arguments.plugins),
    }
    return BenchOptions(**{name: content[name] for name in NAMES})


def plugin_names(words: Sequence[str]) -> tuple[str, ...]:
    """The packages named by repeated ``--plugins``, each of which may list several."""
    return tuple(dict.fromkeys(name.strip() for word in words for name in word.split(",")))


def check_devices(word: str) -> None:
    """Raise BadInput if DEVICES is not a valid value."""
    if word not in ("auto", "cpu") and not (word.isdigit() and int(word) > 0):
        raise BadInput(f"DEVICES is '{word}'; give auto, cpu or a positive number")


def _override(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if not equals or not key:
        raise BadInput(f"--set {pair} is not KEY=VALUE; write e.g. --set trainer.max_epochs=5")
    try:
        # YAML 1.1 reads 1e-3 as a string.
        number = re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value)
        return key, float(value) if number else parse_yaml(value)
    except ValueError as error:
        raise BadInput(
            f"--set {pair}: '{value}' is not a YAML value; quote it, or close its brackets"
        ) from error


def _slurm(words: Sequence[str]) -> dict[str, Any]:
    """Pairs and files, later ones taking precedence; one word may hold several separated by spaces."""
    options: dict[str, Any] = {}
    for word in (part for given in words for part in shlex.split(given)):
        key, equals, value = word.partition("=")
        if equals and not (key and value):
            raise BadInput(f"--slurm {word} is not KEY=VALUE; write e.g. --slurm partition=gpu")
        content = {key: value} if equals else _file(word)
        options |= {str(name).replace("-", "_"): _value(written) for name, written in content.items()}
    return options


def _file(name: str) -> dict[str, Any]:
    try:
        # Keep every value as written: YAML 1.1 would read 2:00:00 as 7200.
        content = yaml.load(Path(name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise BadInput(f"--slurm {name} cannot be read ({reason}); give KEY=VALUE or a YAML file") from error
    if not isinstance(content, dict):
        raise BadInput(f"--slurm {name} contains no keys; write e.g. partition: gpu")
    return content


def _value(written: Any) -> Any:
    if written == "true":
        return True
    return int(written) if isinstance(written, str) and written.isdigit() else written
