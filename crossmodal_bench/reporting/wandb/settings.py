"""The part of a job's W&B configuration known before it has a record."""

from __future__ import annotations

from typing import Any

from crossmodal_bench.core.files import parse_yaml
from crossmodal_bench.jobs.directory import JobDirectory, read_own
from crossmodal_bench.jobs.portable_paths import without_folders
from crossmodal_bench.jobs.record import Job, row_name

LARGEST_CONFIGURATION = 2**20
"""Maximum size of a resolved configuration, in bytes."""


def described(job: Job, files: JobDirectory) -> dict[str, Any]:
    """Names to filter by, and all settings.

    ``row`` is equal for the seeds of one row of a leaderboard; ``settings`` is the resolved configuration,
    empty if missing. Neither contains folders of this machine.
    """
    content = {
        "method": job.method,
        "row": row_name(job.method, job.label, job.overrides),
        "dataset": job.dataset,
        "protocol": job.protocol,
        "preset": job.preset,
        "seed": job.seed,
        "job": job.model_dump(),
        "settings": _settings(files),
    }
    return without_own_folders(content, files)


def without_own_folders(content: dict[str, Any], files: JobDirectory) -> dict[str, Any]:
    """The contents without this machine's folders, which do not concern viewers of the run."""
    data = _settings(files).get("data")
    root = data.get("root") if isinstance(data, dict) else None
    return without_folders(content, root if isinstance(root, str) else "", files.path.parents[2])


def _settings(files: JobDirectory) -> dict[str, Any]:
    """The resolved configuration; empty if missing or invalid."""
    try:
        settings = parse_yaml(read_own(files.config, LARGEST_CONFIGURATION).decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}
