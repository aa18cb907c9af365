"""Which jobs wait for the jobs they start from, and which of them will never be able to start."""

from __future__ import annotations

from collections.abc import Collection

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.state import State, state_of, unfinished_parents


def needs(planned: PlannedJob, failed: Collection[str], options: BenchOptions) -> str:
    """Why a job cannot start, e.g. "needs scan, which failed"; empty if it can.

    Args:
        planned: the job.
        failed: ids of the jobs that have failed in this bench.
        options: the bench's options; a stale parent only runs again with RERUN=stale.
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


def can_never_start(planned: PlannedJob, coming: Collection[str]) -> bool:
    """Whether some parent is not done, not running, and not among ``coming``, the ids of jobs yet to run."""
    return any(
        state.name != "running" and planned.parents[name].job.id not in coming
        for name, state in unfinished_parents(planned).items()
    )


def blocked_state(planned: PlannedJob, failed: Collection[str], options: BenchOptions) -> State | None:
    """The state of a job that was not started because a parent is missing; None for all other jobs."""
    state = state_of(planned).name
    startable = state in ("not started", "failed") or (state == "stale" and options.rerun == "stale")
    if planned.job.id in failed or not startable:
        return None
    why = needs(planned, failed, options)
    return State("skipped", why) if why else None
