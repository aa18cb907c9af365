"""Which jobs wait for the jobs that they start from, and which wait in vain."""

from __future__ import annotations

from collections.abc import Collection

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.state import State, state_of, unfinished_parents


def needs(planned: PlannedJob, failed: Collection[str], options: BenchOptions) -> str:
    """What keeps a job from being started, as "needs scan, which failed"; empty where nothing does.

    Args:
        planned: the job.
        failed: ids of the jobs that have failed in this bench.
        options: the bench's words; only with RERUN=stale will a stale parent become anything else.
    """
    for name, state in unfinished_parents(planned).items():
        if planned.parents[name].job.id in failed or state.name == "failed":
            return f"needs {name}, which failed"
        if state.name == "running":
            return f"needs {name}, which is running"
        if state.name == "stale" and options.rerun != "stale":
            return f"needs {name}, which is stale; RERUN=stale runs it again"
        if state.name == "unreadable":
            return f"needs {name}, whose record cannot be read"
        return f"needs {name}, which is skipped"
    return ""


def waits_in_vain(planned: PlannedJob, coming: Collection[str]) -> bool:
    """Whether some parent is neither done, nor running, nor among the jobs ``coming``, given by their ids."""
    return any(
        state.name != "running" and planned.parents[name].job.id not in coming
        for name, state in unfinished_parents(planned).items()
    )


def held_back(planned: PlannedJob, failed: Collection[str], options: BenchOptions) -> State | None:
    """The state to tell of a job that a bench has not started for want of a parent; None for all others."""
    state = state_of(planned).name
    startable = state in ("not started", "failed") or (state == "stale" and options.rerun == "stale")
    if planned.job.id in failed or not startable:
        return None
    why = needs(planned, failed, options)
    return State("skipped", why) if why else None
