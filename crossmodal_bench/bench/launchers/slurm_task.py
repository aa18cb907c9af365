"""What runs on the cluster: one process of a job, which leaves its exit status where the bench looks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from crossmodal_bench.bench.launchers.subprocesses import guarded, limit_threads
from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.core.process_group import TASK, global_rank
from crossmodal_bench.core.signals import AGAIN, listen_deferred
from crossmodal_bench.jobs.directory import JobDirectory, write_json
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.reporting.wandb.live import let_finish

TIME_TO_FINISH_RUN = 60.0
"""Seconds for the W&B follower to finish the run: SLURM ends all processes when the job's first ends."""


def task(folder: str, devices: str, plugins: Sequence[str] = ()) -> int:
    """Run one process of the job whose plan is in ``folder``, with the packages its user trusts.

    Exits with the job's status if that is not 0, so that SLURM ends the job's other processes.
    """
    # Replaces submitit's handler, which would requeue the job itself. Training may install its own.
    request = listen_deferred()
    os.environ[TASK] = "slurm"
    if "SLURM_CPUS_PER_TASK" in os.environ:
        limit_threads(int(os.environ["SLURM_CPUS_PER_TASK"]))
    trust(plugins)
    directory = Path(folder)
    if global_rank() > 0:
        return _leave(guarded(PlannedJob.load(directory), devices, request=request))
    files = JobDirectory(directory)
    with files.open_log() as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    status = 1
    try:
        status = guarded(PlannedJob.load(directory), devices, request=request)
    except SystemExit as leaving:
        # Lightning exits without a status when it was asked to stop.
        status = leaving.code if isinstance(leaving.code, int) else AGAIN
    finally:
        write_json(files.slurm_exit(_identity()), {"status": status})
        let_finish(TIME_TO_FINISH_RUN)
    return _leave(status)


def _leave(status: int) -> int:
    if status:
        sys.exit(status)
    return status


def _identity() -> str:
    from submitit import JobEnvironment

    return JobEnvironment().job_id
