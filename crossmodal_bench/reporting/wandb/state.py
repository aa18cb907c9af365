"""The state of a job's W&B run: stored with its record, and reported at the end of a bench."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.file_locks import is_off, try_lock
from crossmodal_bench.jobs.directory import JobDirectory, read_json, write_json
from crossmodal_bench.jobs.record import Record

Name = Literal["live", "sending", "sent", "offline", "failed"]
Mode = Literal["", "online", "offline"]
PATIENCE = 15.0
"""Total seconds that a bench waits, after its jobs, for runs that are still being sent."""
POLL = 0.1
"""Seconds between checks."""


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
        name: ``live`` while its job runs and is followed; ``sending``; ``sent``: the server has it;
            ``offline``: it is complete on this disk; ``failed``: it is nowhere.
        finished_at: that of the record it was written from; empty while its job runs.
        why: why the server does not have it, if sending was tried.
        mode: W&B's mode in which the run was started; empty if it was not, or if unknown.
    """

    name: Name
    finished_at: str = ""
    why: str = ""
    mode: Mode = ""

    def is_complete_locally(self, record: Record) -> bool:
        """Whether the record's complete run is on this disk."""
        is_kept = self.name == "offline" or (self.name == "sent" and self.mode == "offline")
        runs = record.files.offline_wandb_runs(record.job.id)
        return is_kept and self.finished_at == record.finished_at and bool(runs)


def read_state(files: JobDirectory) -> RunState | None:
    """The stored state; None if there is none."""
    noted = read_json(files.wandb_state)
    if noted.get("name") not in get_args(Name):
        return None
    mode = noted.get("mode") if noted.get("mode") in get_args(Mode) else ""
    return RunState(
        cast(Name, noted["name"]),
        str(noted.get("finished_at", "")),
        str(noted.get("why", "")),
        cast(Mode, mode),
    )


def write_state(files: JobDirectory, state: RunState) -> None:
    """Store the state. If that fails, only the report at the end is less complete."""
    try:
        write_json(files.wandb_state, asdict(state))
    except OSError:
        return


@contextmanager
def sending(files: JobDirectory) -> Iterator[bool]:
    """Lock a run, so that no two processes send it at once; yields whether that succeeded."""
    try:
        with files.open_wandb_lock() as handle:
            yield try_lock(handle, files.wandb_lock)
    except (OSError, BadInput):
        yield False


def is_held(files: JobDirectory) -> bool:
    """Whether a process holds a run; without locks this is unknown, and True is assumed."""
    if is_off():
        return True
    try:
        with files.open_wandb_lock() as handle:
            return not try_lock(handle, files.wandb_lock)
    except (OSError, BadInput):
        return False


def conclusion(
    records: Sequence[Record], runs: Path, began: float, *, patience: float | None = None
) -> list[str]:
    """The last lines of a bench on W&B; waits a while for runs that are being sent.

    Args:
        records: those of the bench's finished jobs and ensembles.
        runs: the folder of runs, as the user names it.
        began: start time of the bench: what an earlier one left unfinished is not waited for.
        patience: seconds to wait; None for ``PATIENCE``.
    """
    if not records:
        return []
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while any(_on_its_way(record, began) for record in records) and time.monotonic() < deadline:
        time.sleep(POLL)
    states = [(record, read_state(record.files)) for record in records]
    waiting = [(record, state) for record, state in states if not _is_sent(record, state)]
    if not waiting:
        return [f"W&B: {_counted(len(records))} sent"]
    of_all = "" if len(waiting) == len(records) else f" of {len(records)}"
    lines = [
        f"W&B: {len(waiting)}{of_all} run{'s' * (len(records) != 1)} not sent; "
        f"crossmodal-bench sync --runs {runs} sends what is missing"
    ]
    reasons = dict.fromkeys(state.why for _, state in waiting if state is not None and state.why)
    still = sum(_is_under_way(record) for record, _ in waiting)
    if still:
        lines.append(
            f"  {_counted(still)} still being sent; see wandb.txt next to each record for the result"
        )
    return lines + [f"  {reason}" for reason in reasons]


def _is_sent(record: Record, state: RunState | None) -> bool:
    return state is not None and state.name == "sent" and state.finished_at == record.finished_at


def _is_under_way(record: Record) -> bool:
    """Whether a process is writing or sending the run, or is about to."""
    state = read_state(record.files)
    if state is None or state.name not in ("live", "sending"):
        return False
    # A follower holds its run from the start; one that was killed leaves its note behind.
    return state.name == "sending" or is_held(record.files)


def _on_its_way(record: Record, began: float) -> bool:
    if not _is_under_way(record):
        return False
    try:
        return record.files.wandb_state.stat().st_mtime >= began - 1
    except OSError:
        return False


def _counted(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
