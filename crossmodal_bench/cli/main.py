"""The command line, `crossmodal-bench`: one parser; heavy imports happen in the subcommands."""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from crossmodal_bench import __version__
from crossmodal_bench.bench.options import NAMES, BenchOptions, add_options, plugin_names, read_options
from crossmodal_bench.cli import commands as actions
from crossmodal_bench.cli import dashboards, trained
from crossmodal_bench.cli import evaluate as given
from crossmodal_bench.cli import listing as lists
from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.core.errors import BadInput, Diverged, no_permission, out_of_memory, tell
from crossmodal_bench.core.file_locks import switch_off
from crossmodal_bench.core.signals import AGAIN, Interrupted, listening
from crossmodal_bench.reporting.formats import FORMATS, QUERIES

FAILED = 1
BAD_INPUT = 2
UNREAD = 141
"""The shell's exit status for a program ended by SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: its arguments; None for those of the process, which then ends with the command.

    Returns:
        0; 1 if a job failed; 2 for bad input; 75 if interrupted: run the same command again; 141 if the
        reader of the output has gone, as with ``| head``.
    """
    with listening() as request:
        try:
            status = _written(list(sys.argv[1:] if argv is None else argv))
            if argv is None:
                # Only Python's own shutdown is left, which a signal must not break.
                for number in request.signals:
                    signal.signal(number, signal.SIG_IGN)
            return status
        except Interrupted:
            # Before the command started, or while its last output was being written.
            _say_how_to_go_on()
            return AGAIN


def _written(words: list[str]) -> int:
    """The command's status, after all of its output has been flushed."""
    try:
        try:
            if words[:1] in (["fit"], ["test"]):
                return _guarded(lambda: _lightning(words))
            arguments = _parser().parse_args(words)
            if getattr(arguments, "locks", "on") == "off":
                switch_off()
            return _guarded(lambda: int(arguments.run(arguments)))
        finally:
            # Flush here, so that a closed pipe or full disk shows up now and not when Python exits.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        _drop_output()
        return UNREAD
    except OSError as error:
        # Errors of files we write carry a file name; errors of standard output do not.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _drop_output()
        tell("crossmodal-bench: the output's disk is full; free space there, or redirect it", sys.stderr)
        return BAD_INPUT


def _drop_output() -> None:
    """Discard further output: Python would otherwise report the error again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _output_is_closed() -> bool:
    """Whether the reader of the output has gone; the broken pipe may also be another one."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _guarded(run: Callable[[], int]) -> int:
    _quiet()
    try:
        return run()
    except PermissionError as error:
        tell(f"crossmodal-bench: {no_permission(error)}", sys.stderr)
        return BAD_INPUT
    except (BadInput, Diverged) as error:
        tell(f"crossmodal-bench: {error}", sys.stderr)
        return BAD_INPUT if isinstance(error, BadInput) else FAILED
    except SyntaxError as error:
        # A user's module under development, imported with its package.
        tell(
            f"crossmodal-bench: {error.filename}, line {error.lineno}: {error.msg}; fix that line",
            sys.stderr,
        )
        return BAD_INPUT
    except (KeyboardInterrupt, Interrupted):
        _say_how_to_go_on()
        return AGAIN
    except Exception as error:
        sentence = out_of_memory(error)
        if sentence is None:
            raise
        tell(f"crossmodal-bench: {sentence}", sys.stderr)
        return FAILED


def _say_how_to_go_on() -> None:
    print("Interrupted. Run the same command again to resume.", file=sys.stderr)


def _quiet() -> None:
    """Silence libraries' advice to developers, which is of no use to this program's users."""
    import logging

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torchmetrics|jsonargparse")
    # Lightning sets its loggers' levels when it is imported later.
    logging.disable(logging.INFO)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="crossmodal-bench",
        description="Train, evaluate and rank image-text matching methods.",
        epilog="fit and test run Lightning's command line on one configuration: fit --config FILE.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    bench = _command(commands, "bench", _bench, "train and rank methods; run again to resume", NAMES)
    bench.add_argument(
        "--check-chance", action="store_true", help="fail if a model is not clearly above chance"
    )
    status = _command(commands, "status", _status, "show every job of a bench and its state", NAMES)
    status.add_argument("--json", action="store_true", help="print JSON")

    text = "rank by the summed similarities of finished jobs' models"
    ensemble = _command(
        commands, "ensemble", actions.ensemble, text, ("data_root", "runs", "locks", "wandb", "plugins")
    )
    text = "a job's directory, or its record.json"
    ensemble.add_argument("records", nargs="+", type=Path, metavar="RECORD", help=text)

    text = "rank your own model by its vectors or scores, as a row alongside the bench's"
    given.add_arguments(_command(commands, "evaluate", given.evaluate, text, ("runs", "locks")))

    text = "print the leaderboard of all records, and write it to RUNS/report/"
    report = _command(commands, "report", actions.report, text, ("data_root", "runs", "reference"))
    text = f"only these formats: {', '.join(FORMATS)}"
    report.add_argument("--format", nargs="+", action="extend", default=[], metavar="FORMAT", help=text)
    text = "single queries: some in the page (embedded), or also all of them, in RUNS/report/queries/ (all)"
    report.add_argument("--queries", choices=QUERIES, default=QUERIES[0], help=text)

    report.add_argument("--json", action="store_true", help="print every number of the tables as JSON")

    _add_run_commands(commands)
    _add_trained_run_commands(commands)
    text = "send every finished run to W&B that is missing or outdated there"
    dashboards.add_sync_arguments(_command(commands, "sync", dashboards.sync, text, ("runs",)))
    text = "build W&B's dashboard of all runs: leaderboards, curves, costs, pictures"
    dashboards.add_report_arguments(
        _command(commands, "wandb-report", dashboards.wandb_report, text, ("runs",))
    )

    text = "list what is available, one line each"
    listing = _command(commands, "list", lists.list_all, text, ("data_root",))
    listing.add_argument("kind", metavar="KIND", help=f"{', '.join(lists.KINDS)}")
    listing.add_argument("--json", action="store_true", help="print JSON")

    of_data = ("data_root", "runs", "on_bad_image", "plugins")
    text = "check a data set's files and print their contents"
    prepare = _command(commands, "prepare", actions.prepare, text, of_data)
    prepare.add_argument("dataset", metavar="DATASET")
    prepare.add_argument("--min-count", type=int, default=4, help="vocabulary cut-off")
    prepare.add_argument("--network", help="also extract features with this image network")
    prepare.add_argument("--weights", default="auto", help="that network's weights, as for extract")

    text = "extract image features or regions with a frozen network, for later runs"
    extract = _command(commands, "extract", actions.extract, text, of_data)
    extract.add_argument("dataset", metavar="DATASET")
    extract.add_argument("--network", help="vgg19, resnet152, mobilenet_v2 (the default of a grid), ...")
    text = "36 regions per image: cells of the network's last map, or boxes of Faster R-CNN"
    extract.add_argument("--regions", choices=("grid", "detector"), help=text)
    text = "PATH, IMAGENET1K_V1, DEFAULT, none, or auto (DATA_ROOT/weights/<network>_*.pth)"
    extract.add_argument("--weights", default="auto", help=text)
    extract.add_argument("--image-size", type=int, help="side length in pixels (224)")
    extract.add_argument("--batch-size", type=int, help="images per batch (32)")
    extract.add_argument("--device", default="auto", help="auto, cpu or cuda")

    text = "convert regions extracted elsewhere (bottom-up TSV, or one .npz per image) to the mapped format"
    importing = _command(commands, "import-regions", actions.import_regions, text, of_data)
    importing.add_argument("dataset", metavar="DATASET")
    text = "TSV files, or folders of .npz or .npy files named after the images"
    importing.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help=text)
    text = "number of regions to keep per image, from the first (as many as the first image has)"
    importing.add_argument("--count", type=int, help=text)

    text = "check what this machine can do, what is missing, and how to fix it"
    doctor = _command(commands, "doctor", actions.doctor, text, ("data_root", "runs"))
    text = "check only these, for all methods"
    doctor.add_argument("--dataset", nargs="+", action="extend", default=[], metavar="NAME", help=text)
    doctor.add_argument("--json", action="store_true", help="print findings as JSON")

    for name in ("fit", "test"):
        text = f"{name} one configuration with Lightning's command line"
        commands.add_parser(name, help=text, add_help=False)
    return parser


def _add_run_commands(commands: Any) -> None:
    """Commands for finished runs, your own and those in ``results/``."""
    run = "a job's directory or record.json, or DATASET/METHOD in RUNS or results: a row with all its seeds"

    text = "compare two runs or rows: every metric with interval and p, and queries whose winner differs"
    compare = _command(commands, "compare", actions.compare, text, ("data_root", "runs"))
    compare.add_argument("first", metavar="RUN", help=run)
    compare.add_argument("second", metavar="RUN", help="the same, for the second")
    compare.add_argument("--examples", type=int, default=3, help="example queries per direction (3)")
    compare.add_argument("--json", action="store_true", help="print JSON")

    text = "prepare the folder for a pull request: checked record, ranks and configuration, without weights"
    submit = _command(commands, "submit", actions.submit, text, ("runs",))
    submit.add_argument("names", nargs="*", metavar="RUN", help=run)
    text = "all finished jobs of this suite, as run by bench --methods SUITE"
    submit.add_argument("--suite", metavar="SUITE", help=text)
    submit.add_argument("--to", type=Path, default=Path("results"), help="folder of the results (results)")

    text = "rerun a row, and report whether it is equal to the digit, agrees, or differs"
    reproduce = _command(commands, "reproduce", actions.reproduce, text, ("data_root", "plugins"))
    reproduce.add_argument("name", metavar="RUN", help=run)
    for what in ("method", "dataset"):
        text = f"the {'data set' if what == 'dataset' else what}'s YAML file, if it is your own"
        reproduce.add_argument(f"--{what}", metavar="FILE", help=text)
    text = "folder of the new records (reproduced)"
    reproduce.add_argument("--runs", type=Path, default=Path("reproduced"), help=text)
    reproduce.add_argument("--devices", help="as for bench (default: as recorded)")
    reproduce.add_argument("--threads", type=int, help="threads per process (default: as recorded)")
    reproduce.add_argument("--json", action="store_true", help="print JSON")


def _add_trained_run_commands(commands: Any) -> None:
    """Commands that use the model of a finished run."""
    of_model = ("data_root", "runs", "plugins")
    text = "search with a finished run: images that match a sentence, or sentences that match a picture"
    trained.add_retrieve_arguments(_command(commands, "retrieve", trained.retrieve, text, of_model))
    text = "export a run's vectors of its test split, with ids, as NumPy or Parquet"
    embeddings = _command(commands, "export-embeddings", trained.export_embeddings, text, of_model)
    trained.add_export_arguments(embeddings, "embeddings")
    embeddings.add_argument("--format", default="npy", help="npy, or parquet (needs pyarrow) (npy)")
    text = "export a run's model: weights as safetensors, preprocessing, and a model card"
    weights = _command(commands, "export-weights", trained.export_weights, text, of_model)
    trained.add_export_arguments(weights, "weights")


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, shared: Collection[str]
) -> argparse.ArgumentParser:
    """Add a command; ``shared``: its options that it has in common with a bench."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text)
    command.set_defaults(run=run)
    add_options(command, shared)
    return command


def _bench(arguments: argparse.Namespace) -> int:
    options = _checked_options(arguments)
    from crossmodal_bench.bench import runner

    runner.check_writable(options)
    return runner.bench(options, check_chance=arguments.check_chance)


def _status(arguments: argparse.Namespace) -> int:
    options = _checked_options(arguments)
    from crossmodal_bench.bench import runner

    return runner.status(options, machine_readable=arguments.json)


def _checked_options(arguments: argparse.Namespace) -> BenchOptions:
    """The options of a bench; mistakes are reported before torch is imported, which takes seconds."""
    from crossmodal_bench.bench.option_checks import check_options

    options = read_options(arguments)
    check_options(options)
    return options


def _lightning(arguments: list[str]) -> int:
    # Lightning's own parser does not know --plugins, and takes everything else.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_options(parser, ("plugins",))
    known, others = parser.parse_known_args(arguments)
    trust(plugin_names(known.plugins))
    from crossmodal_bench.training.lightning_cli import command_line

    command_line(others)
    return 0
