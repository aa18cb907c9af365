"""`python -m crossmodal_bench.reporting.wandb.live DIRECTORY`: a job's W&B run while it runs.

A process beside the job's worker, which it only watches: it reads what the worker leaves of each epoch, and
nothing that befalls it, or a server, reaches the worker. The run that it begins is the one that is finished
from the record.
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
"""Environment variable with W&B's mode where jobs are followed; workers and a cluster's jobs inherit it."""
MODULE = "crossmodal_bench.reporting.wandb.live"
"""This one, as a process."""
POLL = 1.0
"""Seconds between two looks at the job."""
INTERRUPTED = 75
"""Exit status of a run whose job was stopped and goes on later."""
TIME_TO_PART = 60
"""Seconds to send what there is of a job that was stopped: it may go on soon, and is followed again then."""
_followers: list[subprocess.Popen[bytes]] = []
"""Who follows the job of this process: at most one."""


class Assignment(Model):
    """What a follower is told, on its standard input.

    Attributes:
        job: to follow.
        mode: W&B's.
        worker: the job's process, whose child the follower is.
        earlier: when the job that an earlier run's record is of had finished, which this run shall replace;
            empty if there is none. Who follows starts a second later, when there may be a new one.
        resumes: whether this very training was begun online, and the server's run is gone on with if training
            goes on; any other run of the job's is replaced.
        lock: the descriptor of the lock that the follower holds from its start; None if another process
            holds it still.
    """

    job: Job
    mode: Literal["online", "offline"]
    worker: int
    earlier: str = ""
    resumes: bool = False
    lock: int | None = None


def switch(mode: str) -> None:
    """Have the jobs that are started from now on followed in W&B's mode, or not at all (``off``)."""
    if mode == "off":
        os.environ.pop(SWITCH, None)
    else:
        os.environ[SWITCH] = mode


def is_switched_on() -> bool:
    """Whether jobs are followed."""
    return SWITCH in os.environ


def is_followed(record: Record) -> bool:
    """Whether the run of a finished job is, or was, written by who has followed it."""
    state = read_state(record.files) if is_switched_on() else None
    if state is None or state.name == "failed":
        return False
    if state.name == "live":
        # A follower that was killed leaves its note behind, and no run.
        return is_held(record.files)
    return state.finished_at == record.finished_at


def start_following(job: Job, files: JobDirectory) -> bool:
    """Follow a job that this process is about to run, if jobs are to be; whether it is followed.

    Where that cannot be, a line says why, and the job runs as any other.
    """
    earlier = read_state(files)
    was_live = earlier is not None and earlier.name == "live"
    if not is_switched_on():
        if was_live:
            # What the server has is behind from here on, and no later attempt may go on with it.
            with suppress(OSError):
                files.wandb_state.unlink()
        return False
    resumes = earlier is not None and was_live and earlier.mode == "online"
    try:
        # An earlier attempt's would be taken for what training goes on from.
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
        why = f"W&B does not follow job {job.id} ({error})"
        print(why, file=sys.stderr)
        write_state(files, RunState("failed", "", why))
        return False
    return True


def let_finish(seconds: float) -> None:
    """Have the run of this process's job finished while this process waits: for one that must not end before.

    Args:
        seconds: after which it is waited for no more.
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

    Where the server does not take the run, it is kept on this disk.

    Args:
        assignment: the job, and how it is followed.
        files: the job's.
        has_parted: whether the worker waits for this process to finish the run.
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
        """Log what the job gives until it ends, and finish its run; the exit status."""
        while self.is_running():
            self._log_epochs()
            time.sleep(POLL)
        try:
            if self._files.is_done() and _finished_at(self._files) != self._earlier:
                return self._finish(read_record(self._files.path))
            # The last epoch may have come within the last moment.
            self._log_epochs()
            return self._part()
        finally:
            teardown()

    def is_running(self) -> bool:
        """Whether the worker is at work."""
        return os.getppid() == self._worker and not self._has_parted()

    def _log_epochs(self) -> None:
        """Begin the run as soon as it is known whether training starts again; then log what is new."""
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
        """Begin the run in the first mode in which that can be."""
        config = described(self._job, self._files)
        while self._run is None and self._modes:
            # W&B resumes nothing offline: the history is logged whole there, in place of what an earlier
            # attempt has left. So it is where the server's run is of another training, or an older one.
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
        """Use the mode no more."""
        mode = self._modes.pop(0)
        why = f"W&B has no {mode} run of job {self._job.id} ({complaint(error)})"
        print(why, flush=True)
        self._why = self._why or why
        self._run = None
        if isinstance(error, OutOfTime):
            abandon()
        teardown()

    def _part(self) -> int:
        """Leave the run of a job that has failed, or that was stopped and goes on later."""
        failed = self._files.error.is_file()
        if self._run is not None:
            signal.alarm(TIME_TO_PART)
            if not failed:
                self._run.mark_preempting()
            self._run.finish(exit_code=1 if failed else INTERRUPTED)
        print("the job has failed" if failed else "the job was stopped; its run goes on with it")
        return 1 if failed else INTERRUPTED

    def _finish(self, record: Record) -> int:
        """Finish the run from the record."""
        # The record has them, too.
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
        """Finish the run, or have the server take it whole where none was begun; whether it is written."""
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
        """Say where the finished run is."""
        if self._modes[0] == "online":
            write_state(record.files, RunState("sent", record.finished_at, mode="online"))
            print(f"sent run {record.job.id}")
            return 0
        write_state(record.files, RunState("offline", record.finished_at, self._why, mode="offline"))
        print(f"crossmodal-bench sync --runs {record.directory.parents[2]} sends run {record.job.id}")
        return int(bool(self._why))


def _finished_at(files: JobDirectory) -> str:
    """When the job that has left a record there had finished; empty if there is none that can be read."""
    if not files.is_done():
        return ""
    try:
        return read_record(files.path).finished_at
    except BadInput:
        return ""


def _is_input_closed() -> bool:
    """Whether the worker has closed its end of the pipe: nothing else comes behind the assignment."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main() -> int:
    """Follow the job that the command line and the standard input name."""
    os.nice(NICENESS)
    files = JobDirectory(Path(sys.argv[1]))
    assignment = Assignment.model_validate_json(sys.stdin.readline())
    # Whoever ends a job of a cluster tells all of its processes; this one ends behind the worker.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    follower = Follower(assignment, files, _is_input_closed)
    if assignment.lock is not None:
        # Held by this process alone, whatever it starts, to its end.
        os.set_inheritable(assignment.lock, False)
        return follower.follow()
    while True:
        # Who has followed an earlier attempt may still send what there was of it.
        with sending(files) as held:
            if held or not follower.is_running():
                return follower.follow()
        time.sleep(POLL)


if __name__ == "__main__":
    sys.exit(main())
