"""Checkpoints on disk: where the previous one is kept, and whether one is intact."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch


def previous(path: Path) -> Path:
    """Where the predecessor of the checkpoint ``path`` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, judging by the checksums of its parts; empty if it is intact.

    torch.save writes a zip file with a CRC-32 for each part, which torch.load ignores: it would load a weight
    with a flipped bit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"the checksum of {broken} does not match"
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""
