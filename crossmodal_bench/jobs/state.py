"""What has become of a job, read from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.locks import holder, is_locked
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.provenance import source_fingerprint
from crossmodal_bench.jobs.record import Record, read_record

Name = Literal["not started", "queued", "running", "failed", "skipped", "done", "stale", "unreadable"]


@dataclass(frozen=True)
class State:
    """A state and why, for ``failed``, ``skipped``, ``stale``, where parents are waited for; and who runs it.

    ``unreadable``: a record is there and damaged, of another version, or not for this user. It is neither
    guessed at nor overwritten, and ``why`` says what to do.

    Only a cluster knows that a job is ``queued``; what a directory shows is ``not started`` then.
    """

    name: Name
    why: str = ""


def state_of(planned: PlannedJob) -> State:
    """The state of a planned job."""
    try:
        return _state_of(planned)
    # Another user's folder that is closed to this one.
    except PermissionError as error:
        return State("unreadable", f"{error.filename} ({error.strerror}); let its owner make it readable")


def _state_of(planned: PlannedJob) -> State:
    if planned.files.is_done():
        try:
            record = read_record(planned.directory)
        except BadInput as error:
            return State("unreadable", str(error))
        if planned.missing:
            return State("done")
        if record.data.fingerprint != planned.data_fingerprint:
            return State("stale", "the data differ from those of the record")
        if record.source_fingerprint != source_fingerprint(planned.config):
            return State("stale", "the sources or settings differ from those of the record")
        changed = _changed_parents(planned, record)
        return State("stale", changed) if changed else State("done")
    if is_locked(planned.directory):
        return State("running", holder(planned.directory))
    if planned.missing:
        return State("skipped", planned.missing)
    if planned.files.error.is_file():
        return State("failed", str(planned.files.read_error().get("message", "")))
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
