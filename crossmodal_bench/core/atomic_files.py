"""Files that are either complete or absent, even if the process is killed or the disk fills up."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors with which a full or read-only file system refuses a write."""


def replace_file(
    path: Path, write: Callable[[IO[bytes]], object], keep: Path | None = None, durable: bool = True
) -> None:
    """Write a file atomically: its name always refers to the old content or to all of the new.

    The content goes to a temporary file in the same folder, which is synced and then renamed.

    Args:
        path: the file.
        write: writes the content.
        keep: where to keep the previous content of ``path``.
        durable: wait until the data is on disk; without this, it survives a killed process, but perhaps not
            a power cut.

    Raises:
        OSError: the file system refuses the write; the old file is intact, and nothing else is left behind.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        # mkstemp creates private files, but teammates read each other's records.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        if keep is not None and path.is_file():
            os.replace(path, keep)
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed ``replace_file`` calls; no process may be writing there."""
    for path in folder.glob(".*.????????"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # The rename is recorded in the folder, not in the file.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
