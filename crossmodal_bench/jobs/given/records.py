"""Find the records of models from elsewhere among all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_record

PRESET = "given"
"""The preset of such records: the model was not trained here."""


def given_records(runs: Path, datasets: Sequence[str]) -> list[Record]:
    """The records in RUNS that ``evaluate_embeddings`` wrote for these data sets."""
    found = []
    for dataset in dict.fromkeys(datasets):
        for directory in map(JobDirectory, sorted((runs / dataset).glob("*/*"))):
            try:
                record = read_record(directory.path) if directory.is_done() else None
            # A report of all records names the file; it is not a reason to stop a bench.
            except BadInput:
                continue
            if record is not None and record.job.preset == PRESET:
                found.append(record)
    return found
