"""What ``results/`` holds is whole, and follows from the ranks beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossmodal_bench.core.files import read_yaml
from crossmodal_bench.core.npy import load_npz
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.fingerprints.sources import fingerprint_of
from crossmodal_bench.jobs.query_ids import SHARED
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.jobs.reference import results_folder
from crossmodal_bench.jobs.submission import LARGEST, folder_size
from crossmodal_bench.jobs.verification import check_record

RESULTS = results_folder()
JOBS = [files.path for files in JobDirectory.all_below(RESULTS)]


def test_there_are_results_and_they_are_small() -> None:
    assert JOBS and folder_size(RESULTS) < LARGEST


@pytest.mark.parametrize("path", JOBS, ids=lambda path: "-".join(path.parts[-3:]))
def test_every_metric_hash_and_version_is_what_the_ranks_give(path: Path) -> None:
    record = read_record(path)
    assert check_record(record) == []
    job = record.job
    assert path == JobDirectory.of(RESULTS, job.dataset, job.method, job.id).path
    assert record.evaluated_on == "test"
    assert {
        "torch",
        "numpy",
        "lightning",
        "device",
        "threads",
        "cpu",
        "precision",
    } <= record.environment.keys()


@pytest.mark.parametrize("path", JOBS, ids=lambda path: "-".join(path.parts[-3:]))
def test_nothing_else_lies_there_and_no_folder_of_a_machine_is_named(path: Path) -> None:
    record = read_record(path)
    files = record.files
    wanted = {files.record, *(part.ranks for part in record.by_protocol())}
    assert set(path.iterdir()) == wanted | (set() if record.ensemble else {files.config})
    if not record.ensemble:
        config = read_yaml(files.config)
        assert (config["data"]["root"], config["data"]["cache"]) == ("data", "runs/cache")
        today = fingerprint_of(config)
        assert len(today.digest) == len(record.source_fingerprint)
        # Those from before fingerprints said what they are made of cannot say in what they differ.
        assert record.made_from is not None or "does not say how" in record.stale_because(today)
    text = json.dumps(dict(record.content))
    assert '"/' not in text and "/home/" not in text and "/tmp" not in text


def test_every_file_of_ids_is_used() -> None:
    used = set()
    for path in JOBS:
        files = JobDirectory(path)
        for part in read_record(path).by_protocol():
            (digest,) = load_npz(part.ranks, [SHARED]).values()
            used.add(files.shared_ids(str(digest)))
    assert used == set(RESULTS.glob("*/ids_*.npz"))
