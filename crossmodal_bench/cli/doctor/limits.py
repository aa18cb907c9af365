"""Shared memory, open files and processes: what loader processes and ADDR's discriminators need."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from crossmodal_bench.cli.doctor.findings import Finding, Status, Target, size
from crossmodal_bench.core.machine import cgroup_values, free_memory

SHARED = Path("/dev/shm")
MOST_LOADERS = 8
BYTES_PER_LOADER = 2 * 64 * 3 * 224**2 * 4
"""Two prefetched batches of 64 pictures of 224 x 224 pixels in float32."""
FEW_FILES = 1024
TOO_FEW_FILES = 256
FEW_PROCESSES = 256


def shared_memory(target: Target) -> Iterator[Finding]:
    """/dev/shm compared with what loader processes pass through it."""
    import torch

    if not SHARED.is_dir():
        yield Finding("shared memory", "information", f"this system has no {SHARED}")
        return
    loaders = min(os.cpu_count() or 1, MOST_LOADERS) if torch.cuda.is_available() else 0
    yield judged_shared_memory(psutil.disk_usage(str(SHARED)).free, loaders)


def judged_shared_memory(free: int, loaders: int) -> Finding:
    """Whether the free bytes suffice for that many loader processes; without a GPU there are none."""
    need = loaders * BYTES_PER_LOADER
    text = f"{SHARED} has {size(free)} free"
    what = (
        f"{loaders} loader processes need {size(need)}"
        if need
        else "without a GPU there are no loader processes that need it"
    )
    if free < need:
        fix = "enlarge it (docker run --shm-size=4g, or --ipc=host), or --set data.num_workers=0"
        return Finding("shared memory", "warning", f"{text}; {what}", fix)
    return Finding("shared memory", "ok", f"{text}; {what}")


def discriminators(dataset: str, rows: int, dim: int, *, several: bool) -> Finding:
    """Whether there is memory for ADDR's discriminators, one per training image.

    MS-COCO's take 1.39 GB on SCAN and BFAN, and 2.79 GB on VSRN, whose fragments are twice as wide.

    Args:
        dataset: its name.
        rows: number of training images.
        dim: dimension of a region or word vector.
        several: whether training uses several devices, whose processes share the discriminators in /dev/shm;
            a single process keeps them in its own memory.
    """
    from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank

    need = DiscriminatorBank.size(rows, dim)
    text = f"ADDR's {rows:,} discriminators of width {dim} take {size(need)}"
    name = f"{dataset}: ADDR, width {dim}"
    if several and SHARED.is_dir():
        free = psutil.disk_usage(str(SHARED)).free
        where = str(SHARED)
        fix = "enlarge it (docker run --shm-size, mount -o remount,size=), or use DEVICES=1"
    else:
        free = free_memory()
        where = "memory"
        fix = "free memory, raise the job's limit, or choose METHODS without addr_*"
    if need > free:
        return Finding(name, "warning", f"{text}, {where} has {size(free)} free", fix)
    return Finding(name, "ok", f"{text} of {where}")


def open_files(target: Target) -> Iterator[Finding]:
    """The limit of open files; loader processes and their queues need hundreds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= FEW_FILES:
        yield Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}")
        return
    wanted = FEW_FILES * 4
    if hard == resource.RLIM_INFINITY or hard >= FEW_FILES:
        fix = f"ulimit -n {wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)}"
    else:
        fix = f"request a limit of {FEW_FILES} (limits.conf; docker run --ulimit nofile={wanted})"
    status: Status = "problem" if soft < TOO_FEW_FILES else "warning"
    yield Finding("open files", status, f"at most {soft}", fix)


def processes(target: Target) -> Iterator[Finding]:
    """The limit of processes and threads, for the user and the cgroup."""
    limits = [
        int(text) for name in ("pids.max", "pids/pids.max") for text in cgroup_values(name) if text.isdigit()
    ]
    if hasattr(resource, "RLIMIT_NPROC"):
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limits += [soft] if soft != resource.RLIM_INFINITY else []
    least = min(limits, default=None)
    if least is None:
        yield Finding("processes", "ok", "no limit")
    elif least < FEW_PROCESSES:
        fix = "ulimit -u 4096 (limits.conf; docker run --pids-limit=-1), and export OMP_NUM_THREADS=1"
        yield Finding("processes", "warning", f"at most {least}, counting every thread", fix)
    else:
        yield Finding("processes", "ok", f"up to {least}")
