"""Versions of Python and dependencies, whether torch, torchvision and driver match, and text encoding."""

from __future__ import annotations

import ctypes
import importlib.metadata
import locale
import platform
import sys
from collections.abc import Iterator

from crossmodal_bench.cli.doctor.findings import Finding, Target

PACKAGE = "crossmodal-bench"


def versions(target: Target) -> Iterator[Finding]:
    """Python and every dependency against the lower bounds of the package's metadata."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    try:
        asked = str(importlib.metadata.metadata(PACKAGE).json.get("requires_python", ""))
        lines = importlib.metadata.requires(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        text = f"{PACKAGE} is not installed, so its lower bounds are unknown"
        fix = "install it: pip install -e . in the checkout, or make setup"
        yield Finding("versions", "warning", text, fix)
        return
    python = platform.python_version()
    if SpecifierSet(asked).contains(python, prereleases=True):
        yield Finding("Python", "ok", f"{python} ({asked})")
    else:
        fix = f"create an environment with Python {asked}: make clean, then make setup PYTHON=path"
        yield Finding("Python", "problem", f"{python} is not {asked}", fix)
    good = []
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        fix = f"pip install '{requirement.name}{requirement.specifier}' (make setup does all of them)"
        try:
            installed = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(requirement.name, "problem", "not installed", fix)
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            good.append(f"{requirement.name} {installed}")
        else:
            text = f"{installed} is installed, but {requirement.specifier} is required"
            yield Finding(requirement.name, "problem", text, fix)
    if good:
        yield Finding("dependencies", "ok", ", ".join(good))


def torchvision(target: Target) -> Iterator[Finding]:
    """Whether torchvision's compiled operators match this torch, tested by running one."""
    import torch

    name = "torch and torchvision"
    try:
        from torchvision import __version__
        from torchvision.ops import nms

        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    except Exception as error:
        text = f"torchvision does not work with torch {torch.__version__} ({str(error).splitlines()[0]})"
        fix = "install both together from the same index: pip install --force-reinstall torch torchvision"
        yield Finding(name, "problem", text, fix)
    else:
        yield Finding(name, "ok", f"{torch.__version__} and {__version__} work together")


def driver(target: Target) -> Iterator[Finding]:
    """Compare the CUDA version of torch with the one supported by the driver."""
    import torch

    built = torch.version.cuda
    known = driver_cuda()
    if built is None:
        if known is not None:
            text = f"torch {torch.__version__} has no CUDA, but there is a driver for CUDA {version(known)}"
            fix = "install torch's CUDA wheels (see pytorch.org for the index), or use DEVICES=cpu"
            yield Finding("CUDA", "warning", text, fix)
        else:
            yield Finding("CUDA", "information", "torch has no CUDA, and there is no NVIDIA driver")
    elif known is None:
        yield Finding("CUDA", "information", f"torch was built with CUDA {built}; no NVIDIA driver was found")
    else:
        yield judged_driver(built, known, torch.cuda.is_available())


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA version supported by the driver, as (major, minor); None without a driver."""
    number = ctypes.c_int(0)
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return None if status or not number.value else (number.value // 1000, number.value % 1000 // 10)


def judged_driver(built: str, known: tuple[int, int], available: bool) -> Finding:
    """A driver supports every CUDA release of its own major version, and older ones."""
    text = f"torch was built with CUDA {built}, the driver supports {version(known)}"
    if int(built.split(".")[0]) > known[0]:
        fix = f"update the NVIDIA driver for CUDA {built}, or install torch's wheels for CUDA {known[0]}"
        return Finding("CUDA", "problem", text, fix)
    if not available:
        fix = "check nvidia-smi and CUDA_VISIBLE_DEVICES; start a container with its GPUs (--gpus all)"
        return Finding("CUDA", "warning", f"{text}, but torch sees no GPU", fix)
    return Finding("CUDA", "ok", text)


def version(number: tuple[int, int]) -> str:
    """In NVIDIA's notation."""
    return f"{number[0]}.{number[1]}"


def encoding(target: Target) -> Iterator[Finding]:
    """Whether file names and text use UTF-8, which captions and reports need."""
    used = {
        "file names": sys.getfilesystemencoding(),
        "files": locale.getpreferredencoding(False),
        "output": getattr(sys.stdout, "encoding", None) or "utf-8",
    }
    wrong = {
        what: name for what, name in used.items() if name.lower().replace("-", "") not in ("utf8", "utf8sig")
    }
    if wrong:
        text = ", ".join(f"{what} in {name}" for what, name in wrong.items())
        yield Finding("encoding", "warning", f"{text} instead of UTF-8", "export LC_ALL=C.UTF-8 PYTHONUTF8=1")
    else:
        yield Finding("encoding", "ok", "UTF-8 for names, files and output")
