"""`python -m crossmodal_bench.reporting.wandb.live DIRECTORY`: a job's W&B run while it runs.

A separate process next to the job's worker, which it only watches: it reads what the worker saves after each
epoch, and no failure of this process or of a server affects the worker. The run that it starts is later
finished from the record.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.file_locks import try_lock
from crossmodal_bench.core.validation import Model
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Job, Record, read_record
from crossmodal_bench.reporting.wandb.run import (
    OutOfTime,
    abandon,
    begin,
    complaint,
    complete,
    log_record,
    numbered,
    teardown,
)
from crossmodal_bench.reporting.wandb.sender import (
    NICENESS,
    TIMEOUT,
    given_up_after,
    keep_for_later,
    one_of_few,
    start_beside,
)
from crossmodal_bench.reporting.wandb.settings import described
from crossmodal_bench.reporting.wandb.state import RunState, is_held, read_state, sending, write_state

if TYPE_CHECKING:
    import wandb

SWITCH = "CROSSMODAL_BENCH_WANDB_LIVE"
"""Environment variable with W&B's mode if jobs are followed; workers and cluster jobs inherit it."""
MODULE = "crossmodal_bench.reporting.wandb.live"
"""This module, run as a process."""
POLL = 1.0
"""Seconds between checks of the job."""
INTERRUPTED = 75
"""Exit status of a run whose job was stopped and will be resumed."""
TIME_TO_PART = 60
"""Seconds to send a stopped job's data: it may soon be resumed, and followed again."""
_followers: list[subprocess.Popen[bytes]] = []
"""The follower of this process's job: at most one."""


class Assignment(Model):
    """What a follower is told on standard input.

    Attributes:
        job: the job to follow.
        mode: W&B's mode.
        worker: the job's process, the follower's parent.
        earlier: the finishing time of the earlier record, whose run this one will replace; empty if there is
            none. The follower only looks a second later, when there may be a new record.
        resumes: whether this very training was started online, so that the server's run is continued if
            training resumes; any other run of the job is replaced.
        lock: the descriptor of the lock that the follower holds from its start; None if another process still
            holds it.
    """

    job: Job
    mode: Literal["online", "offline"]
    worker: int
    earlier: str = ""
    resumes: bool = False
    lock: int | None = None


def switch(mode: str) -> None:
    """Follow the jobs started from now on in W&B's mode, or not at all (``off``)."""
    if mode == "off":
        os.environ.pop(SWITCH, None)
    else:
        os.environ[SWITCH] = mode


def is_switched_on() -> bool:
    """Whether jobs are followed."""
    return SWITCH in os.environ


def is_followed(record: Record) -> bool:
    """Whether the run of a finished job is being written, or was written, by its follower."""
    state = read_state(record.files) if is_switched_on() else None
    if state is None or state.name == "failed":
        return False
    if state.name == "live":
        # A follower that was killed leaves its note behind, but no run.
        return is_held(record.files)
    return state.finished_at == record.finished_at


def start_following(job: Job, files: JobDirectory) -> bool:
    """Follow the job that this process is about to run, if enabled; return whether it is followed.

    If that fails, a line says why, and the job runs like any other.
    """
    earlier = read_state(files)
    was_live = earlier is not None and earlier.name == "live"
    if not is_switched_on():
        if was_live:
            # From here on the server's run is out of date, and no later attempt may continue it.
            with suppress(OSError):
                files.wandb_state.unlink()
        return False
    resumes = earlier is not None and was_live and earlier.mode == "online"
    try:
        # An earlier attempt's epochs would be taken for those that training resumes from.
        files.epochs.unlink(missing_ok=True)
        with files.open_wandb_lock() as lock:
            assignment = Assignment(
                job=job,
                mode="online" if os.environ[SWITCH] == "online" else "offline",
                worker=os.getpid(),
                earlier=_finished_at(files),
                resumes=resumes,
                lock=lock.fileno() if try_lock(lock, files.wandb_lock) else None,
            )
            write_state(files, RunState("live", mode="online" if resumes else ""))
            follower = start_beside(files, MODULE, [str(files.path.resolve())], (lock.fileno(),))
        assert follower.stdin is not None
        follower.stdin.write(f"{assignment.model_dump_json()}\n".encode())
        follower.stdin.flush()
        _followers[:] = [follower]
    except (OSError, BadInput) as error:
        why = f"job {job.id} is not followed in W&B ({error})"
        print(why, file=sys.stderr)
        write_state(files, RunState("failed", "", why))
        return False
    return True


def let_finish(seconds: float) -> None:
    """Wait for the follower to finish the run, in a process that must not exit before.

    Args:
        seconds: maximum time to wait.
    """
    for follower in _followers:
        assert follower.stdin is not None
        with suppress(OSError):
            follower.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            follower.wait(seconds)
    _followers.clear()


class Follower:
    """Follows one job to its end.

    If the server does not accept the run, it is written to this disk.

    Args:
        assignment: the job, and how to follow it.
        files: the job's files.
        has_parted: whether the worker is waiting for this process to finish the run.
    """

    def __init__(
        self,
        assignment: Assignment,
        files: JobDirectory,
        has_parted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._job = assignment.job
        self._files = files
        self._worker = assignment.worker
        self._has_parted = has_parted
        self._modes: list[Literal["online", "offline"]] = ["offline"]
        if assignment.mode == "online":
            self._modes.insert(0, "online")
        self._resumes = assignment.resumes
        self._run: wandb.Run | None = None
        self._next_step = 0
        self._why = ""
        self._earlier = assignment.earlier

    def follow(self) -> int:
        """Log the job's data until it ends, and finish its run; return the exit status."""
        while self.is_running():
            self._log_epochs()
            time.sleep(POLL)
        try:
            if self._files.is_done() and _finished_at(self._files) != self._earlier:
                return self._finish(read_record(self._files.path))
            # The last epoch may have just arrived.
            self._log_epochs()
            return self._part()
        finally:
            teardown()

    def is_running(self) -> bool:
        """Whether the worker is still working."""
        return os.getppid() == self._worker and not self._has_parted()

    def _log_epochs(self) -> None:
        """Start the run as soon as it is known whether training starts over; then log what is new."""
        if not self._files.epochs.is_file():
            return
        epochs = self._files.read_epochs()
        if self._run is None:
            self._begin(goes_on=self._files.read_restored_epochs() > 0)
        if self._run is None:
            return
        try:
            for epoch, step in numbered(epochs):
                if step >= self._next_step:
                    self._run.log({"epoch": step, **epoch}, step=step, commit=True)
                    self._next_step = step + 1
        except Exception as error:
            self._give_up(error)

    def _begin(self, *, goes_on: bool) -> None:
        """Start the run in the first mode that works."""
        config = described(self._job, self._files)
        while self._run is None and self._modes:
            # W&B cannot resume offline: there the history is logged in full, replacing what an earlier
            # attempt left. The same if the server's run is of another training, or an older one.
            is_same = goes_on and self._resumes and self._modes[0] == "online"
            resume: Literal["allow"] | None = "allow" if is_same else None
            try:
                self._run = begin(
                    self._job, self._files.path, self._modes[0], config, resume=resume, watched=self._worker
                )
                self._next_step = self._run.step if resume else 0
                write_state(self._files, RunState("live", mode=self._modes[0]))
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Stop using the mode."""
        mode = self._modes.pop(0)
        why = f"W&B has no {mode} run of job {self._job.id} ({complaint(error)})"
        print(why, flush=True)
        self._why = self._why or why
        self._run = None
        if isinstance(error, OutOfTime):
            abandon()
        teardown()

    def _part(self) -> int:
        """Leave the run of a job that failed, or that was stopped and will be resumed."""
        failed = self._files.error.is_file()
        if self._run is not None:
            signal.alarm(TIME_TO_PART)
            if not failed:
                self._run.mark_preempting()
            self._run.finish(exit_code=1 if failed else INTERRUPTED)
        print("the job has failed" if failed else "the job was stopped; its run continues when it is resumed")
        return 1 if failed else INTERRUPTED

    def _finish(self, record: Record) -> int:
        """Finish the run from the record."""
        # The record has these epochs, too.
        self._files.epochs.unlink(missing_ok=True)
        is_online = self._modes[:1] == ["online"]
        try:
            with one_of_few(self._files) if is_online else nullcontext(), given_up_after(TIMEOUT):
                is_written = self._write(record)
        except Exception as error:
            is_written = False
            self._give_up(error)
        if is_written:
            return self._note(record)
        keep_for_later(record, self._why)
        return int(bool(self._why))

    def _write(self, record: Record) -> bool:
        """Finish the run, or send it whole if none was started; return whether it is written."""
        if self._run is not None:
            complete(self._run, record, self._next_step)
            self._run.finish()
            return True
        if self._modes[:1] != ["online"]:
            return False
        warning = log_record(record, record.directory, "online")
        if warning is not None:
            print(warning)
            self._why = self._why or warning
        return warning is None

    def _note(self, record: Record) -> int:
        """Report where the finished run is."""
        if self._modes[0] == "online":
            write_state(record.files, RunState("sent", record.finished_at, mode="online"))
            print(f"sent run {record.job.id}")
            return 0
        write_state(record.files, RunState("offline", record.finished_at, self._why, mode="offline"))
        print(f"crossmodal-bench sync --runs {record.directory.parents[2]} sends run {record.job.id}")
        return int(bool(self._why))


def _finished_at(files: JobDirectory) -> str:
    """The finishing time in the job's record; empty if there is no readable one."""
    if not files.is_done():
        return ""
    try:
        return read_record(files.path).finished_at
    except BadInput:
        return ""


def _is_input_closed() -> bool:
    """Whether the worker has closed its end of the pipe: nothing else follows the assignment."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main() -> int:
    """Follow the job named by the command line and standard input."""
    os.nice(NICENESS)
    files = JobDirectory(Path(sys.argv[1]))
    assignment = Assignment.model_validate_json(sys.stdin.readline())
    # Ending a cluster job signals all of its processes; this one must end after the worker.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    follower = Follower(assignment, files, _is_input_closed)
    if assignment.lock is not None:
        # Held until exit by this process alone, not by its children.
        os.set_inheritable(assignment.lock, False)
        return follower.follow()
    while True:
        # The follower of an earlier attempt may still be sending its data.
        with sending(files) as held:
            if held or not follower.is_running():
                return follower.follow()
        time.sleep(POLL)


if __name__ == "__main__":
    sys.exit(main())
