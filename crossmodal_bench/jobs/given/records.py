"""The records of models from elsewhere, among all others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record, read_record

PRESET = "given"
"""The preset of such records: nothing here has trained the model."""


def given_records(runs: Path, datasets: Sequence[str]) -> list[Record]:
    """The records below RUNS that ``evaluate_embeddings`` has written of these data sets."""
    found = []
    for dataset in dict.fromkeys(datasets):
        for directory in map(JobDirectory, sorted((runs / dataset).glob("*/*"))):
            if directory.is_done():
                record = read_record(directory.path)
                found += [record] if record.job.preset == PRESET else []
    return found
