"""Commands that neither plan nor run a bench; each does its own heavy imports."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

from crossmodal_bench.bench.options import check_devices, plugin_names
from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.core.errors import BadInput, tell, warn_once


def ensemble(arguments: argparse.Namespace) -> int:
    """Rank by the summed similarities of finished jobs' models."""
    trust(plugin_names(arguments.plugins))
    from crossmodal_bench.bench import ensembles
    from crossmodal_bench.reporting.report import print_leaderboard
    from crossmodal_bench.reporting.wandb.mode import resolve_mode
    from crossmodal_bench.reporting.wandb.sender import send_to_wandb
    from crossmodal_bench.reporting.wandb.state import conclusion

    began = time.time()
    mode = resolve_mode(arguments.wandb)
    planned = ensembles.plan_ensemble(ensembles.read_members(arguments.records), arguments.runs)
    record = planned.existing()
    if record is not None:
        tell(f"{record.directory} already exists, with exactly these models")
    else:
        record = ensembles.run_ensemble(planned, arguments.data_root, arguments.runs / "cache")
        warning = send_to_wandb(record, record.directory, mode)
        tell(warning or f"Record: {record.directory}")
    print_leaderboard([record])
    for sentence in conclusion([record], arguments.runs, began) if mode != "off" else ():
        tell(sentence)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Print and write the leaderboard of all records."""
    from crossmodal_bench.jobs.reference import reference_records
    from crossmodal_bench.reporting.formats import FORMATS, QUERIES
    from crossmodal_bench.reporting.report import build_report

    if arguments.json and (arguments.format or arguments.queries != QUERIES[0]):
        option = "--format" if arguments.format else "--queries"
        raise BadInput(f"{option} has no effect with --json, which writes no files; leave one of them out")
    if not arguments.runs.is_dir():
        raise BadInput(
            f"{arguments.runs} is missing; run crossmodal-bench bench first, or name the folder with --runs"
        )
    references = reference_records(arguments.reference)
    formats = arguments.format or FORMATS
    # Another user's records can still be viewed; an explicit request for a file fails.
    if not arguments.format and arguments.queries != "all" and not _is_writable(arguments.runs):
        formats = ("terminal",)
        warn_once(f"{arguments.runs} is not writable, so the report is printed but not saved")
    if arguments.json:
        return _print_report_json(arguments.runs, references)
    report = build_report(
        arguments.runs, formats, references, queries=arguments.queries, data_root=arguments.data_root
    )
    if report.files:
        tell(f"Report: {', '.join(str(path) for path in report.files)}")
    if report.queries:
        count = len(report.queries)
        tell(f"Queries: {count} file{'s' * (count != 1)} in {report.queries[0].parent}")
    return 0


def _print_report_json(runs: Path, references: Any) -> int:
    """Print the rows of the data frame as JSON, with null for unknown values; writes nothing."""
    import json

    from crossmodal_bench.reporting.table import frame, shown_tables

    known = frame(shown_tables(runs, references)).to_dict(orient="records")
    lines = [{str(name): _known(value) for name, value in line.items()} for line in known]
    print(json.dumps(lines, indent=1, allow_nan=False))
    return 0


def _known(value: Any) -> Any:
    """A data frame's value for JSON: None for NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_writable(runs: Path) -> bool:
    from crossmodal_bench.reporting.report import report_folder

    folder = report_folder(runs)
    return os.access(folder if folder.is_dir() else runs, os.W_OK | os.X_OK, effective_ids=True)


def compare(arguments: argparse.Namespace) -> int:
    """Print how two runs or rows differ."""
    import json

    from crossmodal_bench.jobs.reference import results_folder
    from crossmodal_bench.jobs.rows import row_of
    from crossmodal_bench.reporting.comparison.run_comparison import compare_rows, report_lines

    if arguments.examples < 0:
        raise BadInput(f"--examples is {arguments.examples}; give the number of queries to list, 0 or more")
    first, second = (
        row_of(name, [arguments.runs, results_folder()]) for name in (arguments.first, arguments.second)
    )
    comparisons = compare_rows(first, second, examples=arguments.examples, data_root=arguments.data_root)
    if arguments.json:
        print(json.dumps([comparison.plain() for comparison in comparisons], indent=1))
        return 0
    for comparison in comparisons:
        print("\n".join(report_lines(comparison)))
    return 0


def submit(arguments: argparse.Namespace) -> int:
    """Prepare the folder for a pull request."""
    from crossmodal_bench.jobs.rows import row_of, suite_rows
    from crossmodal_bench.jobs.submission import LARGEST, folder_size, submit

    if bool(arguments.names) == bool(arguments.suite):
        raise BadInput("submit takes runs, or --suite and a suite's name; give one of the two")
    if arguments.suite:
        records = suite_rows(arguments.suite, arguments.runs)
    else:
        records = [record for name in arguments.names for record in row_of(name, [arguments.runs])]
    unique = list({record.directory.resolve(): record for record in records}.values())
    for record, copy in zip(unique, submit(unique, arguments.to), strict=True):
        labels = " + ".join(part.protocol_label for part in record.by_protocol())
        split = "split verified" if copy.verified else "split UNVERIFIED: no published number is comparable"
        again = ", replacing an earlier run" if copy.replaced else ""
        tell(f"{copy.directory}: {labels}, seed {record.job.seed}, {split}{again}")
    size = folder_size(arguments.to)
    tell(
        f"{len(unique)} runs, every metric recomputed from the ranks; {arguments.to} has {size / 1e6:.1f} MB"
    )
    if size > LARGEST:
        raise BadInput(
            f"{arguments.to} has {size / 1e6:.1f} MB, but at most {LARGEST / 1e6:.0f} MB are accepted; "
            "submit fewer rows, or only the seeds that a table shows"
        )
    tell(
        f"Next: git add {arguments.to}, commit it with the table that shows the rows, and open a pull "
        "request that states the bench's command; tests/test_results.py will check the folder again."
    )
    return 0


def reproduce(arguments: argparse.Namespace) -> int:
    """Rerun a row; return 0 if it is equal or agrees, 1 if it differs."""
    import json
    from dataclasses import asdict

    from crossmodal_bench.bench.reproduction import Repetition, reproduce
    from crossmodal_bench.jobs import experiments
    from crossmodal_bench.jobs.reference import results_folder
    from crossmodal_bench.jobs.rows import row_of

    trust(plugin_names(arguments.plugins))
    if arguments.threads is not None and arguments.threads < 1:
        raise BadInput(f"--threads is {arguments.threads}; give a number, at least 1")
    check_devices(arguments.devices or "auto")
    records = row_of(arguments.name, [results_folder()])
    for kind, named, word in (
        ("methods", records[0].job.method, arguments.method),
        ("datasets", records[0].job.dataset, arguments.dataset),
    ):
        if word is not None and (given := experiments.name_of(kind, word)) != named:
            raise BadInput(f"{word} is {given}, but {records[0].directory} uses {named}; give its file")
    how = Repetition(
        arguments.runs,
        arguments.data_root,
        arguments.devices,
        arguments.threads,
        plugin_names(arguments.plugins),
    )
    log = (lambda line: tell(line, sys.stderr)) if arguments.json else tell
    agreements = reproduce(records, how, log)
    if arguments.json:
        content = [
            {"run": str(record.directory), **asdict(agreed)}
            for record, agreed in zip(records, agreements, strict=True)
        ]
        print(json.dumps(content, indent=1))
    else:
        for record, agreed in zip(records, agreements, strict=True):
            tell(f"{record.directory} (seed {record.job.seed}): {agreed.verdict}")
            for line in agreed.lines:
                tell(f"  {line}")
            if agreed.environment:
                tell(f"  environment differs: {'; '.join(agreed.environment)}")
    return int(any(agreed.verdict == "differs" for agreed in agreements))


def prepare(arguments: argparse.Namespace) -> int:
    """Check a data set's files and print their contents."""
    from crossmodal_bench.data import prepare as preparation
    from crossmodal_bench.jobs.inputs import protocol_lines

    data = _data_module(arguments, network=arguments.network)
    for line in preparation.prepare(data, arguments.min_count):
        tell(line)
    for line in protocol_lines(data.corpus):
        tell(f"  {line}")
    if arguments.network is not None:
        tell(f"  features {preparation.extract(data)}")
    return 0


def import_regions(arguments: argparse.Namespace) -> int:
    """Convert regions extracted elsewhere to the memory-mapped format."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from crossmodal_bench.data import import_regions as importing

    if arguments.count is not None and arguments.count < 1:
        raise BadInput(f"--count is {arguments.count}; give the number of regions to keep, at least 1")
    data = _data_module(arguments, network=None)
    reader = data.dataset.without_pictures() or data.dataset
    corpus = reader.read(data.root)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("regions", total=len(corpus.image_ids))
        sentence = importing.import_regions(
            corpus,
            Path(corpus.source).parent,
            arguments.sources,
            arguments.count,
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    tell(sentence)
    return 0


def extract(arguments: argparse.Namespace) -> int:
    """Extract image features or regions with a frozen network, and cache them for later runs."""
    from crossmodal_bench.data import prepare as preparation

    if arguments.regions == "detector":
        for name in ("network", "image_size", "batch_size"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"{option} has no effect with a detector; leave it out")
    elif arguments.network is None and arguments.regions is None:
        raise BadInput("--network is missing; name the network to run, e.g. --network mobilenet_v2")
    data = _data_module(
        arguments,
        network=arguments.network or ("mobilenet_v2" if arguments.regions == "grid" else None),
        size=arguments.image_size or 224,
        regions=arguments.regions or "auto",
    )
    tell(preparation.extract(data, arguments.batch_size or 32, arguments.device))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Check what this machine can do; return 1 if something will not work."""
    from crossmodal_bench.cli.doctor import Target, doctor

    target = Target(arguments.data_root, arguments.runs, tuple(arguments.dataset))
    return doctor(target, machine_readable=arguments.json)


def _data_module(
    arguments: argparse.Namespace, *, network: str | None, size: int = 224, regions: str = "auto"
) -> Any:
    from crossmodal_bench.jobs import experiments

    trust(plugin_names(arguments.plugins))
    from crossmodal_bench.training.lightning_cli import instantiate

    settings = experiments.dataset_settings(
        experiments.name_of("datasets", arguments.dataset), arguments.data_root
    )
    variant = next(iter(experiments.protocols_of(settings).values()))
    config = experiments.merge({"data": settings["data"]}, variant)
    images = {
        "network": network,
        "weights": getattr(arguments, "weights", "auto"),
        "regions": regions,
        "size": size,
        "on_bad_image": arguments.on_bad_image,
    }
    given = {"root": str(arguments.data_root), "cache": str(arguments.runs / "cache"), "images": images}
    config["data"] = experiments.merge(config["data"], given)
    config["model"] = {"class_path": "crossmodal_bench.methods.CCA"}
    return instantiate({**config, "seed_everything": 0}, accelerator="cpu", devices=1).datamodule
