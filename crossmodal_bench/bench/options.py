"""The words of a bench, and how they are read from a command line; imports nothing that takes time."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import parse_yaml

LAUNCHERS = ("local", "slurm")


@dataclass(frozen=True)
class BenchOptions:
    """The words of `crossmodal-bench bench`; the same names in capitals are the variables of `make bench`."""

    dataset: str | None = None
    data_root: Path = Path("data")
    methods: str = "default"
    seeds: int | None = None
    preset: str = "auto"
    runs: Path = Path("runs")
    devices: str = "auto"
    jobs: int | None = None
    launcher: str = "local"
    slurm: dict[str, Any] = field(default_factory=dict)
    wandb: str = "auto"
    network: str | None = None
    weights: str | None = None
    rerun: str | None = None
    on_bad_image: str = "fail"
    overrides: dict[str, Any] = field(default_factory=dict)


def add_options(command: argparse.ArgumentParser) -> None:
    """The options of ``bench`` and ``status``."""
    command.add_argument(
        "--dataset", default=None, help="synthetic (default), a data set's name, or a folder's"
    )
    command.add_argument(
        "--data-root", type=Path, default=Path("data"), help="folder of the data sets (data)"
    )
    command.add_argument(
        "--methods", default="default", help="names with commas between, default, all, or a suite"
    )
    command.add_argument("--seeds", type=int, default=None, help="how many seeds, from 0")
    command.add_argument("--preset", default="auto", help="smoke, small, paper, controlled or auto")
    command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the records (runs)")
    command.add_argument("--devices", default="auto", help="of one job: auto (one), cpu, or a number")
    command.add_argument(
        "--jobs",
        type=int,
        default=None,
        help="jobs at a time (as many as the GPUs are enough for; 1 on a CPU)",
    )
    command.add_argument(
        "--launcher", choices=LAUNCHERS, default="local", help="where jobs run: here (local), or on a cluster"
    )
    command.add_argument(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="options of the cluster's sbatch, e.g. partition=gpu, time=600, gpus_per_node=4; or a YAML file",
    )
    command.add_argument("--wandb", default="auto", help="auto, online, offline or off")
    command.add_argument("--network", default=None, help="image network whose features are used")
    command.add_argument("--weights", default=None, help="that network's weights: PATH, DEFAULT or none")
    command.add_argument(
        "--rerun", choices=("stale",), default=None, help="run jobs again whose data or sources changed"
    )
    command.add_argument("--on-bad-image", choices=("fail", "skip"), default="fail")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a configuration value, e.g. trainer.max_epochs=5",
    )


def read_options(arguments: argparse.Namespace) -> BenchOptions:
    """The words of a parsed command line; BadInput where they are none."""
    if arguments.devices not in ("auto", "cpu") and not (
        arguments.devices.isdigit() and int(arguments.devices) > 0
    ):
        raise BadInput(f"DEVICES is '{arguments.devices}'; give auto, cpu or a number from 1")
    if arguments.jobs is not None and arguments.jobs < 1:
        raise BadInput(f"JOBS is {arguments.jobs}; give how many jobs run at a time, at least 1")
    if arguments.slurm and arguments.launcher != "slurm":
        raise BadInput(f"SLURM has no effect with LAUNCHER={arguments.launcher}; set LAUNCHER=slurm too")
    content = {**vars(arguments), "slurm": _slurm(arguments.slurm), "overrides": _pairs(arguments.overrides)}
    return BenchOptions(**{name: content[name] for name in BenchOptions.__dataclass_fields__})


def _pairs(words: Sequence[str]) -> dict[str, Any]:
    return dict(_pair(word, "--set", "trainer.max_epochs=5") for word in words)


def _pair(word: str, option: str, example: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals or not key:
        raise BadInput(f"{option} {word} is not KEY=VALUE; write for example {option} {example}")
    try:
        # YAML 1.1 takes 1e-3 for a word.
        number = re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value)
        return key, float(value) if number else parse_yaml(value)
    except ValueError as error:
        raise BadInput(
            f"{option} {word}: '{value}' is not a YAML value; quote it, or close its brackets"
        ) from error


def _slurm(words: Sequence[str]) -> dict[str, Any]:
    """Pairs and files, of which later ones win; one word may hold several, with spaces between."""
    found: dict[str, Any] = {}
    for word in (part for given in words for part in shlex.split(given)):
        key, equals, value = word.partition("=")
        if equals and not (key and value):
            raise BadInput(f"--slurm {word} is not KEY=VALUE; write for example --slurm partition=gpu")
        content = {key: value} if equals else _file(word)
        found |= {str(name).replace("-", "_"): _value(one) for name, one in content.items()}
    return found


def _file(name: str) -> dict[str, Any]:
    try:
        # Every value as it is written: YAML 1.1 would take 2:00:00 for 7200.
        content = yaml.load(Path(name).read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise BadInput(f"--slurm {name} cannot be read ({reason}); give KEY=VALUE or a YAML file") from error
    if not isinstance(content, dict):
        raise BadInput(f"--slurm {name} holds no keys; write for example partition: gpu")
    return content


def _value(written: Any) -> Any:
    if written == "true":
        return True
    return int(written) if isinstance(written, str) and written.isdigit() else written
