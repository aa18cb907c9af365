"""Kinds of jobs: jobs of one kind differ only in seed and overrides."""

from __future__ import annotations

from crossmodal_bench.jobs.planned import PlannedJob

Kind = tuple[str, str, str, str]


def kind_of(planned: PlannedJob) -> Kind:
    """Equal for jobs that take equally long."""
    job = planned.job
    return job.dataset, job.protocol, job.method, job.preset
