"""What ``results/`` holds is whole, and follows from the ranks beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossmodal_bench.core.files import read_yaml
from crossmodal_bench.core.npy import load_npz
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.fingerprints.sources import fingerprint_of
from crossmodal_bench.jobs.given.records import PRESET
from crossmodal_bench.jobs.query_ids import SHARED
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.jobs.reference import results_folder
from crossmodal_bench.jobs.submission import LARGEST, folder_size
from crossmodal_bench.jobs.verification import check_record, recomputed_metrics

RESULTS = results_folder()
JOBS = [files.path for files in JobDirectory.all_below(RESULTS)]


def test_there_are_results_and_they_are_small() -> None:
    assert JOBS and folder_size(RESULTS) < LARGEST


@pytest.mark.parametrize("path", JOBS, ids=lambda path: "-".join(path.parts[-3:]))
def test_every_metric_hash_and_version_is_what_the_ranks_give(path: Path) -> None:
    record = read_record(path)
    assert check_record(record) == []
    # What does not follow from ranks: how good the captions are that were retrieved or generated. (Nor do the
    # curves, whose points are means over all positives of a query.)
    for part in record.by_protocol():
        exempt = part.metrics.keys() - recomputed_metrics(part).keys()
        assert {metric_table.lookup(key).family for key in exempt} <= {
            "retrieved_captions",
            "written_captions",
        }
        assert part.intervals.keys() <= recomputed_metrics(part).keys()
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
    # Nothing configures a sum of models, nor a model from elsewhere.
    configured = not record.ensemble and record.job.preset != PRESET
    assert set(path.iterdir()) == wanted | ({files.config} if configured else set())
    if configured:
        config = read_yaml(files.config)
        assert (config["data"]["root"], config["data"]["cache"]) == ("data", "runs/cache")
        assert len(fingerprint_of(config).digest) == len(record.source_fingerprint)
    text = json.dumps(dict(record.content))
    assert '"/' not in text and "/home/" not in text and "/tmp" not in text


@pytest.mark.parametrize("path", JOBS, ids=lambda path: "-".join(path.parts[-3:]))
def test_every_row_says_what_it_was_made_from(path: Path) -> None:
    record = read_record(path)
    assert record.environment.get("commit")
    # A sum is made from its members, which say so.
    assert record.ensemble or (
        record.made_from is not None and record.made_from.digest == record.source_fingerprint
    )


def test_every_file_of_ids_is_used() -> None:
    used = set()
    for path in JOBS:
        files = JobDirectory(path)
        for part in read_record(path).by_protocol():
            (digest,) = load_npz(part.ranks, [SHARED]).values()
            used.add(files.shared_ids(str(digest)))
    assert used == set(RESULTS.glob("*/ids_*.npz"))
