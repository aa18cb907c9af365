"""What a run is based on: its sources, its data and its parents' runs. This tells checkpoints apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record, read_record

ValueT = TypeVar("ValueT")


def made_by(sources: str, data: str, parents: Mapping[str, Any]) -> dict[str, Any]:
    """What distinguishes the checkpoints of one run from another's; ``parents`` only if it has any."""
    return {"sources": sources, "data": data, **({"parents": dict(parents)} if parents else {})}


def matches_record(noted: Mapping[str, Any], record: Record) -> bool:
    """Whether the checkpoints that ``noted`` describes are the ones that a record was measured with."""
    wanted = made_by(record.source_fingerprint, record.data.fingerprint, record.parents)
    return {name: noted[name] for name in ("sources", "data", "parents") if name in noted} == wanted


def parent_runs(planned: PlannedJob) -> dict[str, dict[str, str]]:
    """The runs that a job starts from today, by method: the ``Record.run`` of each.

    Raises BadInput if a parent has no record or a damaged one.
    """
    return of_parents(planned, lambda record: record.run)


def of_parents(planned: PlannedJob, read: Callable[[Record], ValueT]) -> dict[str, ValueT]:
    """``read`` applied to the record of each job that this one starts from, by method.

    Raises BadInput if a parent has no record or a damaged one, or if ``read`` raises it.
    """
    values = {}
    for name, parent in planned.parents.items():
        try:
            values[name] = read(read_record(parent.directory))
        except BadInput as error:
            raise BadInput(f"{planned.job.method} starts from {name}, and {error}") from error
    return values
