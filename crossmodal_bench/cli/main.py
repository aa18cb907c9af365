"""The command line, `crossmodal-bench`: one parser; heavy imports happen in the subcommand that is run."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmodal_bench import __version__
from crossmodal_bench.bench.options import add_options, read_options
from crossmodal_bench.cli import commands as actions
from crossmodal_bench.core.errors import BadInput, Diverged
from crossmodal_bench.core.signals import AGAIN, Interrupted

FAILED, BAD_INPUT = 1, 2


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
    except (KeyboardInterrupt, Interrupted):
        print("Interrupted. Run the same command again to go on.", file=sys.stderr)
        return AGAIN


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
        add_options(command)
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
    command.set_defaults(run=actions.ensemble)
    command = commands.add_parser(
        "report", help="write the leaderboard of all records as Markdown, CSV and HTML"
    )
    command.add_argument("--runs", type=Path, default=Path("runs"))
    command.set_defaults(run=actions.report)
    command = commands.add_parser("prepare", help="check a data set's files and print what they hold")
    _data_options(command)
    command.add_argument("--min-count", type=int, default=4, help="vocabulary cut-off")
    command.add_argument("--network", default=None, help="also extract this image network's features")
    command.add_argument("--weights", default="auto", help="that network's weights, as for extract")
    command.set_defaults(run=actions.prepare)
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
    command.set_defaults(run=actions.extract)
    command = commands.add_parser(
        "doctor", help="say what this machine can do, what is missing, and each fix"
    )
    command.add_argument(
        "--data-root", type=Path, default=Path("data"), help="folder of the data sets (data)"
    )
    command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the records (runs)")
    command.add_argument(
        "--dataset",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="look at these, for all methods",
    )
    command.add_argument("--json", action="store_true", help="print findings for programs")
    command.set_defaults(run=actions.doctor)
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


def _bench(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.bench import runner

    options = read_options(arguments)
    runner.check_writable(options)
    return runner.bench(options, check_chance=arguments.check_chance)


def _status(arguments: argparse.Namespace) -> int:
    from crossmodal_bench.bench import runner

    return runner.status(read_options(arguments))


def _lightning(words: list[str]) -> int:
    from crossmodal_bench.training.lightning_cli import command_line

    command_line(words)
    return 0
