"""What stands in the cells of a leaderboard."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from answered import Answered

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.table import shown_tables
from crossmodal_bench.reporting.tables.shown import DIFFERENCE_COLUMNS, Value, quantity, show

Maker = Callable[..., Record]


def test_a_metric_of_fewer_seeds_than_the_row_says_so(make_record: Maker) -> None:
    records = [
        make_record(seed=0, metrics={"mAP": 0.4, "mAP@50": 0.6}, intervals={"mAP@50": [0.5, 0.7]}),
        make_record(seed=1, metrics={"mAP": 0.5}, intervals={}),
    ]
    (table,) = shown_tables(records)
    (line,) = table.lines
    assert line.values["mAP@50"] == Value("0.600", "±0.100 (n=1)")
    assert line.over == "seeds" and line.values["mAP"].margin.startswith("±0.6")


def test_what_was_not_measured_is_a_dash(make_record: Maker) -> None:
    (table,) = shown_tables([make_record(), make_record(method="cca", metrics={}, intervals={}, cost={})])
    line = next(line for line in table.lines if line.name == "cca")
    assert set(line.values.values()) == {Value("–")} and set(line.costs.values()) == {"–"}
    assert line.over == "" and not line.marked


def test_the_mark_is_at_the_primary_metric_alone(answered: Answered) -> None:
    (table,) = map(show, answered.tables([answered(0.3, method="scan"), answered(0.1, method="cca")]))
    best, behind = table.lines
    assert (best.marked_name, behind.marked_name) == ("★ scan", "cca")
    assert [metric for metric, value in best.values.items() if value.marked] == ["rsum"]
    assert not any(value.marked for value in behind.values.values())


def test_numbers_say_which_rows_are_among_the_best_and_which_are_not_tested(
    answered: Answered, make_recall_record: Maker
) -> None:
    records = [answered(0.3, method="scan"), answered(0.1, method="cca")]
    records.append(make_recall_record(method="gru"))
    (table,) = map(show, answered.tables(records))
    (pair,) = table.source.pairs
    found = {
        cell["method"]: (cell["in_best_set"], cell["p_against_first"])
        for cell in table.cells
        if cell["metric"] == "rsum"
    }
    assert found == {"scan": (True, None), "cca": (False, pair.adjusted_p), "gru": (None, None)}


def test_each_pair_of_tested_rows_is_a_line(answered: Answered) -> None:
    records = [answered(share, method="scan", label=f"{share}") for share in (0.1, 0.2, 0.3)]
    (table,) = map(show, answered.tables(records))
    assert [(line["row"], line["other_row"]) for line in table.differences] == [
        ("scan (0.3)", "scan (0.2)"),
        ("scan (0.3)", "scan (0.1)"),
        ("scan (0.2)", "scan (0.1)"),
    ]
    means = {row.name: row.cells["rsum"].mean for row in table.source.rows}
    for line in table.differences:
        assert tuple(line) == DIFFERENCE_COLUMNS
        assert line["difference"] == pytest.approx(means[line["row"]] - means[line["other_row"]])
        assert line["low"] < line["difference"] < line["high"]
        assert line["p"] <= line["adjusted_p"]


def test_quantities_are_short() -> None:
    shown = [quantity(value) for value in (None, 0.5, 12.34, 1234567.0, 2e9)]
    assert shown == ["–", "0.5", "12.3", "1.23M", "2G"]
