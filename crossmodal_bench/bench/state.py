"""What has become of a job, read from its directory; a running one holds a lock that dies with it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TextIO

from crossmodal_bench.bench.plan import PlannedJob
from crossmodal_bench.bench.provenance import source_fingerprint
from crossmodal_bench.bench.record import FILE, Record, read_record
from crossmodal_bench.errors import BadInput
from crossmodal_bench.files import parse_json
from crossmodal_bench.storage import replace_file

ERROR, PROGRESS, LOCK, LOG = "error.json", "progress.json", "lock", "log.txt"
PATIENCE = 0.5
Name = Literal["not started", "queued", "running", "failed", "skipped", "done", "stale"]


class Taken(BadInput):
    """A job's directory that another process works in."""


@dataclass(frozen=True)
class State:
    """A state and why, for ``failed``, ``skipped``, ``stale``, where parents are waited for; and who runs it.

    Only a cluster knows that a job is ``queued``; what a directory shows is ``not started`` then.
    """

    name: Name
    why: str = ""


def state_of(planned: PlannedJob) -> State:
    """The state of a planned job."""
    directory = planned.directory
    if (directory / FILE).is_file():
        record = read_record(directory / FILE)
        if planned.missing:
            return State("done")
        if record.data.fingerprint != planned.data_fingerprint:
            return State("stale", "the data differ from those of the record")
        if record.source_fingerprint != source_fingerprint(planned.config):
            return State("stale", "the sources or settings differ from those of the record")
        changed = _changed_parents(planned, record)
        return State("stale", changed) if changed else State("done")
    if is_locked(directory):
        return State("running", holder(directory))
    if planned.missing:
        return State("skipped", planned.missing)
    if (directory / ERROR).is_file():
        return State("failed", str(read_json(directory / ERROR).get("message", "")))
    unfinished = unfinished_parents(planned)
    for name, state in unfinished.items():
        if state.name == "skipped":
            return State("skipped", f"needs {name}, which is skipped")
    return State("not started", f"waits for {', '.join(unfinished)}" if unfinished else "")


def unfinished_parents(planned: PlannedJob) -> dict[str, State]:
    """The states of those jobs that it starts from and that are not done, by method."""
    states = {name: state_of(parent) for name, parent in planned.parents.items()}
    return {name: state for name, state in states.items() if state.name != "done"}


def _changed_parents(planned: PlannedJob, record: Record) -> str:
    """Why a record does not rest on today's parents; empty where it does."""
    for name, state in unfinished_parents(planned).items():
        return f"{name}, which it starts from, is {state.name}"
    today = {name: read_record(parent.directory).run for name, parent in planned.parents.items()}
    names = [name for name in {**record.parents, **today} if record.parents.get(name) != today.get(name)]
    return f"it has not started from today's {', '.join(names)}" if names else ""


def is_locked(directory: Path) -> bool:
    """Whether a live process works in the directory."""
    path = directory / LOCK
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
    """Hold the directory's lock; the kernel lets go of it whichever way the process ends."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = (directory / LOCK).open("a+")
    except OSError as error:
        raise BadInput(
            f"{directory} cannot be written ({error.strerror}); choose another RUNS folder"
        ) from error
    with handle:
        # is_locked of another process holds the lock for an instant.
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


def _sign(handle: TextIO) -> None:
    """Say in the lock's file who holds it; the lock itself is the kernel's."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    handle.truncate(0)
    handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}))
    handle.flush()


def holder(directory: Path) -> str:
    """Who holds a directory's lock, or held it last: "process 7 on host since 12:30"; empty if unknown."""
    said = read_json(directory / LOCK)
    if not {"pid", "host", "since"} <= said.keys():
        return ""
    return f"process {said['pid']} on {said['host']} since {str(said['since'])[:16].replace('T', ' ')}"


def read_json(path: Path) -> dict[str, Any]:
    """A small JSON file, or {} where it is missing or half-written."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Atomically."""
    replace_file(path, lambda stream: stream.write(json.dumps(content).encode()), durable=False)
