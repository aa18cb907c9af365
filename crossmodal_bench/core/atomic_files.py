"""Files that are whole or not there, whatever kills the process or fills the disk."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What a full or read-only file system answers to a write."""


def replace_file(
    path: Path, write: Callable[[IO[bytes]], object], keep: Path | None = None, durable: bool = True
) -> None:
    """Write a file so that under its name lies either the old content or all of the new.

    Written under a temporary name beside it, synced and renamed.

    Args:
        path: the file.
        write: writes the content.
        keep: gets what ``path`` was until now.
        durable: wait until it is on the disk; without, a power cut may lose it, and a killed process not.

    Raises:
        OSError: the file system refuses; what was there is still there, and nothing else.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        # mkstemp makes private files; a team reads each other's records.
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
    """Remove what ``replace_file`` had begun in a process that was killed; nobody may be writing there."""
    for path in folder.glob(".*.????????"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # A rename is in the folder, not in the file.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
