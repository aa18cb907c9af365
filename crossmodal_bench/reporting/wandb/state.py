"""What has become of a job's W&B run: noted beside its record, and told at the end of a bench."""

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
"""Seconds that a bench waits in all, when its jobs are done, for runs that are still being sent."""
POLL = 0.1
"""Seconds between two looks at them."""


@dataclass(frozen=True)
class RunState:
    """Where a run is.

    Attributes:
        name: ``live`` while its job runs and is followed; ``sending``; ``sent``, the server has it;
            ``offline``, it lies whole on this disk; ``failed``, it is nowhere.
        finished_at: of the record that it was written from; empty while its job runs.
        why: why the server does not have it, if somebody has tried.
        mode: W&B's, in which the run was begun; empty if it has not been, or nobody knows.
    """

    name: Name
    finished_at: str = ""
    why: str = ""
    mode: Mode = ""

    def lies_here_whole(self, record: Record) -> bool:
        """Whether the record's run lies on this disk, with all that it holds."""
        is_kept = self.name == "offline" or (self.name == "sent" and self.mode == "offline")
        runs = record.files.offline_wandb_runs(record.job.id)
        return is_kept and self.finished_at == record.finished_at and bool(runs)


def read_state(files: JobDirectory) -> RunState | None:
    """What has been noted; None if nothing has."""
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
    """Note it. Where that cannot be written, less is told at the end, and nothing else is lost."""
    try:
        write_json(files.wandb_state, asdict(state))
    except OSError:
        return


@contextmanager
def sending(files: JobDirectory) -> Iterator[bool]:
    """Hold a run, so that no two processes send it at once; whether it could be held."""
    try:
        with files.open_wandb_lock() as handle:
            yield try_lock(handle, files.wandb_lock)
    except (OSError, BadInput):
        yield False


def is_held(files: JobDirectory) -> bool:
    """Whether a process holds a run; where nothing is locked nobody can tell, and one is taken to."""
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
    """What a bench's last lines say of W&B; waits a while for runs that are on their way.

    Args:
        records: of the bench's finished jobs and ensembles.
        runs: the folder of runs, as the user names it.
        began: the time when the bench began: what an earlier one has left unfinished is not waited for.
        patience: seconds to wait, None for ``PATIENCE``.
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
    still = sum(state is not None and state.name in ("live", "sending") for _, state in waiting)
    if still:
        lines.append(
            f"  {_counted(still)} still on the way; wandb.txt beside each record says what became of it"
        )
    return lines + [f"  {reason}" for reason in reasons]


def _is_sent(record: Record, state: RunState | None) -> bool:
    return state is not None and state.name == "sent" and state.finished_at == record.finished_at


def _on_its_way(record: Record, began: float) -> bool:
    state = read_state(record.files)
    if state is None or state.name not in ("live", "sending"):
        return False
    try:
        return record.files.wandb_state.stat().st_mtime >= began - 1
    except OSError:
        return False


def _counted(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"
