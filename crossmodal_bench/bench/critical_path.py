"""How long the jobs take that start from one another, and which of them cannot wait for a free slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from crossmodal_bench.bench.kinds import Kind, kind_of
from crossmodal_bench.jobs.planned import PlannedJob


def chain_lengths(jobs: Sequence[PlannedJob], seconds: Mapping[Kind, float]) -> dict[str, float]:
    """Seconds from the start of each job to the end of the last one that starts from it, by the jobs' ids.

    Args:
        jobs: those still to run.
        seconds: estimated time of a job, by kind, where known.
    """
    children: dict[str, list[PlannedJob]] = {}
    for planned in jobs:
        for parent in planned.parents.values():
            children.setdefault(parent.job.id, []).append(planned)
    lengths: dict[str, float] = {}

    def length(planned: PlannedJob) -> float:
        name = planned.job.id
        if name not in lengths:
            after = max((length(child) for child in children.get(name, [])), default=0.0)
            lengths[name] = seconds.get(kind_of(planned), 0.0) + after
        return lengths[name]

    for planned in jobs:
        length(planned)
    return lengths


def chain_after(planned: PlannedJob, jobs: Sequence[PlannedJob], lengths: Mapping[str, float]) -> float:
    """The longest chain among ``jobs`` that waits for this one; 0 if none does."""
    waiting = (other for other in jobs if planned.job.id in {p.job.id for p in other.parents.values()})
    return max((lengths[other.job.id] for other in waiting), default=0.0)


def by_urgency(
    jobs: Sequence[PlannedJob], seconds: Mapping[Kind, float], slots: int, running: float = 0.0
) -> list[PlannedJob]:
    """The jobs in the order in which to start them.

    That is the order given, so that the first rows of a table come first, except for a job whose chain takes
    as long as all the work that is left, shared among the slots: if it waited, the other slots would run out
    of work before its chain ended.

    Args:
        jobs: those still to run.
        seconds: estimated time of a job, by kind, where known.
        slots: number of jobs that run at a time.
        running: seconds that the running jobs still take.
    """
    lengths = chain_lengths(jobs, seconds)
    share = (running + sum(seconds.get(kind_of(planned), 0.0) for planned in jobs)) / slots
    if slots == 1 or not share:
        return list(jobs)
    urgent = [planned for planned in jobs if lengths[planned.job.id] >= share]
    # Sorting is stable: of two equal chains, the first given comes first.
    urgent.sort(key=lambda planned: -lengths[planned.job.id])
    return urgent + [planned for planned in jobs if lengths[planned.job.id] < share]
