"""Jobs on this machine: how many run at a time, and the GPUs and threads that each gets."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.launchers.subprocesses import THREADS, Worker
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.machine import total_memory, usable_cores
from crossmodal_bench.jobs.planned import PlannedJob

VISIBLE = "CUDA_VISIBLE_DEVICES"
MEMORY_PER_PROCESS = 4 * 2**30
"""Bytes that each process of a job on a CPU may need: preset `small` peaked at 0.8 to 4.1 GiB on 7,000
images."""
MOST_ON_CPU = 4
"""Jobs at a time on a CPU, by default: more would leave a job of a large machine too few threads."""


class Local:
    """Starts every job as processes on this machine.

    Raises:
        BadInput: more devices are asked for than there are.
    """

    allows_dry_runs = True

    def __init__(self, options: BenchOptions) -> None:
        # Counting GPUs might initialise their driver, after which nothing may fork: not for a CPU bench.
        gpus = 0 if options.devices == "cpu" else torch.cuda.device_count()
        self.slots = slots(options, gpus, os.environ.get(VISIBLE))

    def start(self, planned: PlannedJob, slot: Slot) -> Worker:
        """The job's worker, started."""
        return Worker(planned, slot.devices, slot.environment)

    def adopts(self, planned: PlannedJob) -> bool:
        """Whether a job already running elsewhere can be followed from here: never."""
        return False

    def parting(self) -> str:
        """What keeps running when this bench is interrupted: nothing."""
        return ""


def slots(options: BenchOptions, gpus: int, visible: str | None) -> list[Slot]:
    """One slot for each job that runs at a time.

    Args:
        options: ``devices`` is the number per job, and ``jobs`` the maximum number of jobs.
        gpus: number of GPUs that torch sees.
        visible: CUDA_VISIBLE_DEVICES; None if it is not set.

    Raises:
        BadInput: a single job asks for more GPUs than there are.
    """
    each = int(options.devices) if options.devices.isdigit() else 1
    if options.devices == "cpu" or not gpus:
        if options.devices != "cpu" and each > cores():
            raise BadInput(
                f"DEVICES is {each}, but there is no GPU, only a CPU with {cores()} cores; give at most "
                "that number, or cpu"
            )
        at_once = options.jobs or jobs_on_cpu(each)
        word = "cpu" if options.devices == "cpu" else str(each)
        return [Slot(word, threads(at_once * each))] * at_once
    groups = placements(visible_gpus(gpus, visible), each, options.jobs)
    if not groups:
        raise BadInput(f"DEVICES is {each}, but only {gpus} GPUs are visible; give at most {gpus}")
    shared = threads(len(groups) * each)
    return [Slot(str(each), {VISIBLE: group, **shared}) for group in groups]


def visible_gpus(count: int, variable: str | None) -> list[str]:
    """Names of ``count`` GPUs for CUDA_VISIBLE_DEVICES: indices, or the variable's present entries."""
    if variable is None:
        return [str(number) for number in range(count)]
    # CUDA reads this list up to the first invalid entry.
    return [entry.strip() for entry in variable.split(",")][:count]


def placements(gpus: Sequence[str], each: int, jobs: int | None) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each concurrent job, at most ``jobs``: ``each`` adjacent GPUs."""
    groups = [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]
    return groups[:jobs]


def jobs_on_cpu(each: int) -> int:
    """How many jobs of ``each`` processes run at a time if the user doesn't say.

    Small networks gain little from a second thread, and two jobs on a core each finish sooner than one after
    the other on both. Counts all memory, not what is free now: the same machine must give a resumed job the
    same number of threads.
    """
    return max(1, min(MOST_ON_CPU, cores() // each, total_memory() // (each * MEMORY_PER_PROCESS)))


def threads(processes: int) -> dict[str, str]:
    """The variable that divides the cores among the processes; empty for one, which may use all cores."""
    if processes == 1:
        return {}
    # Respect a smaller OMP_NUM_THREADS set by the user.
    return {THREADS: str(max(1, min(torch.get_num_threads(), cores() // processes)))}


def cores() -> int:
    """Cores that this process may use, at least 1."""
    return max(1, int(usable_cores()[0]))
