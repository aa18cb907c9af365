"""`crossmodal-bench sync`: every finished job whose W&B run is missing, or older than its record, is sent.

What is there, the server says. What is not is written whole on this disk, unless it lies there already (a job
that was followed has what its processor and GPU did in it), and sent by W&B's own `wandb sync`. A run's id is
its job's, so that sending it again replaces it.
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
"""Seconds that the server has for an answer."""
SECONDS_PER_RUN = 120
"""Seconds that sending one run may take at most."""
TOGETHER = 50
"""Runs that one call of `wandb sync` sends."""
DELETED = "previously created and deleted"
"""What the server says to an id that it has had."""
Log = Callable[[str], None]


@dataclass(frozen=True)
class Project:
    """Where runs go.

    Attributes:
        name: of the project.
        entity: the team or user that it belongs to; empty for the user's own default.
    """

    name: str
    entity: str = ""

    @property
    def path(self) -> str:
        """As W&B's interface names it."""
        return f"{self.entity}/{self.name}" if self.entity else self.name


def named_project(name: str | None, entity: str | None) -> Project:
    """The project that the words of a command mean, or else W&B's own variables.

    Raises:
        BadInput: an entity within the project's name.
    """
    if name is not None and "/" in name:
        team, _, project = name.partition("/")
        raise BadInput(f"--project is '{name}'; name the project alone: --project {project} --entity {team}")
    return Project(name or run.project(), entity or os.environ.get("WANDB_ENTITY", ""))


def sync(runs: Path, project: Project, log: Log, *, dry_run: bool = False) -> int:
    """Send what the server lacks.

    Args:
        runs: the folder of the records.
        project: where to.
        log: prints a line.
        dry_run: say what would be sent, and send nothing.

    Returns:
        0; 1 where the server still lacks a run afterwards.

    Raises:
        BadInput: nobody is logged in, the server cannot be asked, or there is no record.
    """
    records = read_records(runs)
    if not records:
        raise BadInput(f"{runs} has no finished job: run `crossmodal-bench bench --runs {runs}` first")
    if not logged_in():
        raise BadInput(
            "no W&B key is known, so that the server cannot be asked what it has: run `wandb login`"
        )
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
    """Why each run is to be sent, by the job's id, for those that are.

    Args:
        records: of finished jobs.
        there: by the job's id, when the record that the server's run was written from had finished; empty
            where the run is not complete.
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
    """When the records of those runs had finished that the server has, by their ids.

    Empty for a run that is not complete: it is still being written, or who wrote it was killed.

    Raises:
        BadInput: the server cannot be asked.
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
        # A project comes into being with its first run.
        if "could not find project" in str(error).lower():
            return {}
        raise BadInput(
            f"W&B's server cannot be asked what {project.path} has ({run.complaint(error)}); look at the "
            "name of the project, at WANDB_BASE_URL and at the network"
        ) from error


def _is_whole(record: Record, log: Log) -> bool:
    """Have the record's run on this disk; whether it may be sent from there."""
    with sending(record.files) as held:
        if not held:
            log(f"  {_title(record)} is being sent by another process, or its folder cannot be written")
            return False
        state = read_state(record.files)
        # Sent before, perhaps to another project: it is not written again, which would lose what a process
        # beside the job has measured.
        if state is not None and state.lies_here_whole(record):
            return True
        warning = run.log_record(record, record.directory, "offline")
        if warning is not None:
            log(f"  {warning}")
            return False
        write_state(record.files, RunState("offline", record.finished_at, mode="offline"))
    return True


def _note_sent(records: Iterable[Record]) -> None:
    """Note that the server has the runs of those records."""
    for record in records:
        state = read_state(record.files)
        is_kept = state is not None and state.lies_here_whole(record)
        write_state(
            record.files, RunState("sent", record.finished_at, mode="offline" if is_kept else "online")
        )


def _send(records: Sequence[Record], project: Project, log: Log) -> None:
    """Hand runs that lie on this disk to W&B's own uploader; what has arrived, the server is asked later."""
    folders = [str(path) for record in records for path in record.files.offline_wandb_runs(record.job.id)]
    command = [sys.executable, "-m", "wandb", "sync", "--include-synced", "--project", project.name]
    if project.entity:
        command += ["--entity", project.entity]
    # WANDB_MODE is about runs that are written, and would keep these here.
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
            "  W&B has deleted runs of these ids, and refuses such ids for some days: restore them there, or "
            "send to another project with --project"
        )
    elif answer.returncode:
        said = (answer.stderr or answer.stdout).strip().splitlines() or ["no word"]
        log(f"  wandb sync ended with status {answer.returncode}: {said[-1]}")


def _title(record: Record) -> str:
    job = record.job
    return f"{job.dataset}/{job.method}/{job.id} (seed {job.seed})"
