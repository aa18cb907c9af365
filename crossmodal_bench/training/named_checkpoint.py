"""The checkpoint that a command line or a configuration names for `fit` or `test` to start from."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from lightning_fabric.plugins.environments import SLURMEnvironment

from crossmodal_bench.core.checkpoint_files import damage
from crossmodal_bench.core.errors import BadInput, tell

PATTERNS = {
    "last": ("*.ckpt", "checkpoints/*.ckpt"),
    "hpc": ("hpc_ckpt_*.ckpt",),
}
"""Words that mean the newest matching file, and the patterns that match below the trainer's folder."""
ALWAYS = ("state_dict", "pytorch-lightning_version")
TO_GO_ON = ("optimizer_states", "loops")
"""Keys that a weights-only checkpoint lacks."""


def named_checkpoint(word: str, folder: Path, *, in_file: bool, to_go_on: bool) -> Path | None:
    """The file that is meant; None for ``last`` if nothing has been saved yet.

    Args:
        word: a path, ``last`` or ``hpc``.
        folder: the trainer's, to which it writes its checkpoints.
        in_file: whether a configuration names it rather than the user: then it must be one that this user's
            own training has saved in that folder.
        to_go_on: whether training resumes from it, for which weights alone are not enough.

    Raises:
        BadInput: it is missing, damaged, not a checkpoint, or another user's.
    """
    if word == "best":
        raise BadInput("--ckpt_path best only works after training in the same process; name the file")
    if word in PATTERNS:
        ours = [path for pattern in PATTERNS[word] for path in folder.glob(pattern) if _is_ours(path)]
        if not ours and word == "hpc":
            raise BadInput(f"--ckpt_path hpc: {folder} has no hpc_ckpt_*.ckpt of yours; name a checkpoint")
        if not ours:
            tell(f"warning: {folder} has no checkpoint of yours yet; training from scratch", sys.stderr)
            return None
        path = max(ours, key=lambda candidate: candidate.stat().st_mtime_ns)
    else:
        path = Path(word)
        if not path.is_file():
            raise BadInput(f"--ckpt_path {word} does not exist; name a checkpoint written by fit")
        if in_file and not (_is_ours(path) and path.resolve().is_relative_to(folder.resolve())):
            raise BadInput(
                f"configuration key 'ckpt_path' is '{word}', which your own training did not write to "
                f"{folder}; to use it anyway, pass it as --ckpt_path on the command line"
            )
    wrong = damage(path) or _lacking(path, (*ALWAYS, *(TO_GO_ON if to_go_on else ())))
    if wrong:
        raise BadInput(f"--ckpt_path {path} cannot be used ({wrong}); name a checkpoint written by fit")
    return path


def requeued_checkpoint(folder: Path, *, to_go_on: bool, writes_them: bool) -> Path | None:
    """The checkpoint that Lightning would resume from in a SLURM task although none is named.

    It takes the last ``hpc_ckpt_*.ckpt`` in the trainer's folder, whoever put it there, assuming that it is
    its own from before SLURM requeued the job.

    Args:
        folder: the trainer's.
        to_go_on: as for ``named_checkpoint``.
        writes_them: whether training in this folder writes such files at all.

    Returns:
        None outside SLURM, or if there is none.

    Raises:
        BadInput: it is another user's, or cannot be used.
    """
    there = sorted(folder.glob(PATTERNS["hpc"][0])) if SLURMEnvironment.detect() else []
    if not there:
        return None
    if not writes_them or not any(_is_ours(path) for path in there):
        raise BadInput(
            f"{there[-1]} is not from your own training, but under SLURM Lightning would resume from it; "
            "find out who put it there and remove it"
        )
    return named_checkpoint("hpc", folder, in_file=False, to_go_on=to_go_on)


def _is_ours(path: Path) -> bool:
    """Whether it is a regular file owned by this user: others may have write access to the folder."""
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _lacking(path: Path, keys: Iterable[str]) -> str:
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict):
        return "it contains no keys"
    missing = [key for key in keys if key not in content]
    return f"it has no {missing[0]}" if missing else ""
