"""Kinds of jobs: those that differ in nothing but their seed and what they override."""

from __future__ import annotations

from crossmodal_bench.jobs.planned import PlannedJob

Kind = tuple[str, str, str, str]


def kind_of(planned: PlannedJob) -> Kind:
    """Equal for jobs that take equally long."""
    job = planned.job
    return job.dataset, job.protocol, job.method, job.preset
