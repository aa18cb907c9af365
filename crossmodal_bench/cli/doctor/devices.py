"""Cores, memory and accelerators available to this process, and what `auto` chooses given these."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import cache

import psutil

from crossmodal_bench.cli.doctor.findings import Finding, Target, size
from crossmodal_bench.core.machine import free_memory, memory_limit, usable_cores

ENOUGH_MEMORY = 4 * 2**30
"""Bytes that the default bench on synthetic data needs, with a margin."""


def cores(target: Target) -> Iterator[Finding]:
    """Cores by affinity mask and cgroup quota, compared with torch's number of threads."""
    import torch

    usable, why = usable_cores()
    threads = torch.get_num_threads()
    text = (
        f"{usable:g} of {os.cpu_count()} cores usable{f' ({why})' if why else ''}; torch's threads: {threads}"
    )
    if threads > max(1, usable):
        fix = f"export OMP_NUM_THREADS={max(1, int(usable))}"
        yield Finding("CPU", "warning", f"{text}: more threads than cores slow each other down", fix)
    else:
        yield Finding("CPU", "ok", text)


def memory(target: Target) -> Iterator[Finding]:
    """Free memory, and the cgroup's limit if lower."""
    text = f"{size(psutil.virtual_memory().available)} free"
    limit = memory_limit()
    if limit is not None:
        text += f", cgroup limit {size(limit)}"
    if free_memory() < ENOUGH_MEMORY:
        fix = (
            f"free memory, or raise the job's limit to {size(ENOUGH_MEMORY)} (SLURM: --mem; Docker: --memory)"
        )
        yield Finding("memory", "warning", text, fix)
    else:
        yield Finding("memory", "ok", text)


def accelerators(target: Target) -> Iterator[Finding]:
    """Every GPU with its free memory, and whether torch has kernels for it; also Apple's MPS."""
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
                name, "problem", f"{text}, for which torch ({', '.join(built)}) has no kernels", fix
            )
            continue
        free, total = torch.cuda.mem_get_info(index)
        text += f", {size(free)} of {size(total)} free"
        if free < total / 2:
            fix = "check nvidia-smi for other processes, or choose another GPU with CUDA_VISIBLE_DEVICES"
            yield Finding(name, "warning", text, fix)
        else:
            yield Finding(name, "ok", text)


def supported(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether a build for these architectures runs on a GPU of that capability.

    Machine code (``sm_``) runs on the same major version from its minor version on, PTX (``compute_``) on
    anything newer; an architecture with a letter suffix only on exactly that one.
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

    Queried once, by a check in this process, and cached: after a fork, CUDA reports no GPU to the child of a
    process that has already queried it.
    """
    from crossmodal_bench.training.devices import has_accelerator

    return has_accelerator()


def choices(target: Target) -> Iterator[Finding]:
    """What DEVICES=auto, PRESET=auto and no JOBS mean on this machine."""
    from crossmodal_bench.bench.launchers.local import slots
    from crossmodal_bench.bench.options import BenchOptions
    from crossmodal_bench.bench.plan import preset_for
    from crossmodal_bench.training.devices import can_fork, trainer_devices

    chosen = trainer_devices("auto")
    how = "forked from the bench" if can_fork("auto") else "separate processes"
    arguments = ", ".join(f"{name} {value}" for name, value in chosen.items())
    yield Finding("DEVICES=auto", "information", f"{arguments}; jobs are {how}")
    if not gpu_visible():
        found = slots(BenchOptions(), gpus=0, visible=None)
        threads = next(iter(found[0].environment.values()), "all")
        text = f"{len(found)} at a time, with {threads} thread{'' if threads == '1' else 's'} each"
        yield Finding("JOBS", "information", text if len(found) > 1 else "one at a time, with all threads")
    real, synthetic = (preset_for("auto", name, gpu=gpu_visible()) for name in ("flickr30k", "synthetic"))
    yield Finding("PRESET=auto", "information", f"{real} on real data, {synthetic} on synthetic data")
