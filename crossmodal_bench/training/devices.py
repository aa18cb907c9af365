"""What DEVICES means: Lightning's arguments for it, and whether jobs on them may be forked."""

from __future__ import annotations

import multiprocessing
from typing import Any

import torch


def has_accelerator() -> bool:
    """Whether torch sees something faster than the CPU; a process that used it cannot fork."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def can_fork(devices: str) -> bool:
    """Whether it is one CPU process on a system that forks, which saves seconds of imports per job."""
    on_cpu = devices == "cpu" or not has_accelerator()
    return on_cpu and devices in ("auto", "cpu", "1") and "fork" in multiprocessing.get_all_start_methods()


def trainer_devices(
    devices: str, ddp_strategy: str = "ddp", gpu_precision: str = "32-true"
) -> dict[str, Any]:
    """Trainer arguments for a value of DEVICES, with the method's settings for several devices and for GPUs.

    Batch norms are synchronised across GPUs. Across CPU processes they are not: PyTorch has no synchronised
    batch norm for CPUs, and Lightning would convert them regardless, so that the first step would fail.
    """
    if devices == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    count = 1 if devices == "auto" else int(devices)
    chosen: dict[str, Any] = {"accelerator": "auto", "devices": count}
    if devices == "auto" and torch.cuda.device_count() > 1:
        chosen = {"accelerator": "gpu", "devices": -1}
    if chosen["devices"] != 1:
        chosen["strategy"] = ddp_strategy
        if torch.cuda.is_available():
            chosen["sync_batchnorm"] = True
    if torch.cuda.is_available() and gpu_precision != "32-true":
        chosen["precision"] = gpu_precision
    return chosen
