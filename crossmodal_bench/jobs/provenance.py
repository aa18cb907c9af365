"""The machine and the versions that a result was made with; ``jobs.fingerprints`` has the sources."""

from __future__ import annotations

import functools
import platform
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import crossmodal_bench

LIBRARIES = ("lightning", "transformers", "torchvision", "numpy", "scipy", "scikit-learn")
"""Those whose versions may move a digit, beside torch."""


def environment(device: str) -> dict[str, str]:
    """Commit, versions, device and threads of this process, for the record.

    Sums are split among threads and among the lanes of a vector unit, so that their number decides the last
    bits of a sum, and training carries these into the digits that a table shows.
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
    """The checkout's commit, with "+changes" where files of the package differ from it; empty for a wheel.

    An installed package may lie within the checkout of something else, whose commit says nothing of it.
    """
    folder = Path(crossmodal_bench.__file__).resolve().parent.parent
    top, _, head = _git(folder, "rev-parse", "--show-toplevel", "HEAD").strip().partition("\n")
    if not head or Path(top).resolve() != folder:
        return ""
    changes = _git(folder, "status", "--porcelain", "--", "crossmodal_bench", "experiments")
    return f"{head}+changes" if changes.strip() else head


def _git(folder: Path, *words: str) -> str:
    """What git says of a folder; nothing where it is not there, or refuses."""
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
    """The processor's name, as far as the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, name = line.partition(":")
            if key.strip() == "model name" and name.strip():
                return name.strip()
    return platform.processor() or platform.machine() or "unknown"
