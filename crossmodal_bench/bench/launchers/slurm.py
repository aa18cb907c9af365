"""Jobs on a SLURM cluster: what a bench needs there, what it submits, and what SLURM reports."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.launchers.slurm_job import FINAL, SlurmJob
from crossmodal_bench.bench.launchers.slurm_options import executor_parameters, tasks_per_node
from crossmodal_bench.bench.launchers.slurm_task import task
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.errors import BadInput, tell
from crossmodal_bench.core.signals import ASKING
from crossmodal_bench.jobs.directory import read_json
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.state import State

MOST = 1000
"""Jobs in the queue at a time unless JOBS is set; the cluster may have its own limit."""


class Slurm:
    """Submits jobs to the cluster of this machine.

    Args:
        options: the bench's options.
        log: prints a line.

    Raises:
        BadInput: submitit or SLURM is missing, or the options contradict each other.
    """

    allows_dry_runs = False
    ask_every = 5.0

    def __init__(self, options: BenchOptions, log: Callable[[str], None] = tell) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise BadInput("LAUNCHER=slurm needs submitit; pip install 'crossmodal-bench[slurm]'")
        self.check()
        self.options = options
        self.log = log
        self.devices = "cpu" if options.devices == "cpu" else str(tasks_per_node(options))
        executor_parameters(options, "check")
        self.slots = [Slot(self.devices)] * (options.jobs or MOST)
        self.following: set[str] = set()
        self._states: dict[str, str] = {}
        self._asked = float("-inf")

    def check(self) -> None:
        """Raise BadInput if there is no cluster to submit to."""
        for command in ("sbatch", "srun", "squeue"):
            if shutil.which(command) is None:
                raise BadInput(
                    f"LAUNCHER=slurm needs {command}, which is not on PATH; "
                    "start the bench on a cluster's login node, or leave LAUNCHER out"
                )

    def start(self, planned: PlannedJob, slot: Slot) -> SlurmJob:
        """Submit the job, or follow the one an earlier bench submitted."""
        return SlurmJob(planned, self)

    def adopts(self, planned: PlannedJob) -> bool:
        """Whether SLURM has the job."""
        identity = read_json(planned.files.slurm_launch).get("slurm_job")
        return identity is not None and self.state(identity) not in FINAL

    def parting(self) -> str:
        """What stays in the queue when the bench is interrupted."""
        if not self.following:
            return ""
        identities = " ".join(sorted(self.following, key=int))
        return f"SLURM keeps running the submitted jobs; to cancel them: scancel {identities}"

    def state(self, identity: str) -> str:
        """A job's state, in SLURM's terms; may be seconds old."""
        now = time.monotonic()
        if identity not in self._states or now - self._asked >= self.ask_every:
            asked = {identity, *self.following}
            states = self.ask(asked)
            if states is not None:
                self._states |= {name: states.get(name, "GONE") for name in asked}
            self._asked = now
        # If the controller does not answer, its jobs are not lost.
        return self._states.get(identity, "UNKNOWN")

    def ask(self, identities: set[str]) -> dict[str, str] | None:
        """The states of those jobs that SLURM still knows; None if it does not answer."""
        return squeue(identities)

    def cancelled_by_user(self, identity: str) -> bool:
        """Whether a job was cancelled by this user, or by an unknown one."""
        jobs = f"--jobs={identity}"
        command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=State", jobs]
        user = _output(command).partition(" by ")[2].strip()
        return not user.isdigit() or int(user) == os.getuid()

    def ended_by_signal(self, identity: str) -> bool:
        """Whether the signal sent before a time limit ended a job that was still starting."""
        shown = _output(["scontrol", "--oneliner", "show", "job", identity])
        code = re.search(r"\bExitCode=(\d+):(\d+)", shown)
        return code is not None and not {int(code[2]), int(code[1]) - 128}.isdisjoint(ASKING)

    def submit(self, planned: PlannedJob) -> str:
        """Submit a job; return its SLURM id."""
        from submitit.core.utils import FailedJobError

        planned.save()
        try:
            job = self.executor(planned).submit(
                task, str(planned.directory.resolve()), self.devices, planned.plugins
            )
        except (FailedJobError, subprocess.SubprocessError, OSError) as error:
            complaints = [line for line in str(error).splitlines() if "sbatch:" in line]
            complaint = complaints[0] if complaints else str(error)
            raise BadInput(
                f"SLURM rejected a job ({complaint.strip()}); change the --slurm options, "
                "or submit fewer at a time with --jobs"
            ) from error
        return str(job.job_id)

    def executor(self, planned: PlannedJob) -> Any:
        """submitit's executor, set up for a job."""
        import submitit

        executor = submitit.SlurmExecutor(planned.files.slurm.resolve(), max_num_timeout=0)
        executor.update_parameters(
            **executor_parameters(self.options, f"{planned.job.method}-{planned.job.seed}")
        )
        return executor


def squeue(identities: set[str]) -> dict[str, str] | None:
    """The states of those jobs that SLURM still knows; None if it does not answer."""
    jobs = f"--jobs={','.join(sorted(identities))}"
    command = ["squeue", "--noheader", "--states=all", "--format=%i %T", jobs]
    answer = _answer(command)
    if answer is None or (answer.returncode and "Invalid job id" not in answer.stderr):
        return None
    return dict(line.split(maxsplit=1) for line in answer.stdout.splitlines() if line.strip())


def _answer(command: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None


def _output(command: Sequence[str]) -> str:
    answer = _answer(command)
    return "" if answer is None else answer.stdout.strip()


def queued(plan: Sequence[PlannedJob]) -> dict[str, State]:
    """The jobs that SLURM has, by id, with their states."""
    launched = {
        planned.job.id: identity
        for planned in plan
        if (identity := read_json(planned.files.slurm_launch).get("slurm_job")) is not None
        and not planned.files.slurm_exit(identity).is_file()
    }
    if not launched:
        return {}
    states = squeue(set(launched.values()))
    if states is None:
        why = "SLURM job {}, for which squeue gives no state here"
        return {job: State("queued", why.format(identity)) for job, identity in launched.items()}
    here = {job: identity for job, identity in launched.items() if states.get(identity, "GONE") not in FINAL}
    return {
        job: State("queued" if states[identity] == "PENDING" else "running", f"SLURM job {identity}")
        for job, identity in here.items()
    }
