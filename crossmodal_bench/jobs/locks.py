"""The lock of a job's directory: the kernel lets go of it whichever way its process ends.

Not filelock's: that truncates the file at every attempt, and who holds the lock stands in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import JobDirectory, read_json

PATIENCE = 0.5
"""Seconds to wait for a lock: ``is_locked`` of another process holds it for an instant."""


class Taken(BadInput):
    """A job's directory that another process works in."""


def is_locked(directory: Path) -> bool:
    """Whether a live process works in the directory."""
    path = JobDirectory(directory).lock
    if not path.is_file():
        return False
    with path.open("r+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock.

    Raises:
        Taken: another process holds it.
        BadInput: the directory cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = JobDirectory(directory).lock.open("a+")
    except OSError as error:
        raise BadInput(
            f"{directory} cannot be written ({error.strerror}); choose another RUNS folder"
        ) from error
    with handle:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    who = holder(directory)
                    raise Taken(
                        f"{directory} is being worked on by another process"
                        f"{f' ({who})' if who else ''}; wait for it or stop it"
                    ) from error
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


def _sign(handle: TextIO) -> None:
    """Say in the lock's file who holds it; the lock itself is the kernel's."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    handle.truncate(0)
    handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
    handle.flush()
