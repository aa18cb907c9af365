"""Find the records of a run as a user names it: by a job's directory, its record, or DATASET/METHOD."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.experiments import names
from crossmodal_bench.jobs.record import Record, read_record, read_records, row_name


def row_of(name: str | Path, folders: Sequence[Path] = ()) -> list[Record]:
    """The records of one job, or of all jobs of a row (seeds, and protocols with their own training splits).

    Args:
        name: a job's directory, its record, or a method's folder; if the path does not exist, the first of
            ``folders`` that contains it is used.
        folders: RUNS folders.

    Raises:
        BadInput: there is no such run, it has not finished, it has several rows, or a record is damaged.
    """
    candidates = [Path(name), *(folder / name for folder in folders)]
    path = next((path for path in candidates if path.exists()), None)
    if path is None:
        looked = " or ".join(str(folder) for folder in folders)
        raise BadInput(
            f"{name} is not a run{f', here or in {looked}' if looked else ''}; name a job's "
            "directory (RUNS/DATASET/METHOD/ID), or DATASET/METHOD for all its seeds"
        )
    if path.is_file() or JobDirectory(path).is_done():
        return [read_record(path)]
    jobs = [JobDirectory(folder) for folder in sorted(path.iterdir()) if folder.is_dir()]
    records = [read_record(job.record) for job in jobs if job.is_done()]
    if not records:
        record = JobDirectory(path).record.name
        raise BadInput(f"{path} has no {record}, so no job has finished there; name a finished job")
    rows = dict.fromkeys(_row(record) for record in records)
    if len(rows) > 1:
        described = ", ".join(f"{label} (preset {preset})" for preset, label, *_ in rows)
        raise BadInput(f"{path} has {len(rows)} rows: {described}; name one job's directory")
    return records


def suite_rows(suite: str, runs: Path) -> list[Record]:
    """The records of all finished jobs of a suite in a RUNS folder.

    Raises:
        BadInput: the suite is unknown, or none of its jobs has finished there.
    """
    known = names("suites")
    if suite not in known:
        raise BadInput(f"suite '{suite}' is unknown{nearest(suite, known)}")
    records = [record for record in read_records(runs) if record.job.suite == suite]
    if not records:
        raise BadInput(
            f"{runs} has no finished job of the suite '{suite}'; run it first: crossmodal-bench bench "
            f"--methods {suite} --runs {runs}"
        )
    return records


def _row(record: Record) -> tuple[str, str, str, bool]:
    job = record.job
    name = row_name(job.method, job.label, job.overrides)
    return job.preset, name, json.dumps(job.overrides, sort_keys=True), bool(record.ensemble)
