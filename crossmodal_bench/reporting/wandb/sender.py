"""`python -m crossmodal_bench.reporting.wandb.sender DIRECTORY`: a job's W&B run, sent in the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.file_locks import try_lock
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.reporting.wandb import run
from crossmodal_bench.reporting.wandb.state import Name, RunState, sending, write_state

NICENESS = 10
"""Niceness of background processes, so that jobs take precedence."""
TIMEOUT = 900
"""Seconds for the server to accept a run."""
TIME_TO_KEEP = 180
"""Seconds for writing the run to this disk if the server did not accept it."""
AT_ONCE = 2
"""Processes that send runs of one folder at once: more would take CPU and memory from its jobs."""
TIME_TO_WAIT = 300.0
"""Seconds that others wait for one of them to end; then they write their runs to this disk."""
AGAIN_AFTER = 20.0
"""Seconds between interruptions of a call that waits for the server."""
POLL = 0.5
"""Seconds between checks."""


def send_to_wandb(record: Record, directory: Path, mode: str) -> str | None:
    """Write the job's run, in a separate process if a server is involved.

    An unreachable server may block a client for minutes; a bench does not wait for it, and continues whatever
    happens.

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
        else RunState("offline", record.finished_at, mode="offline")
    )
    write_state(files, state)
    return warning


def start_beside(
    files: JobDirectory, module: str, words: Sequence[str], inherits: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a module as a process that outlives this one, and whose output goes to the W&B run's log.

    Its standard input is a pipe; end of file tells it that this process closed it or is gone.

    Args:
        files: those of the job.
        module: the module's name.
        words: command-line arguments.
        inherits: descriptors of open files that it inherits, under the same numbers.

    Raises:
        OSError: it cannot be started.
        BadInput: the path of its log is not a regular file.
    """
    with files.open_wandb_log() as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdout=log,
            stderr=log,
            stdin=subprocess.PIPE,
            # A separate session: Ctrl-C is meant for the bench.
            start_new_session=True,
            pass_fds=inherits,
        )


def send(directory: Path) -> int:
    """Send a job's run; if that fails, write it for later. Return the exit status."""
    record = read_record(directory)
    with sending(record.files) as held:
        if not held:
            print(f"run {record.job.id} is being sent by another process")
            return 1
        try:
            with one_of_few(record.files), given_up_after(TIMEOUT):
                warning = run.log_record(record, directory, "online")
        except run.OutOfTime as error:
            warning = f"W&B has no run for job {record.job.id} ({error})"
        if warning is None:
            print(f"sent run {record.job.id}")
            write_state(record.files, RunState("sent", record.finished_at, mode="online"))
            return 0
        print(warning)
        keep_for_later(record, warning)
    return 1


def keep_for_later(record: Record, why: str) -> None:
    """Write a run that the server did not accept to this disk, and say how to send it."""
    with _ended_after(TIME_TO_KEEP, record):
        warning = run.log_record(record, record.directory, "offline")
    name: Name = "failed" if warning else "offline"
    write_state(record.files, RunState(name, record.finished_at, why, mode="offline"))
    runs = record.directory.parents[2]
    print(warning or f"crossmodal-bench sync --runs {runs} sends it when the server can be reached")


@contextmanager
def one_of_few(files: JobDirectory) -> Iterator[None]:
    """Be one of ``AT_ONCE`` processes that send runs of a folder; without limit if it has no locks.

    Raises:
        OutOfTime: none of the others ended within ``TIME_TO_WAIT``.
    """
    deadline = time.monotonic() + TIME_TO_WAIT
    with ExitStack() as opened:
        with suppress(OSError, BadInput):
            handles = [opened.enter_context(files.open_sender_lock(number)) for number in range(AT_ONCE)]
            while not any(try_lock(handle, files.path) for handle in handles):
                if time.monotonic() > deadline:
                    raise run.OutOfTime(f"{AT_ONCE} other runs were being sent for {TIME_TO_WAIT:.0f} s")
                time.sleep(POLL)
        yield


@contextmanager
def given_up_after(seconds: float) -> Iterator[None]:
    """Raise OutOfTime if the server has not answered by then.

    Raise it again every few seconds from then on, as W&B may have caught it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise run.OutOfTime(f"the server did not accept the run within {seconds:.0f} s")

    # Never during the import: a half-imported package could not even write runs to disk.
    with suppress(Exception):
        import wandb  # noqa: F401
    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_AFTER)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _ended_after(seconds: float, record: Record) -> Iterator[None]:
    """Exit this process then, whatever it is doing."""

    def end(number: int, frame: FrameType | None) -> None:
        why = f"W&B did not write the run within {seconds:.0f} s"
        print(f"given up: {why}")
        write_state(record.files, RunState("failed", record.finished_at, why))
        sys.stdout.flush()
        # W&B's own shutdown would wait for the server again.
        os._exit(1)

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    os.nice(NICENESS)
    sys.exit(send(Path(sys.argv[1])))
