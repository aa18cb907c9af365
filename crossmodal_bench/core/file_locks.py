"""Locks of the kernel's, on files: held, free, or a sentence about a file system that has none."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

from crossmodal_bench.core.errors import BadInput

HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
"""What flock answers where another process holds the lock; any other answer says nothing of processes."""


SWITCH = "CROSSMODAL_BENCH_LOCKS"
"""Environment variable, ``off`` where nothing is to be locked; workers and a cluster's jobs inherit it."""


def switch_off() -> None:
    """Lock nothing, here and in processes that are started: the user sees to it that no other works there."""
    os.environ[SWITCH] = "off"


def try_lock(handle: IO[str] | IO[bytes], path: Path, *, shared: bool = False) -> bool:
    """Take the lock of an open file unless another process holds it; whether it was taken, or locks are off.

    Args:
        handle: the file, open; a shared lock needs no more than a file open for reading.
        path: its name, for the sentence.
        shared: any number of processes may hold it at once, and none exclusively meanwhile.

    Raises:
        BadInput: the file system has no locks, or no room for one more.
    """
    if is_off():
        return True
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        raise no_locks(path, error) from error
    return True


def wait_for_lock(handle: IO[str] | IO[bytes], path: Path) -> None:
    """Take the lock of an open file as soon as no other process holds it; at once where locks are off.

    Raises:
        BadInput: as ``try_lock``.
    """
    if is_off():
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise no_locks(path, error) from error


def no_locks(path: Path, error: OSError) -> BadInput:
    """The exception for a file system that refuses a lock for a reason other than its holder."""
    return BadInput(
        f"{path} cannot be locked: its file system answers {_name(error)} ({error.strerror}); choose a RUNS "
        "folder on a file system with locks (a local disk, NFS 4, or Lustre mounted with -o flock), or say "
        "LOCKS=off (--locks off) if no other process works there meanwhile"
    )


def is_off() -> bool:
    """Whether nothing is locked, so that a lock that can be taken says nothing of other processes."""
    return os.environ.get(SWITCH) == "off"


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, f"error {error.errno}")
