"""`crossmodal-bench sync`: send every finished job whose W&B run is missing, or older than its record.

The server is asked which runs it has. Missing ones are written in full to this disk, unless they already are
(those of followed jobs include CPU and GPU usage), and sent by W&B's own `wandb sync`. A run's id is its
job's, so that sending it again replaces it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record, read_records
from crossmodal_bench.reporting.wandb import run
from crossmodal_bench.reporting.wandb.mode import logged_in
from crossmodal_bench.reporting.wandb.state import RunState, read_state, sending, write_state

TIMEOUT = 60
"""Seconds for the server to answer."""
SECONDS_PER_RUN = 120
"""Maximum seconds for sending one run."""
TOGETHER = 50
"""Runs per call of `wandb sync`."""
DELETED = "previously created and deleted"
"""The server's answer to an id that was deleted."""
Log = Callable[[str], None]


@dataclass(frozen=True)
class Project:
    """The destination of runs.

    Attributes:
        name: the project's name.
        entity: the team or user that owns it; empty for the user's default.
    """

    name: str
    entity: str = ""

    @property
    def path(self) -> str:
        """Its path in W&B's API."""
        return f"{self.entity}/{self.name}" if self.entity else self.name


def named_project(name: str | None, entity: str | None) -> Project:
    """The project of a command's options, or else of W&B's own variables.

    Raises:
        BadInput: an entity within the project's name.
    """
    if name is not None and "/" in name:
        team, _, project = name.partition("/")
        raise BadInput(f"--project is '{name}'; name the project only: --project {project} --entity {team}")
    return Project(name or run.project(), entity or os.environ.get("WANDB_ENTITY", ""))


def sync(runs: Path, project: Project, log: Log, *, dry_run: bool = False) -> int:
    """Send the runs that the server lacks.

    Args:
        runs: the folder of the records.
        project: the destination.
        log: prints a line.
        dry_run: report what would be sent, and send nothing.

    Returns:
        0; 1 if the server still lacks a run afterwards.

    Raises:
        BadInput: there is no login, the server cannot be reached, or there is no record.
    """
    records = read_records(runs)
    if not records:
        raise BadInput(f"{runs} has no finished job: run `crossmodal-bench bench --runs {runs}` first")
    if not logged_in():
        raise BadInput("no W&B key found, so the server's runs cannot be listed: run `wandb login`")
    reasons = lacking(records, known_runs(project, records))
    if not dry_run:
        _note_sent(record for record in records if record.job.id not in reasons)
    if not reasons:
        log(f"{project.path} has all {len(records)} runs; nothing to send")
        return 0
    wanted = [record for record in records if record.job.id in reasons]
    for record in wanted:
        verb = "would send" if dry_run else "sending"
        log(f"  {verb} {_title(record)}: {reasons[record.job.id]}")
    if dry_run:
        log(f"{len(wanted)} of {len(records)} runs would be sent to {project.path}")
        return 0
    ready = [record for record in wanted if _is_whole(record, log)]
    for start in range(0, len(ready), TOGETHER):
        _send(ready[start : start + TOGETHER], project, log)
    still = lacking(wanted, known_runs(project, wanted))
    _note_sent(record for record in wanted if record.job.id not in still)
    log(f"{len(wanted) - len(still)} of {len(wanted)} runs sent to {project.path}")
    if still:
        names = ", ".join(_title(record) for record in wanted if record.job.id in still)
        log(f"not there yet: {names}; run the same command again")
    return int(bool(still))


def lacking(records: Sequence[Record], there: Mapping[str, str]) -> dict[str, str]:
    """The reasons to send runs, by job id.

    Args:
        records: those of finished jobs.
        there: the finishing time of the record from which the server's run was written, by job id; empty for
            an incomplete run.
    """
    reasons = {}
    for record in records:
        if record.job.id not in there:
            reasons[record.job.id] = "not on the server yet"
        elif not there[record.job.id]:
            reasons[record.job.id] = "the server's run is incomplete"
        elif there[record.job.id] < record.finished_at:
            reasons[record.job.id] = "the server's run is older than its record"
    return reasons


def known_runs(project: Project, records: Sequence[Record]) -> dict[str, str]:
    """The runs on the server, by id, with the finishing times of the records they were written from.

    Empty for an incomplete run: it is still being written, or its writer was killed.

    Raises:
        BadInput: the server cannot be reached.
    """
    import wandb

    ids = [record.job.id for record in records]
    try:
        runs = wandb.Api(timeout=TIMEOUT).runs(
            project.path, filters={"name": {"$in": ids}}, per_page=100, lazy=False
        )
        return {
            there.id: str(there.config.get("finished_at", "")) if there.state == "finished" else ""
            for there in runs
        }
    except Exception as error:
        # A project is created with its first run.
        if "could not find project" in str(error).lower():
            return {}
        raise BadInput(
            f"W&B's server cannot list the runs of {project.path} ({run.complaint(error)}); check "
            "the project name, WANDB_BASE_URL and the network"
        ) from error


def _is_whole(record: Record, log: Log) -> bool:
    """Write the record's run to this disk; return whether it may be sent from there."""
    with sending(record.files) as held:
        if not held:
            log(f"  {_title(record)} is being sent by another process, or its folder cannot be written")
            return False
        state = read_state(record.files)
        # Sent before, perhaps to another project: do not write it again, which would lose the follower's
        # measurements.
        if state is not None and state.is_complete_locally(record):
            return True
        warning = run.log_record(record, record.directory, "offline")
        if warning is not None:
            log(f"  {warning}")
            return False
        write_state(record.files, RunState("offline", record.finished_at, mode="offline"))
    return True


def _note_sent(records: Iterable[Record]) -> None:
    """Store that the server has the runs of these records."""
    for record in records:
        state = read_state(record.files)
        is_kept = state is not None and state.is_complete_locally(record)
        write_state(
            record.files, RunState("sent", record.finished_at, mode="offline" if is_kept else "online")
        )


def _send(records: Sequence[Record], project: Project, log: Log) -> None:
    """Pass runs on this disk to W&B's own uploader; the server is asked later which have arrived."""
    folders = [str(path) for record in records for path in record.files.offline_wandb_runs(record.job.id)]
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", "--project", project.name]
    if project.entity:
        command += ["--entity", project.entity]
    # WANDB_MODE is meant for new runs, and would prevent this upload.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    try:
        answer = subprocess.run(
            [*command, *folders],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=SECONDS_PER_RUN * len(records),
        )
    except subprocess.TimeoutExpired:
        log(f"  the server took longer than {SECONDS_PER_RUN} s for each of {len(records)} runs")
        return
    if DELETED in (answer.stdout + answer.stderr).lower():
        log(
            "  W&B has deleted runs with these ids, and refuses the ids for some days: restore them there, "
            "or send to another project with --project"
        )
    elif answer.returncode:
        said = (answer.stderr or answer.stdout).strip().splitlines() or ["no message"]
        log(f"  wandb sync ended with status {answer.returncode}: {said[-1]}")


def _title(record: Record) -> str:
    job = record.job
    return f"{job.dataset}/{job.method}/{job.id} (seed {job.seed})"
