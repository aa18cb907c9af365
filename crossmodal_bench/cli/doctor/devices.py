"""Cores, memory and accelerators that this process may use, and what `auto` chooses with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import psutil

from crossmodal_bench.cli.doctor.findings import Finding, Target, size

CGROUPS = Path("/sys/fs/cgroup")
ENOUGH_MEMORY = 4 * 2**30
"""Bytes that the default bench on synthetic data takes, with room beside it."""


def cores(target: Target) -> Iterator[Finding]:
    """Cores of the affinity mask and of the cgroup's quota, against the threads that torch would start."""
    import torch

    usable, why = usable_cores()
    threads = torch.get_num_threads()
    text = (
        f"{usable:g} of {os.cpu_count()} cores usable{f' ({why})' if why else ''}; torch's threads: {threads}"
    )
    if threads > max(1, usable):
        fix = f"export OMP_NUM_THREADS={max(1, int(usable))}"
        yield Finding("CPU", "warning", f"{text}: more threads than cores wait for each other", fix)
    else:
        yield Finding("CPU", "ok", text)


def usable_cores() -> tuple[float, str]:
    """How many cores this process may keep busy, and what limits it, if something does."""
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
    """What the files ``name`` of this process's cgroup and of those above it say.

    ``name`` has the controller in front where it is of cgroups' first version.
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
        # In a container the path may be the host's, of which nothing but the top is mounted.
        for folder in (here, *here.parents):
            if folder == base.parent:
                break
            try:
                values.append((folder / file).read_text(encoding="utf-8").strip())
            except OSError:
                continue
    return values


def memory(target: Target) -> Iterator[Finding]:
    """Free memory, and the cgroup's limit where that is less."""
    free = psutil.virtual_memory().available
    limit = memory_limit()
    text = f"{size(free)} free"
    if limit is not None:
        text += f", limit of the cgroup {size(limit)}"
    if min(free, limit or free) < ENOUGH_MEMORY:
        fix = (
            f"free memory, or raise the job's limit to {size(ENOUGH_MEMORY)} (SLURM: --mem; Docker: --memory)"
        )
        yield Finding("memory", "warning", text, fix)
    else:
        yield Finding("memory", "ok", text)


def memory_limit() -> int | None:
    """The least limit of this process's cgroups in bytes; None if there is none."""
    values = [*cgroup_values("memory.max"), *cgroup_values("memory/memory.limit_in_bytes")]
    # The first version of cgroups has a number near 2**63 for no limit.
    limits = [int(text) for text in values if text.isdigit() and int(text) < 2**60]
    return min(limits, default=None)


def accelerators(target: Target) -> Iterator[Finding]:
    """Every GPU with its free memory, and whether torch's build has kernels for it; Apple's MPS."""
    import torch

    if torch.backends.mps.is_available():
        yield Finding("MPS", "ok", "Apple's GPU is available")
    if not torch.cuda.is_available():
        if not torch.backends.mps.is_available():
            yield Finding("GPU", "information", "none: everything runs on the CPU")
        return
    built = torch.cuda.get_arch_list()
    for index in range(torch.cuda.device_count()):
        name = f"GPU {index}"
        capability = torch.cuda.get_device_capability(index)
        text = f"{torch.cuda.get_device_name(index)}, compute capability {capability[0]}.{capability[1]}"
        if not supported(capability, built):
            fix = "install torch's wheels of another CUDA version that support it, or use DEVICES=cpu"
            yield Finding(
                name, "problem", f"{text}, which torch ({', '.join(built)}) has no kernels for", fix
            )
            continue
        free, total = torch.cuda.mem_get_info(index)
        text += f", {size(free)} of {size(total)} free"
        if free < total / 2:
            fix = "see in nvidia-smi who has it; choose another with CUDA_VISIBLE_DEVICES"
            yield Finding(name, "warning", text, fix)
        else:
            yield Finding(name, "ok", text)


def supported(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether a build for these architectures runs on a GPU of that capability.

    Machine code (``sm_``) runs on the same major version from its minor on, PTX (``compute_``) on anything
    newer; an architecture with a letter behind it on that one alone.
    """
    for name in built:
        kind, _, number = name.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        architecture = (int(digits[:-1]), int(digits[-1]))
        if architecture == capability and kind == "sm":
            return True
        same_code = kind == "compute" or (kind == "sm" and architecture[0] == capability[0])
        if same_code and digits == number and architecture <= capability:
            return True
    return not built


@cache
def gpu_visible() -> bool:
    """Whether the bench sees something faster than the CPU.

    Asked once and remembered, by a check that runs in this process: CUDA tells a process that was forked from
    one that has asked it that there is none.
    """
    from crossmodal_bench.training.devices import has_accelerator

    return has_accelerator()


def choices(target: Target) -> Iterator[Finding]:
    """What DEVICES=auto and PRESET=auto are here."""
    from crossmodal_bench.bench.plan import preset_for
    from crossmodal_bench.training.devices import can_fork, trainer_devices

    chosen = trainer_devices("auto")
    how = "forked from the bench" if can_fork("auto") else "each a new program"
    arguments = ", ".join(f"{name} {value}" for name, value in chosen.items())
    yield Finding("DEVICES=auto", "information", f"{arguments}; jobs are {how}")
    real, synthetic = (preset_for("auto", name, gpu=gpu_visible()) for name in ("flickr30k", "synthetic"))
    yield Finding("PRESET=auto", "information", f"{real} on real data, {synthetic} on synthetic data")
