"""Jobs on this machine: how many run at a time, and the GPUs and threads that each gets."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.launchers.subprocesses import THREADS, Worker
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.planned import PlannedJob

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Local:
    """Starts every job as processes of this machine.

    Raises:
        BadInput: more devices are asked for than there are.
    """

    allows_dry_runs = True

    def __init__(self, options: BenchOptions) -> None:
        # Counting GPUs for a bench on the CPU might start their driver, after which nothing may fork.
        gpus = 0 if options.devices == "cpu" else torch.cuda.device_count()
        self.slots = slots(options, gpus, os.environ.get(VISIBLE))

    def start(self, planned: PlannedJob, slot: Slot) -> Worker:
        """The job's worker, started."""
        return Worker(planned, slot.devices, slot.environment)

    def adopts(self, planned: PlannedJob) -> bool:
        """Whether a job that somebody works on is followed from here: never, it is not ours."""
        return False

    def parting(self) -> str:
        """What goes on when this bench is interrupted: nothing."""
        return ""


def slots(options: BenchOptions, gpus: int, visible: str | None) -> list[Slot]:
    """One for each of the jobs that run at a time.

    Args:
        options: of which ``devices`` says how many one job takes, and ``jobs`` how many run at most.
        gpus: how many torch sees.
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.

    Raises:
        BadInput: a single job asks for more GPUs than there are.
    """
    each = int(options.devices) if options.devices.isdigit() else 1
    if options.devices == "cpu" or not gpus:
        if options.devices != "cpu" and each > _cores():
            raise BadInput(
                f"DEVICES is {each} and there is no GPU, but a CPU of {_cores()} cores; give at most as "
                "many, or cpu"
            )
        at_once = options.jobs or 1
        word = "cpu" if options.devices == "cpu" else str(each)
        return [Slot(word, threads(at_once * each))] * at_once
    groups = placements(visible_gpus(gpus, visible), each, options.jobs)
    if not groups:
        raise BadInput(f"DEVICES is {each} and {gpus} GPUs are visible; give at most {gpus}")
    shared = threads(len(groups) * each)
    return [Slot(str(each), {VISIBLE: group, **shared}) for group in groups]


def visible_gpus(count: int, variable: str | None) -> list[str]:
    """Names of ``count`` GPUs, as CUDA_VISIBLE_DEVICES takes them: numbers, or its own present entries."""
    if variable is None:
        return [str(number) for number in range(count)]
    # CUDA reads that list up to the first entry that it does not know.
    return [entry.strip() for entry in variable.split(",")][:count]


def placements(gpus: Sequence[str], each: int, jobs: int | None) -> list[str]:
    """CUDA_VISIBLE_DEVICES of every job that runs at a time, at most ``jobs``: ``each`` neighbours."""
    groups = [",".join(gpus[start : start + each]) for start in range(0, len(gpus) - each + 1, each)]
    return groups[:jobs]


def threads(processes: int) -> dict[str, str]:
    """The variable that shares the cores among that many processes; none for one, which may have them all."""
    if processes == 1:
        return {}
    cores = _cores()
    # Whoever has set OMP_NUM_THREADS to less means less.
    return {THREADS: str(max(1, min(torch.get_num_threads(), cores // processes)))}


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
