"""The checkpoint that a command line, or a configuration, names for `fit` or `test` to go on from."""

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
"""Words that stand for the newest file of a name, and these names below the trainer's folder."""
ALWAYS = ("state_dict", "pytorch-lightning_version")
TO_GO_ON = ("optimizer_states", "loops")
"""What a checkpoint of weights alone lacks."""


def named_checkpoint(word: str, folder: Path, *, in_file: bool, to_go_on: bool) -> Path | None:
    """The file that is meant; None for ``last`` where nothing has been saved yet.

    Args:
        word: a path, ``last`` or ``hpc``.
        folder: the trainer's, into which it writes its checkpoints.
        in_file: whether a configuration names it, and not the user: it must be one that this user's own
            training has left in that folder.
        to_go_on: whether training goes on from it; its weights alone will not do then.

    Raises:
        BadInput: it is missing, damaged, no checkpoint, or somebody else's.
    """
    if word == "best":
        raise BadInput("--ckpt_path best is of a training in the same process; name the file")
    if word in PATTERNS:
        ours = [path for pattern in PATTERNS[word] for path in folder.glob(pattern) if _is_ours(path)]
        if not ours and word == "hpc":
            raise BadInput(f"--ckpt_path hpc: no hpc_ckpt_*.ckpt of yours is in {folder}; name a checkpoint")
        if not ours:
            tell(f"warning: no checkpoint of yours is in {folder} yet: training starts anew", sys.stderr)
            return None
        path = max(ours, key=lambda candidate: candidate.stat().st_mtime_ns)
    else:
        path = Path(word)
        if not path.is_file():
            raise BadInput(f"--ckpt_path {word} is missing; name a checkpoint that fit has written")
        if in_file and not (_is_ours(path) and path.resolve().is_relative_to(folder.resolve())):
            raise BadInput(
                f"configuration key 'ckpt_path' is '{word}', which your training has not written into "
                f"{folder}; to use it all the same, give it as --ckpt_path on the command line"
            )
    wrong = damage(path) or _lacking(path, (*ALWAYS, *(TO_GO_ON if to_go_on else ())))
    if wrong:
        raise BadInput(f"--ckpt_path {path} cannot be used ({wrong}); name a checkpoint that fit has written")
    return path


def requeued_checkpoint(folder: Path, *, to_go_on: bool, writes_them: bool) -> Path | None:
    """The checkpoint that Lightning would go on from in one of SLURM's tasks although nobody names any.

    It takes the last ``hpc_ckpt_*.ckpt`` of the trainer's folder, whoever has put it there: its own of a job
    that SLURM has put back into its queue.

    Args:
        folder: the trainer's.
        to_go_on: as for ``named_checkpoint``.
        writes_them: whether a training in this folder leaves such files at all.

    Returns:
        None outside SLURM, and where there is none.

    Raises:
        BadInput: it is somebody else's, or cannot be used.
    """
    there = sorted(folder.glob(PATTERNS["hpc"][0])) if SLURMEnvironment.detect() else []
    if not there:
        return None
    if not writes_them or not any(_is_ours(path) for path in there):
        raise BadInput(
            f"{there[-1]} is not of your training, and under SLURM Lightning would go on from it by itself; "
            "remove it, and look at who has put it there"
        )
    return named_checkpoint("hpc", folder, in_file=False, to_go_on=to_go_on)


def _is_ours(path: Path) -> bool:
    """Whether it is a plain file of this user: whoever may write into a folder may leave others' there."""
    status = path.lstat()
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _lacking(path: Path, keys: Iterable[str]) -> str:
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict):
        return "it holds no keys"
    missing = [key for key in keys if key not in content]
    return f"it has no {missing[0]}" if missing else ""
