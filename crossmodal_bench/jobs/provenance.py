"""What a result was made by: sources, configuration, machine."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import crossmodal_bench

ROOMS = (
    "core",
    "networks",
    "losses",
    "similarity",
    "caption_metrics",
    "data",
    "evaluation",
    "methods",
    "training",
)
"""Packages whose sources decide a result; the bench, its reports and the command line do not."""

AROUND = ("root", "cache", "seed")
"""Settings of the data module that are no part of what a job measures."""


@cache
def _source_digest() -> str:
    root = Path(crossmodal_bench.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for room in ROOMS for path in (root / room).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()


def source_fingerprint(config: dict[str, Any]) -> str:
    """16 hex digits over the sources and the resolved configuration.

    Neither the seed, so that the seeds of a row can be seen to belong together, nor where files lie on this
    machine.
    """
    data = {name: value for name, value in config.get("data", {}).items() if name not in AROUND}
    settings = {**config, "data": data}
    settings.pop("seed_everything", None)
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256((_source_digest() + text).encode()).hexdigest()[:16]


def environment(device: str) -> dict[str, str]:
    """Versions and device, for the record."""
    import torch

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        # Importing it takes seconds, and vectors are scored without it.
        "lightning": version("pytorch-lightning"),
        "crossmodal_bench": crossmodal_bench.__version__,
        "device": device,
        "platform": platform.platform(),
    }
