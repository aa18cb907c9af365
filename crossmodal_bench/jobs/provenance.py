"""The machine and the library versions behind a result; ``jobs.fingerprints`` covers the sources."""

from __future__ import annotations

import functools
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import crossmodal_bench

LIBRARIES = ("lightning", "transformers", "torchvision", "numpy", "scipy", "scikit-learn")
"""Libraries, besides torch, whose version may change a digit."""


def environment(device: str) -> dict[str, str]:
    """Commit, versions, device and threads of this process, for the record.

    Sums are split among threads and SIMD lanes, so their number affects the last bits of a sum, and training
    amplifies these into the digits that a table shows.
    """
    import torch
    from threadpoolctl import threadpool_info

    pools = (pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
    made_by = commit()
    return {
        **({"commit": made_by} if made_by else {}),
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


@functools.cache
def commit() -> str:
    """The checkout's commit, with "+changes" if files of the package differ from it; empty for a wheel.

    An installed package may be inside an unrelated checkout, whose commit says nothing about it.
    """
    folder = Path(crossmodal_bench.__file__).resolve().parent.parent
    top, _, head = _git(folder, "rev-parse", "--show-toplevel", "HEAD").strip().partition("\n")
    if not head or Path(top).resolve() != folder:
        return ""
    changes = _git(folder, "status", "--porcelain", "--", "crossmodal_bench", "experiments")
    return f"{head}+changes" if changes.strip() else head


def _git(folder: Path, *words: str) -> str:
    """Git's output for a folder; empty if git is missing or fails."""
    with suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
            stdin=subprocess.DEVNULL,
        )
        return answer.stdout
    return ""


def _version(library: str) -> str:
    name = "pytorch-lightning" if library == "lightning" else library
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _cpu() -> str:
    """The processor's name, if the system provides it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine() or "unknown"
