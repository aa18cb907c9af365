"""One job of a bench on the cluster, which may take several consecutive SLURM jobs."""

from __future__ import annotations

import time
from typing import Any, Protocol

from crossmodal_bench.core.file_locks import wait_for_lock
from crossmodal_bench.core.signals import AGAIN
from crossmodal_bench.jobs.directory import read_json, write_json
from crossmodal_bench.jobs.planned import PlannedJob

CUT_OFF = {"BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "REVOKED", "TIMEOUT", "GONE"}
"""Final states that are not the job's own fault; GONE is ours, for a job that SLURM has forgotten."""
FINAL = CUT_OFF | {"COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY"}
"""Final states."""
MAX_STALLED = 3
"""Consecutive SLURM jobs that may be cut off without any progress."""


class Cluster(Protocol):
    """What a job needs from the cluster it runs on."""

    following: set[str]
    """Ids of the SLURM jobs followed by this bench."""

    def log(self, line: str) -> None:
        """Print a line."""

    def submit(self, planned: PlannedJob) -> str:
        """Submit a job; return its SLURM id."""

    def state(self, identity: str) -> str:
        """A job's state, in SLURM's terms."""

    def adopts(self, planned: PlannedJob) -> bool:
        """Whether SLURM has the job."""

    def cancelled_by_user(self, identity: str) -> bool:
        """Whether its user has cancelled a job."""

    def ended_by_signal(self, identity: str) -> bool:
        """Whether the signal sent before a time limit ended a job."""


class SlurmJob:
    """A job submitted or found in the queue, and resubmitted when SLURM cuts it off, until it ends by itself.

    The counterpart of a local worker, but ``terminate`` and ``stop`` end nothing: what is in the queue stays
    there, and the next bench continues with it.
    """

    grace = 10.0
    """Seconds until a shared folder shows what a job wrote before it ended."""

    def __init__(self, planned: PlannedJob, cluster: Cluster) -> None:
        self.planned = planned
        self._cluster = cluster
        self.exit_code: int | None = None
        self._over_since: float | None = None
        self._in_vain = 0
        self._identity = ""
        self._submit()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended, waiting up to that time."""
        if self._ended():
            return True
        if seconds:
            time.sleep(seconds)
        return bool(seconds) and self._ended()

    def terminate(self) -> None:
        """Leave it in the queue."""
        self._cluster.log(f"{self.planned.title} stays in the SLURM queue as job {self._identity}")

    def stop(self) -> None:
        """See ``terminate``."""

    def _ended(self) -> bool:
        if self.exit_code is not None:
            return True
        files = self.planned.files
        status = read_json(files.slurm_exit(self._identity)).get("status")
        if status is not None and status != AGAIN:
            return self._leave(int(status))
        state = self._cluster.state(self._identity)
        if state not in FINAL:
            self._over_since = None
            return False
        if self._over_since is None:
            self._over_since = time.monotonic()
        if status is None and time.monotonic() - self._over_since < self.grace:
            return False
        cut_off = status == AGAIN or state in CUT_OFF
        if state == "FAILED" and status is None:
            cut_off = self._cluster.ended_by_signal(self._identity)
        if not cut_off or (state == "CANCELLED" and self._cluster.cancelled_by_user(self._identity)):
            hint = "; ask for more with --slurm mem" if state == "OUT_OF_MEMORY" else ""
            return self._fail(f"SLURM job {self._identity} ended as {state}{hint}")
        in_vain = self._mark() == read_json(files.slurm_launch).get("mark")
        self._in_vain = self._in_vain + 1 if in_vain else 0
        if self._in_vain == MAX_STALLED:
            return self._fail(
                f"SLURM cut off {MAX_STALLED} jobs in a row without any progress (the last, "
                f"{self._identity}, as {state}); ask for more time with --slurm time"
            )
        before = f"SLURM job {self._identity} was cut off ({state})"
        self._submit()
        self._cluster.log(f"{self.planned.title}: {before}, job {self._identity} continues")
        return False

    def _leave(self, status: int) -> bool:
        self.exit_code = status
        self._cluster.following.discard(self._identity)
        launch = self.planned.files.slurm_launch
        if read_json(launch).get("slurm_job") == self._identity:
            launch.unlink(missing_ok=True)
        return True

    def _fail(self, message: str) -> bool:
        self.planned.files.write_error("error", message)
        return self._leave(1)

    def _submit(self) -> None:
        files = self.planned.files
        files.slurm.mkdir(parents=True, exist_ok=True)
        self._cluster.following.discard(self._identity)
        # Two benches that follow the same job must not both resubmit it.
        with files.slurm_lock.open("a") as lock:
            wait_for_lock(lock, files.slurm_lock)
            queued = read_json(files.slurm_launch).get("slurm_job")
            if queued is not None and queued != self._identity and self._cluster.adopts(self.planned):
                self._cluster.log(f"{self.planned.title} is in the queue as SLURM job {queued}")
                self._identity = queued
            else:
                mark = self._mark()
                files.clear_last_run()
                self._identity = self._cluster.submit(self.planned)
                write_json(files.slurm_launch, {"slurm_job": self._identity, "mark": mark})
                files.write_progress(f"in the queue (SLURM job {self._identity})")
        self._cluster.following.add(self._identity)
        self._over_since = None

    def _mark(self) -> list[Any]:
        """A value that changes as a job makes progress: its checkpoints, or its extracted features."""
        files = self.planned.files
        saved = [(path.name, path.stat().st_mtime_ns) for path in files.checkpoints()]
        state = files.read_progress()
        # In the form that JSON reads back.
        return [*map(list, saved), [state.get("done"), state.get("epoch")]]
