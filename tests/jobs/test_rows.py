from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.jobs.rows import row_of

Make = Callable[..., Record]


def test_a_run_is_a_directory_a_record_or_a_row_of_a_folder(make_record: Make, runs: Path) -> None:
    records = [make_record(seed=seed) for seed in range(2)]
    assert [record.job.seed for record in row_of(records[0].directory)] == [0]
    assert [record.job.seed for record in row_of(records[1].files.record)] == [1]
    assert {record.job.seed for record in row_of("wikipedia/acmr", [runs / "none", runs])} == {0, 1}


def test_what_is_no_run_is_one_sentence(make_record: Make, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere is not a run, here or in"):
        row_of("nowhere", [runs])
    make_record()
    with pytest.raises(BadInput, match=r"has no record.json"):
        row_of(runs)
    make_record(preset="paper")
    with pytest.raises(BadInput, match=r"has 2 rows: acmr \(preset .*name one job's directory"):
        row_of("wikipedia/acmr", [runs])
