"""`python -m crossmodal_bench.reporting.wandb.live DIRECTORY MODE WORKER`: a job's W&B run while it runs.

A process beside the job's worker, which it only watches: it reads what the worker leaves of each epoch, and
nothing that befalls it, or a server, reaches the worker. The run that it begins is the one that is finished
from the record.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Job, Record, read_record
from crossmodal_bench.reporting.wandb.run import begin, complaint, complete, log_record, numbered, teardown
from crossmodal_bench.reporting.wandb.sender import (
    NICENESS,
    TIMEOUT,
    give_up_after,
    keep_for_later,
    start_beside,
)
from crossmodal_bench.reporting.wandb.settings import described
from crossmodal_bench.reporting.wandb.state import RunState, read_state, sending, write_state

if TYPE_CHECKING:
    import wandb

SWITCH = "CROSSMODAL_BENCH_WANDB_LIVE"
"""Environment variable with W&B's mode where jobs are followed; workers and a cluster's jobs inherit it."""
POLL = 1.0
"""Seconds between two looks at the job."""
INTERRUPTED = 75
"""Exit status of a run whose job was stopped and goes on later."""
TIME_TO_PART = 60
"""Seconds to send what there is of a job that was stopped: it may go on soon, and is followed anew then."""


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
    return state.name == "live" or state.finished_at == record.finished_at


def start_following(job: Job, files: JobDirectory) -> bool:
    """Follow a job that this process is about to run, if jobs are to be; whether it is followed.

    Where that cannot be, a line says why, and the job runs as any other.
    """
    if not is_switched_on():
        return False
    words = [str(files.path.resolve()), os.environ[SWITCH], str(os.getpid())]
    try:
        # An earlier attempt's would be taken for what training goes on from.
        files.epochs.unlink(missing_ok=True)
        write_state(files, RunState("live"))
        start_beside(files, "crossmodal_bench.reporting.wandb.live", words, job.model_dump_json())
    except (OSError, BadInput) as error:
        why = f"W&B does not follow job {job.id} ({error})"
        print(why, file=sys.stderr)
        write_state(files, RunState("failed", "", why))
        return False
    return True


class Follower:
    """Follows one job to its end.

    Where the server does not take the run, it is kept on this disk.

    Args:
        job: the job.
        files: its files.
        mode: ``online`` or ``offline``.
        worker: its process, whose child this one is.
    """

    def __init__(self, job: Job, files: JobDirectory, mode: str, worker: int) -> None:
        self._job = job
        self._files = files
        self._worker = worker
        self._modes = ["online", "offline"] if mode == "online" else ["offline"]
        self._run: wandb.Run | None = None
        self._next_step = 0
        self._why = ""
        # Of an earlier run of the job, which this one shall replace.
        self._earlier = _finished_at(files)

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
        """Whether the worker is there."""
        return os.getppid() == self._worker

    def _log_epochs(self) -> None:
        """Begin the run as soon as it is known whether training starts anew; then log what is new."""
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
            # attempt has left.
            resume: Literal["allow"] | None = "allow" if goes_on and self._modes[0] == "online" else None
            try:
                self._run = begin(
                    self._job, self._files.path, self._modes[0], config, resume=resume, watched=self._worker
                )
                self._next_step = self._run.step if resume else 0
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Use the mode no more."""
        mode = self._modes.pop(0)
        why = f"W&B has no {mode} run of job {self._job.id} ({complaint(error)})"
        print(why, flush=True)
        self._why = self._why or why
        self._run = None
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
        give_up_after(TIMEOUT, record)
        # The record has them, too.
        self._files.epochs.unlink(missing_ok=True)
        if self._run is not None:
            try:
                complete(self._run, record, self._next_step)
                self._run.finish()
            except Exception as error:
                self._give_up(error)
            else:
                return self._note(record)
        if self._modes[:1] == ["online"]:
            warning = log_record(record, record.directory, "online")
            if warning is None:
                return self._note(record)
            print(warning)
            self._why = self._why or warning
        keep_for_later(record, self._why)
        return int(bool(self._why))

    def _note(self, record: Record) -> int:
        """Say where the finished run is."""
        if self._modes[0] == "online":
            write_state(record.files, RunState("sent", record.finished_at))
            print(f"sent run {record.job.id}")
            return 0
        write_state(record.files, RunState("offline", record.finished_at, self._why))
        print(f"crossmodal-bench sync --runs {record.directory.parents[2]} sends run {record.job.id}")
        return int(bool(self._why))


def _finished_at(files: JobDirectory) -> str:
    """When the job that has left a record there had finished; empty where there is none that can be read."""
    if not files.is_done():
        return ""
    try:
        return read_record(files.path).finished_at
    except BadInput:
        return ""


def main() -> int:
    """Follow the job that the command line and the standard input name."""
    os.nice(NICENESS)
    directory, mode, worker = sys.argv[1:]
    job = Job.model_validate_json(sys.stdin.read())
    # Whoever ends a job of a cluster tells all of its processes; this one ends behind the worker.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    files = JobDirectory(Path(directory))
    follower = Follower(job, files, mode, int(worker))
    while True:
        # Who has followed an earlier attempt may still send what there was of it.
        with sending(files) as held:
            if held or not follower.is_running():
                return follower.follow()
        time.sleep(POLL)


if __name__ == "__main__":
    sys.exit(main())
