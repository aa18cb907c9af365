"""`python -m crossmodal_bench.reporting.wandb.sender DIRECTORY`: a job's W&B run, sent beside the bench."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.reporting.wandb import run
from crossmodal_bench.reporting.wandb.state import RunState, sending, write_state

NICENESS = 10
"""By which processes beside a bench stand back for its jobs."""
TIMEOUT = 900
"""Seconds after which a server that does not take a run is given up."""


def tell_wandb(record: Record, directory: Path, mode: str) -> str | None:
    """Write the job's run, or leave that to a process of its own where a server takes part in it.

    A server that cannot be reached may keep a client waiting for minutes; a bench does not wait for it, and
    goes on whatever comes of it.

    Returns:
        None, or a sentence on why there is no run.
    """
    if mode == "off":
        return None
    files = JobDirectory(directory)
    if mode != "online":
        warning = run.log_record(record, directory, mode)
    else:
        write_state(files, RunState("sending", record.finished_at))
        try:
            start_beside(files, "crossmodal_bench.reporting.wandb.sender", [str(directory)])
        except (OSError, BadInput) as error:
            warning = (
                f"W&B has no run for job {record.job.id} ({error}); its record is safe in {record.directory}"
            )
        else:
            return None
    state = (
        RunState("failed", record.finished_at, warning)
        if warning
        else RunState("offline", record.finished_at)
    )
    write_state(files, state)
    return warning


def start_beside(files: JobDirectory, module: str, words: Sequence[str], told: str = "") -> None:
    """Start a module as a process that outlives this one, and whose words go to the log of W&B's run.

    Args:
        files: of the job that it is about.
        module: its name.
        words: its command line.
        told: what it reads from its standard input.

    Raises:
        OSError: it cannot be started.
        BadInput: something else has the name of its log.
    """
    with files.open_wandb_log() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,
            # A session of its own: Ctrl-C is meant for the bench.
            start_new_session=True,
        )
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(told.encode())


def send(directory: Path) -> int:
    """Send a job's run; where that fails, write it for later. The exit status."""
    record = read_record(directory)
    give_up_after(TIMEOUT, record)
    with sending(record.files) as held:
        if not held:
            print(f"run {record.job.id} is being sent by another process")
            return 1
        warning = run.log_record(record, directory, "online")
        if warning is None:
            print(f"sent run {record.job.id}")
            write_state(record.files, RunState("sent", record.finished_at))
            return 0
        print(warning)
        keep_for_later(record, warning)
    return 1


def keep_for_later(record: Record, why: str) -> None:
    """Write a run that the server has not taken on this disk, and say how it is sent."""
    warning = run.log_record(record, record.directory, "offline")
    write_state(record.files, RunState("failed" if warning else "offline", record.finished_at, why))
    runs = record.directory.parents[2]
    print(warning or f"crossmodal-bench sync --runs {runs} sends it when the server can be reached")


def give_up_after(seconds: int, record: Record) -> None:
    """End this process if it still waits for a server then; what it has written stays."""

    def end(number: int, frame: FrameType | None) -> None:
        why = f"the server did not take the run within {seconds} s"
        print(f"given up: {why}")
        write_state(record.files, RunState("failed", record.finished_at, why))
        sys.stdout.flush()
        # W&B's own end would wait for the server once more.
        os._exit(1)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(send(Path(sys.argv[1])))
