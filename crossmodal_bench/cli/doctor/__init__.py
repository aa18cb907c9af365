"""`crossmodal-bench doctor`: what this machine can do, what is missing, and how to fix it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module

from crossmodal_bench.cli.doctor.findings import Check, Finding, Target, guarded, within
from crossmodal_bench.cli.doctor.listing import as_json, print_area, print_end

DISK = 5.0
"""Seconds for a check of a disk, which may be an unreachable network disk."""

AREAS: dict[str, tuple[str, dict[str, float | None]]] = {
    "Software": ("software", {"versions": None, "torchvision": None, "driver": None, "encoding": None}),
    "Devices": ("devices", {"cores": None, "memory": None, "accelerators": None, "choices": None}),
    "Communication": ("communication", {"gloo": None, "nccl": None, "hosts": None, "launchers": None}),
    "Limits": ("limits", {"shared_memory": None, "open_files": None, "processes": None}),
    "Disk": ("disk", {"runs": DISK, "cache": DISK, "temporary": DISK}),
    "Data": ("data", {"data_sets": None}),
    "Weights": ("weights", {"networks": DISK, "language_models": DISK, "offline": None}),
    "Records": ("records", {"jobs": DISK, "clock": DISK, "wandb": DISK, "uploads": DISK}),
}
"""Each area's module and its checks, with their timeouts in seconds."""


def diagnose(target: Target) -> Iterator[tuple[str, list[Finding]]]:
    """Yield every area with its findings; never raises."""
    for area, (module, checks) in AREAS.items():
        findings: list[Finding] = []
        for name, seconds in checks.items():
            run = partial(_run, module, name, target)
            findings += guarded(name, run) if seconds is None else within(seconds, name, run)
        yield area, findings


def _run(module: str, name: str, target: Target) -> Iterator[Finding]:
    # Imported here because a failing import must become a finding, too.
    check: Check = getattr(import_module(f"{__name__}.{module}"), name)
    yield from check(target)


def doctor(target: Target, *, machine_readable: bool = False) -> int:
    """Print all findings, as a listing or as JSON.

    Returns:
        0; 1 if there is a problem. Warnings do not count.
    """
    start = time.monotonic()
    areas = {}
    for area, findings in diagnose(target):
        areas[area] = findings
        if not machine_readable:
            print_area(area, findings)
    everything = [finding for findings in areas.values() for finding in findings]
    if machine_readable:
        print(as_json(areas))
    else:
        print_end(everything, time.monotonic() - start)
    return int(any(finding.status == "problem" for finding in everything))
