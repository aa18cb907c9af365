"""From what a user calls a run to its records: a job's directory, its record, or DATASET/METHOD."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_record, row_name


def row_of(name: str | Path, folders: Sequence[Path] = ()) -> list[Record]:
    """The records of one job, or of all jobs of one row (seeds, and protocols with a training split each).

    Args:
        name: a job's directory, its ``record.json``, or a method's folder; one that is not there as it stands
            is looked for below each of ``folders``, of which the first that has it counts.
        folders: folders of runs.

    Raises:
        BadInput: there is no such run or it has not finished, it holds several rows, or a record is damaged.
    """
    candidates = [Path(name), *(folder / name for folder in folders)]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        looked = " nor ".join(str(folder) for folder in folders)
        raise BadInput(
            f"{name} is no run{f', neither here nor below {looked}' if looked else ''}; name a job's "
            "directory (RUNS/DATASET/METHOD/ID), or DATASET/METHOD for all its seeds"
        )
    if path.is_file() or JobDirectory(path).is_done():
        return [read_record(path)]
    records = [
        read_record(files.record) for files in map(JobDirectory, sorted(path.glob("*"))) if files.is_done()
    ]
    if not records:
        raise BadInput(f"{path} has no record.json, so nothing has finished there; name a finished job")
    rows = dict.fromkeys(_row(record) for record in records)
    if len(rows) > 1:
        described = ", ".join(f"{label} (preset {preset})" for preset, label, *_ in rows)
        raise BadInput(f"{path} holds {len(rows)} rows: {described}; name one job's directory")
    return records


def _row(record: Record) -> tuple[str, str, str, bool]:
    job = record.job
    name = row_name(job.method, job.label, job.overrides)
    return job.preset, name, json.dumps(job.overrides, sort_keys=True), bool(record.ensemble)
