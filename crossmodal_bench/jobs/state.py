"""A job's state, read from its directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.locks import holder, is_locked
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record, read_record

Name = Literal["not started", "queued", "running", "failed", "skipped", "done", "stale", "unreadable"]


@dataclass(frozen=True)
class State:
    """A state, and ``why`` it failed, is skipped or stale, which parents it waits for, or who runs it.

    A ``done`` job has a reason if some of today's protocols have not been measured.

    ``unreadable``: there is a record, but it is damaged, of another version, or not readable by this user. It
    is neither guessed at nor overwritten, and ``why`` says what to do.

    Only a cluster knows that a job is ``queued``; from its directory alone it is ``not started``.

    ``taken_up``: it is ``stale`` only because the user had it, or a job that it starts from, resume from a
    checkpoint of other sources.
    """

    name: Name
    why: str = ""
    taken_up: bool = False


def state_of(planned: PlannedJob) -> State:
    """The state of a planned job."""
    try:
        return _state_of(planned)
    # Another user's folder, without read permission.
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
        if changed := record.stale_because(planned.fingerprint()):
            return State("stale", changed)
        if (of_parents := _of_parents(planned, record)) is not None:
            return of_parents
        if record.taken_up:
            why = f"it was resumed from a checkpoint although {'; '.join(record.taken_up)}"
            return State("stale", why, taken_up=True)
        return _measured(planned, record)
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


def _measured(planned: PlannedJob, record: Record) -> State:
    """The state of a finished job by whether it was measured under all of today's protocols.

    A protocol that was added later, by an update or by the user, does not invalidate the other numbers.
    """
    lacking = [p.name for p in planned.protocols if p.name not in (record.job.protocol, *record.also)]
    if not lacking:
        return State("done")
    names = f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not measured"
    if planned.measure_missing:
        return State("stale", names)
    return State("done", f"{names}; RERUN=stale runs it again")


def unfinished_parents(planned: PlannedJob) -> dict[str, State]:
    """The states of the jobs that it starts from and that are not done, by method.

    A job that resumes anyway also accepts parents that did.
    """
    states = {name: state_of(parent) for name, parent in planned.parents.items()}
    return {
        name: state
        for name, state in states.items()
        if state.name != "done" and not (planned.resume_anyway and state.taken_up)
    }


def _of_parents(planned: PlannedJob, record: Record) -> State | None:
    """The state of a record that is not based on today's parents; None if it is."""
    states = {name: state_of(parent) for name, parent in planned.parents.items()}
    unfinished = {name: state for name, state in states.items() if state.name != "done"}
    for name, state in unfinished.items():
        # A parent that was merely resumed anyway is reported only after more serious reasons.
        if not state.taken_up:
            return State("stale", f"{name}, which it starts from, is {state.name}")
    today = {name: read_record(parent.directory).run for name, parent in planned.parents.items()}
    names = [name for name in {**record.parents, **today} if record.parents.get(name) != today.get(name)]
    if names:
        return State("stale", f"it did not start from today's {', '.join(names)}")
    for name in unfinished:
        return State("stale", f"{name}, which it starts from, is stale", taken_up=True)
    return None
