"""Checkpoints on the disk: where the one before lies, and whether one is whole."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch


def previous(path: Path) -> Path:
    """Where the checkpoint before ``path`` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def damage(path: Path) -> str:
    """What is wrong with a checkpoint, by the checksums of its parts; empty where nothing is.

    torch.save writes a zip file with a CRC-32 of each part, which torch.load does not look at: it would read
    a weight with a flipped bit.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is not None:
            return f"the checksum of {broken} does not fit"
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        return (str(error).splitlines() or [type(error).__name__])[0]
    return ""
