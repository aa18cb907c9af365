"""Checkpoints as Lightning writes them, but atomically, and keeping the previous one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, Any, cast

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from crossmodal_bench.core.atomic_files import NO_ROOM, replace_file
from crossmodal_bench.core.checkpoint_files import previous
from crossmodal_bench.core.errors import BadInput


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's checkpoint I/O, through ``replace_file``.

    Args:
        keep_previous: names of the checkpoints whose predecessor is kept (see ``previous``).
    """

    def __init__(self, keep_previous: tuple[str, ...] = ()) -> None:
        self.keep_previous = keep_previous

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint atomically.

        Raises:
            BadInput: the file system is full or read-only; the previous checkpoint is kept.
        """
        path = Path(path)
        keep = previous(path) if path.name in self.keep_previous else None
        refused: list[OSError] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda stream: torch.save(checkpoint, _noting(stream, refused)), keep)
        except (OSError, RuntimeError) as error:
            # The error that torch's writer raises after a refused write doesn't mention it.
            cause = refused[0] if refused else error
            if not isinstance(cause, OSError) or cause.errno not in NO_ROOM:
                raise
            raise BadInput(
                f"{path} cannot be written ({cause.strerror}): free space there, or make it writable, and "
                "run again; training resumes from the last checkpoint"
            ) from error


def _noting(stream: IO[bytes], refused: list[OSError]) -> IO[bytes]:
    return cast(IO[bytes], _Noting(stream, refused))


class _Noting(io.RawIOBase):
    """A stream that remembers the error of a refused write."""

    def __init__(self, stream: IO[bytes], refused: list[OSError]) -> None:
        self._stream, self._refused = stream, refused

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self._refused.append(error)
            raise
