"""The command line, `crossmodal-bench`: one parser; heavy imports happen in the subcommand that is run."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmodal_bench import __version__
from crossmodal_bench.errors import BadInput, Diverged
from crossmodal_bench.files import parse_yaml

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 75


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 some job failed; 2 bad input; 75 interrupted, run the same command again.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["fit"], ["test"]):
        return _guarded(lambda: _lightning(words))
    arguments = _parser().parse_args(words)
    return _guarded(lambda: arguments.run(arguments))


def _guarded(run: Any) -> int:
    _quiet()
    try:
        return int(run())
    except (BadInput, Diverged) as error:
        print(f"crossmodal-bench: {error}", file=sys.stderr)
        return BAD_INPUT if isinstance(error, BadInput) else FAILED
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to go on.", file=sys.stderr)
        return INTERRUPTED


def _quiet() -> None:
    """Libraries' advice to developers is not for this program's users."""
    import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torchmetrics|jsonargparse")
    # Lightning sets its loggers' levels when it is imported, which is later.
    logging.disable(logging.INFO)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossmodal-bench",
        description="Train, evaluate and rank image-text matching methods.",
        epilog="fit and test are Lightning's command line for one configuration: fit --config FILE.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run, text in (
        ("bench", _bench, "train and rank methods; run again to go on"),
        ("status", _status, "show every job of a bench and its state"),
    ):
        command = commands.add_parser(name, help=text)
        _bench_options(command)
        command.set_defaults(run=run)
        if name == "bench":
            command.add_argument(
                "--check-chance", action="store_true", help="fail where a model is not clearly above chance"
            )
    command = commands.add_parser("ensemble", help="rank by the summed similarities of finished jobs' models")
    command.add_argument(
        "records", nargs="+", type=Path, metavar="RECORD", help="a job's directory, or its record.json"
    )
    command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the records (runs)")
    command.add_argument(
        "--data-root", type=Path, default=Path("data"), help="folder of the data sets (data)"
    )
    command.add_argument("--wandb", default="auto", help="auto, online, offline or off")
    command.set_defaults(run=_ensemble)
    command = commands.add_parser(
        "report", help="write the leaderboard of all records as Markdown, CSV and HTML"
    )
    command.add_argument("--runs", type=Path, default=Path("runs"))
    command.set_defaults(run=_report)
    command = commands.add_parser("prepare", help="check a data set's files and print what they hold")
    _data_options(command)
    command.add_argument("--min-count", type=int, default=4, help="vocabulary cut-off")
    command.add_argument("--network", default=None, help="also extract this image network's features")
    command.add_argument("--weights", default="auto", help="that network's weights, as for extract")
    command.set_defaults(run=_prepare)
    command = commands.add_parser(
        "extract", help="image features, or regions, of a frozen network, kept for later runs"
    )
    _data_options(command)
    command.add_argument(
        "--network", default=None, help="vgg19, resnet152, mobilenet_v2 (the default of a grid), ..."
    )
    command.add_argument(
        "--regions",
        choices=("grid", "detector"),
        default=None,
        help="36 regions per image: cells of the network's last map, or boxes of Faster R-CNN",
    )
    command.add_argument(
        "--weights", default="auto", help="PATH, DEFAULT, none, or auto (DATA_ROOT/weights/<network>_*.pth)"
    )
    command.add_argument("--image-size", type=int, default=None, help="pixels of a side (224)")
    command.add_argument("--batch-size", type=int, default=None, help="images at a time (32)")
    command.add_argument("--device", default="auto")
    command.set_defaults(run=_extract)
    for name in ("fit", "test"):
        commands.add_parser(
            name, help=f"{name} one configuration with Lightning's command line", add_help=False
        )
    return parser


def _data_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("dataset", metavar="DATASET")
    command.add_argument("--data-root", type=Path, default=Path("data"))
    command.add_argument("--runs", type=Path, default=Path("runs"), help="its cache/ keeps features")
    command.add_argument("--on-bad-image", choices=("fail", "skip"), default="fail")


def _bench_options(command: argparse.ArgumentParser) -> None:
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
    command.add_argument("--devices", default="auto", help="auto, cpu, or a number")
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


def _options(arguments: argparse.Namespace) -> Any:
    from crossmodal_bench.bench.plan import BenchOptions

    if arguments.devices not in ("auto", "cpu") and not (
        arguments.devices.isdigit() and int(arguments.devices) > 0
    ):
        raise BadInput(f"DEVICES is '{arguments.devices}'; give auto, cpu or a number from 1")
    overrides = {}
    for word in arguments.overrides:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"--set {word} is not KEY=VALUE; write for example --set trainer.max_epochs=5")
        try:
            # YAML 1.1 takes 1e-3 for a word.
            number = re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value)
            overrides[key] = float(value) if number else parse_yaml(value)
        except ValueError as error:
            raise BadInput(
                f"--set {word}: '{value}' is not a YAML value ({error}); quote it, or close its brackets"
            ) from error
    names = (
        "dataset",
        "data_root",
        "methods",
        "seeds",
        "preset",
        "runs",
        "devices",
        "wandb",
        "network",
        "weights",
    )
    return BenchOptions(
        **{name: getattr(arguments, name) for name in names},
        rerun=arguments.rerun,
        on_bad_image=arguments.on_bad_image,
        overrides=overrides,
    )


def _bench(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.bench import runner

    options = _options(arguments)
    runner.check_writable(options)
    return runner.bench(options, check_chance=arguments.check_chance)


def _status(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.bench import runner

    return runner.status(_options(arguments))


def _ensemble(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.bench import ensemble, wandb
    from crossmodal_bench.bench.report import print_leaderboard

    mode = wandb.resolve_mode(arguments.wandb)
    planned = ensemble.plan_ensemble(ensemble.read_members(arguments.records), arguments.runs)
    record = planned.existing()
    if record is not None:
        print(f"{record.directory} is there already, of exactly these models")
    else:
        record = ensemble.run_ensemble(planned, arguments.data_root, arguments.runs / "cache")
        warning = wandb.log_record(record, record.directory, mode)
        print(warning or f"Record: {record.directory}")
    print_leaderboard([record])
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.bench.report import build_report

    if not arguments.runs.is_dir():
        raise BadInput(
            f"{arguments.runs} is missing; run crossmodal-bench bench first, or name the folder with --runs"
        )
    report = build_report(arguments.runs)
    print(f"Report: {', '.join(str(path) for path in report.files)}")
    return 0


def _prepare(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.data.prepare import extract, prepare

    data = _data_module(arguments, arguments.network, arguments.weights)
    for line in prepare(data, arguments.min_count):
        print(line)
    if arguments.network is not None:
        print(f"  features {extract(data)}")
    return 0


def _extract(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.data.prepare import extract

    if arguments.regions == "detector":
        for name in ("network", "image_size", "batch_size"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"{option} has no effect on a detector; leave it out")
    elif arguments.network is None and arguments.regions is None:
        raise BadInput("--network is missing; name the network to run, e.g. --network mobilenet_v2")
    network = arguments.network or ("mobilenet_v2" if arguments.regions == "grid" else None)
    data = _data_module(arguments, network, arguments.weights, arguments.image_size or 224)
    data.regions = arguments.regions or "auto"
    print(extract(data, arguments.batch_size or 32, arguments.device))
    return 0


def _data_module(
    arguments: argparse.Namespace, network: str | None = None, weights: str = "auto", size: int = 224
) -> Any:
    from crossmodal_bench.bench import experiments
    from crossmodal_bench.training import instantiate

    settings = experiments.dataset_settings(arguments.dataset, arguments.data_root)
    variant = next(iter(experiments.protocols_of(settings).values()))
    config = experiments.merge({"data": settings["data"]}, variant)
    config["data"].update(
        root=str(arguments.data_root),
        cache=str(arguments.runs / "cache"),
        network=network,
        weights=weights,
        image_size=size,
        on_bad_image=arguments.on_bad_image,
    )
    config["model"] = {"class_path": "crossmodal_bench.methods.CCA"}
    return instantiate({**config, "seed_everything": 0}, accelerator="cpu", devices=1).datamodule


def _lightning(words: list[str]) -> int:
    from crossmodal_bench.training import command_line

    command_line(words)
    return 0
