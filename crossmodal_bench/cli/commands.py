"""What the commands do that neither plan nor run a bench; heavy imports happen in the command that is run."""

from __future__ import annotations

import argparse
from typing import Any

from crossmodal_bench.core.errors import BadInput


def ensemble(arguments: argparse.Namespace) -> int:
    """Rank by the summed similarities of finished jobs' models."""
    from crossmodal_bench.bench import ensembles
    from crossmodal_bench.reporting import wandb
    from crossmodal_bench.reporting.report import print_leaderboard

    mode = wandb.resolve_mode(arguments.wandb)
    planned = ensembles.plan_ensemble(ensembles.read_members(arguments.records), arguments.runs)
    record = planned.existing()
    if record is not None:
        print(f"{record.directory} is there already, of exactly these models")
    else:
        record = ensembles.run_ensemble(planned, arguments.data_root, arguments.runs / "cache")
        warning = wandb.log_record(record, record.directory, mode)
        print(warning or f"Record: {record.directory}")
    print_leaderboard([record])
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Print and write the leaderboard of all records."""
    from crossmodal_bench.reporting.formats import FORMATS
    from crossmodal_bench.reporting.report import build_report

    if not arguments.runs.is_dir():
        raise BadInput(
            f"{arguments.runs} is missing; run crossmodal-bench bench first, or name the folder with --runs"
        )
    report = build_report(arguments.runs, arguments.format or FORMATS)
    if report.files:
        print(f"Report: {', '.join(str(path) for path in report.files)}")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """Check a data set's files and print what they hold."""
    from crossmodal_bench.data import prepare as preparation
    from crossmodal_bench.jobs.inputs import protocol_lines

    data = _data_module(arguments, network=arguments.network)
    for line in preparation.prepare(data, arguments.min_count):
        print(line)
    for line in protocol_lines(data.corpus):
        print(f"  {line}")
    if arguments.network is not None:
        print(f"  features {preparation.extract(data)}")
    return 0


def extract(arguments: argparse.Namespace) -> int:
    """Image features, or regions, of a frozen network, kept for later runs."""
    from crossmodal_bench.data import prepare as preparation

    if arguments.regions == "detector":
        for name in ("network", "image_size", "batch_size"):
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise BadInput(f"{option} has no effect on a detector; leave it out")
    elif arguments.network is None and arguments.regions is None:
        raise BadInput("--network is missing; name the network to run, e.g. --network mobilenet_v2")
    data = _data_module(
        arguments,
        network=arguments.network or ("mobilenet_v2" if arguments.regions == "grid" else None),
        size=arguments.image_size or 224,
        regions=arguments.regions or "auto",
    )
    print(preparation.extract(data, arguments.batch_size or 32, arguments.device))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Say what this machine can do; 1 where something will not work."""
    from crossmodal_bench.cli.doctor import Target, doctor

    target = Target(arguments.data_root, arguments.runs, tuple(arguments.dataset))
    return doctor(target, machine_readable=arguments.json)


def _data_module(
    arguments: argparse.Namespace, *, network: str | None, size: int = 224, regions: str = "auto"
) -> Any:
    from crossmodal_bench.jobs import experiments
    from crossmodal_bench.training.lightning_cli import instantiate

    settings = experiments.dataset_settings(arguments.dataset, arguments.data_root)
    variant = next(iter(experiments.protocols_of(settings).values()))
    config = experiments.merge({"data": settings["data"]}, variant)
    images = {
        "network": network,
        "weights": arguments.weights,
        "regions": regions,
        "size": size,
        "on_bad_image": arguments.on_bad_image,
    }
    given = {"root": str(arguments.data_root), "cache": str(arguments.runs / "cache"), "images": images}
    config["data"] = experiments.merge(config["data"], given)
    config["model"] = {"class_path": "crossmodal_bench.methods.CCA"}
    return instantiate({**config, "seed_everything": 0}, accelerator="cpu", devices=1).datamodule
