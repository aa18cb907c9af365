"""`sync` and `wandb-report`: finished runs on Weights & Biases."""

from __future__ import annotations

import argparse
from pathlib import Path

from crossmodal_bench.core.errors import BadInput, tell


def add_project_arguments(command: argparse.ArgumentParser) -> None:
    """Options shared by both commands."""
    command.add_argument("--project", help="W&B project (WANDB_PROJECT, or crossmodal-bench)")
    command.add_argument("--entity", help="team or user that owns it (WANDB_ENTITY, or your default)")


def add_sync_arguments(command: argparse.ArgumentParser) -> None:
    """Options of `sync`, besides those of a bench."""
    add_project_arguments(command)
    text = "send captions and pictures of any data set, for runs written by this command"
    command.add_argument("--wandb-media", action="store_true", help=text)
    command.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")


def add_report_arguments(command: argparse.ArgumentParser) -> None:
    """Options of `wandb-report`, besides those of a bench."""
    add_project_arguments(command)
    command.add_argument("--title", default="crossmodal-bench leaderboard", help="title of both")
    text = "write the specification to this file as JSON and send nothing; needs no account"
    command.add_argument("--out", type=Path, metavar="FILE", help=text)


def sync(arguments: argparse.Namespace) -> int:
    """Send runs that are missing on W&B's server."""
    from crossmodal_bench.reporting.wandb.mode import allow_media
    from crossmodal_bench.reporting.wandb.sync import named_project, sync

    _check_runs(arguments.runs)
    project = named_project(arguments.project, arguments.entity)
    allow_media(allowed=arguments.wandb_media)
    return sync(arguments.runs, project, tell, dry_run=arguments.dry_run)


def wandb_report(arguments: argparse.Namespace) -> int:
    """Build the dashboard of all records: a report and a workspace."""
    from crossmodal_bench.reporting.wandb import dashboard
    from crossmodal_bench.reporting.wandb.sync import named_project

    _check_runs(arguments.runs)
    project = named_project(arguments.project, arguments.entity)
    if arguments.out is not None:
        dashboard.write(arguments.runs, project, arguments.title, arguments.out)
        tell(f"Specification: {arguments.out}")
        return 0
    for address in dashboard.save(arguments.runs, project, arguments.title):
        tell(address)
    return 0


def _check_runs(runs: Path) -> None:
    if not runs.is_dir():
        raise BadInput(f"{runs} is missing; run crossmodal-bench bench first, or name the folder with --runs")
