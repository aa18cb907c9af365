"""Kernel locks on files: held, free, or a clear message about a file system that has none."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import IO

from crossmodal_bench.core.errors import BadInput

HELD = (errno.EWOULDBLOCK, errno.EAGAIN)
"""What flock answers if another process holds the lock; other errors say nothing about processes."""


SWITCH = "CROSSMODAL_BENCH_LOCKS"
"""Environment variable, ``off`` to disable locking; workers and cluster jobs inherit it."""


def switch_off() -> None:
    """Disable locking, here and in child processes; the user ensures that no other process works there."""
    os.environ[SWITCH] = "off"


def try_lock(handle: IO[str] | IO[bytes], path: Path, *, shared: bool = False) -> bool:
    """Take the lock of an open file unless another process holds it; True if it was taken, or locks are off.

    Args:
        handle: the open file; a shared lock only needs it open for reading.
        path: its name, for error messages.
        shared: any number of processes may hold it at once, but none exclusively meanwhile.

    Raises:
        BadInput: the file system has no locks, or cannot hand out any more.
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
    """Take the lock of an open file as soon as no other process holds it; at once if locks are off.

    Raises:
        BadInput: as for ``try_lock``.
    """
    if is_off():
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        raise no_locks(path, error) from error


def no_locks(path: Path, error: OSError) -> BadInput:
    """The exception for a file system that refuses a lock for a reason other than contention."""
    return BadInput(
        f"{path} cannot be locked: its file system answers {_name(error)} ({error.strerror}); choose a RUNS "
        "folder on a file system with locks (a local disk, NFS 4, or Lustre mounted with -o flock), or pass "
        "LOCKS=off (--locks off) if no other process is working there"
    )


def is_off() -> bool:
    """Whether locking is disabled, so that a lock that can be taken says nothing about other processes."""
    return os.environ.get(SWITCH) == "off"


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, f"error {error.errno}")
