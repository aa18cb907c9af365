"""What a result was made by: sources, configuration, machine."""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
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


LIBRARIES = ("lightning", "transformers", "torchvision", "numpy", "scipy", "scikit-learn")
"""Those whose versions may move a digit, beside torch."""


def environment(device: str) -> dict[str, str]:
    """Versions, device and threads of this process, for the record.

    Sums are split among threads and among the lanes of a vector unit, so that their number decides the last
    bits of a sum, and training carries these into the digits that a table shows.
    """
    import torch
    from threadpoolctl import threadpool_info

    pools = (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in LIBRARIES},
        "crossmodal_bench": crossmodal_bench.__version__,
        "device": device,
        "threads": str(torch.get_num_threads()),
        "blas_threads": str(max(pools, default=1)),
        "cpu": _cpu(),
        "cpu_vectors": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
    }


def _version(library: str) -> str:
    name = "pytorch-lightning" if library == "lightning" else library
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _cpu() -> str:
    """The processor's name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine() or "unknown"
