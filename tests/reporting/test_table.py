"""The leaderboard as a data frame, and as a CSV."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from answered import Answered

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.report import build_report
from crossmodal_bench.reporting.table import difference_csv, difference_frame, differences, table
from crossmodal_bench.reporting.tables.shown import DIFFERENCE_COLUMNS, show

Maker = Callable[..., Record]


@pytest.fixture
def records(make_record: Maker, make_recall_record: Maker) -> list[Record]:
    maps = [make_record(method=method, seed=seed) for method in ("acmr", "cca") for seed in (0, 1)]
    recalls = [make_recall_record(method="scan", seed=seed, by=2.0 * seed) for seed in (0, 1)]
    return [*maps, *recalls]


def test_there_is_one_line_for_each_row_and_metric(records: list[Record]) -> None:
    numbers = table(records)
    assert not numbers.duplicated(["protocol", "preset", "method", "metric"]).any()
    scan = numbers[(numbers.method == "scan") & (numbers.metric == "rsum")].iloc[0]
    assert (scan["mean"], scan.n, scan.seeds, scan.target) == (93.0, 2, "0 1", "method")
    assert scan.seeds_error == pytest.approx(np.std([92, 94], ddof=1) / np.sqrt(2))
    assert scan.low == pytest.approx(93 - scan.half_width) and scan.high == pytest.approx(
        93 + scan.half_width
    )
    assert numbers.in_best_set.isna().all(), "nothing is known of single queries"
    acmr = numbers[(numbers.method == "acmr") & (numbers.metric == "mAP")].iloc[0]
    assert np.isnan(acmr.published) and "not comparable" in acmr.not_comparable
    assert numbers[numbers.metric == "cost/train_seconds"]["mean"].tolist() == [12.5] * 3


def test_a_folder_of_runs_does_as_well_as_records(records: list[Record], runs: Path) -> None:
    pd.testing.assert_frame_equal(table(str(runs)), table(records))
    with pytest.raises(BadInput, match="no finished job"):
        table(runs / "elsewhere")


def test_differences_are_a_frame_and_a_file(answered: Answered, runs: Path) -> None:
    records = [answered(0.3, method="scan"), answered(0.2, method="cca", label="=1")]
    shown = [show(table) for table in answered.tables(records)]
    frame = difference_frame(shown)
    assert tuple(frame.columns) == DIFFERENCE_COLUMNS and len(frame) == 1
    read = pd.read_csv(io.StringIO(difference_csv(shown)))
    assert read.adjusted_p.tolist() == pytest.approx(frame.adjusted_p.tolist())
    # Where nothing is known of single queries there is no pair, and the columns are there all the same.
    assert tuple(differences(records).columns) == DIFFERENCE_COLUMNS


def test_no_record_is_an_empty_frame() -> None:
    assert table([]).empty


def test_the_csv_is_that_frame(records: list[Record], runs: Path) -> None:
    (path,) = build_report(runs, ["csv"]).files
    assert path == runs / "report" / "leaderboard.csv"
    read = pd.read_csv(path, keep_default_na=True)
    expected = table(records)
    assert list(read.columns) == list(expected.columns)
    for column in ("mean", "low", "high", "items_error"):
        pd.testing.assert_series_equal(read[column], expected[column])
