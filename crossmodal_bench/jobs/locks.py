"""The lock of a job's directory, which the kernel releases however its process ends.

Not filelock's: that truncates the file on every attempt, and the file says who holds the lock.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.file_locks import try_lock
from crossmodal_bench.jobs.directory import JobDirectory, read_json

PATIENCE = 0.5
"""Seconds to wait for a lock: ``is_locked`` in another process holds it for an instant."""


class Taken(BadInput):
    """A job's directory is in use by another process."""


def is_locked(directory: Path) -> bool:
    """Whether a live process is working in the directory.

    This needs only read permission, in another user's RUNS too. A user who may not even read the lock may not
    work there either, which ``locked`` reports.

    Raises:
        BadInput: the file system has no locks.
    """
    path = JobDirectory(directory).lock
    try:
        handle = _open(path, os.O_RDONLY)
    except OSError:
        return False
    with handle:
        return not try_lock(handle, path, shared=True)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock.

    Raises:
        Taken: another process holds it.
        BadInput: the directory cannot be written, or its file system has no locks.
    """
    path = JobDirectory(directory).lock
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = _open(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise BadInput(
            f"{directory} cannot be written ({error.strerror}); choose another RUNS folder"
        ) from error
    with handle:
        deadline = time.monotonic() + PATIENCE
        while not try_lock(handle, path):
            if time.monotonic() > deadline:
                who = holder(directory)
                raise Taken(
                    f"{directory} is in use by another process"
                    f"{f' ({who})' if who else ''}; wait for it or stop it"
                )
            time.sleep(0.02)
        _sign(handle)
        yield


def holder(directory: Path) -> str:
    """Who holds a directory's lock, or held it last: "process 7 on host since 12:30"; empty if unknown."""
    signed = read_json(JobDirectory(directory).lock)
    if not {"pid", "host", "since"} <= signed.keys():
        return ""
    since = str(signed["since"])[:16].replace("T", " ")
    return f"process {signed['pid']} on {signed['host']} since {since}"


def _open(path: Path, flags: int) -> TextIO:
    """The lock's file, opened for reading or writing; OSError if something else has its name.

    The file is truncated before signing: a symbolic link would lead to another file, and a pipe would block.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is not a regular file")
    return os.fdopen(descriptor, "r" if flags == os.O_RDONLY else "r+")


def _sign(handle: TextIO) -> None:
    """Write into the lock's file who holds it; the lock itself is the kernel's."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    handle.seek(0)
    handle.truncate()
    handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
    handle.flush()
