"""Cores and memory that this process may use: the machine's, less what masks and cgroups withhold."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> tuple[float, str]:
    """The number of cores this process may use, and what limits it, if anything."""
    every = os.cpu_count() or 1
    # macOS has no affinity mask.
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else every
    quotas = []
    for text in cgroup_values("cpu.max"):
        share, _, period = text.partition(" ")
        if share != "max":
            quotas.append(int(share) / int(period or 100_000))
    for share, period in zip(
        cgroup_values("cpu/cpu.cfs_quota_us"), cgroup_values("cpu/cpu.cfs_period_us"), strict=False
    ):
        if int(share) > 0:
            quotas.append(int(share) / int(period))
    least = min(quotas, default=float(every))
    if least < mask:
        return least, "quota of the cgroup"
    return float(mask), "affinity mask" if mask < every else ""


def cgroup_values(name: str) -> list[str]:
    """The contents of the files ``name`` of this process's cgroup and its ancestors.

    For cgroups v1, ``name`` is prefixed by the controller.
    """
    controller, _, file = name.rpartition("/")
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    values = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        base = CGROUPS / controller if controller else CGROUPS
        here = base / path.lstrip("/")
        # In a container the path may be the host's, of which only the root is mounted.
        for folder in (here, *here.parents):
            if folder == base.parent:
                break
            try:
                values.append((folder / file).read_text(encoding="utf-8").strip())
            except OSError:
                continue
    return values


def memory_limit() -> int | None:
    """The lowest limit of this process's cgroups in bytes; None if there is none."""
    values = [*cgroup_values("memory.max"), *cgroup_values("memory/memory.limit_in_bytes")]
    # cgroups v1 states a number near 2**63 for no limit.
    limits = [int(text) for text in values if text.isdigit() and int(text) < 2**60]
    return min(limits, default=None)


def free_memory() -> int:
    """Bytes of memory that are free, or the cgroup's limit if lower."""
    free = psutil.virtual_memory().available
    return min(free, memory_limit() or free)


def total_memory() -> int:
    """Bytes of the machine's memory, or the cgroup's limit if lower."""
    total = psutil.virtual_memory().total
    return min(total, memory_limit() or total)
