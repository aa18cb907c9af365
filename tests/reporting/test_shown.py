"""What stands in the cells of a leaderboard."""

from __future__ import annotations

from collections.abc import Callable

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.shown import Value, quantity
from crossmodal_bench.reporting.table import shown_tables

Maker = Callable[..., Record]


def test_a_metric_of_fewer_seeds_than_the_row_says_so(make_record: Maker) -> None:
    records = [
        make_record(seed=0, metrics={"mAP": 0.4, "mAP@50": 0.6}, bootstrap={"mAP@50": [0.5, 0.7]}),
        make_record(seed=1, metrics={"mAP": 0.5}, bootstrap={}),
    ]
    (table,) = shown_tables(records)
    (line,) = table.lines
    assert line.values["mAP@50"] == Value("0.600", "±0.100 (n=1)")
    assert line.over == "seeds" and line.values["mAP"].margin.startswith("±0.6")


def test_what_was_not_measured_is_a_dash(make_record: Maker) -> None:
    (table,) = shown_tables([make_record(), make_record(method="cca", metrics={}, bootstrap={}, cost={})])
    line = next(line for line in table.lines if line.name == "cca")
    assert set(line.values.values()) == {Value("–")} and set(line.costs.values()) == {"–"}
    assert line.over == "" and not line.marked


def test_the_mark_is_at_the_primary_metric_alone(make_record: Maker) -> None:
    (table,) = shown_tables([make_record()])
    (line,) = table.lines
    assert line.marked_name == "★ acmr"
    assert [metric for metric, value in line.values.items() if value.marked] == ["mAP"]


def test_quantities_are_short() -> None:
    shown = [quantity(value) for value in (None, 0.5, 12.34, 1234567.0, 2e9)]
    assert shown == ["–", "0.5", "12.3", "1.23M", "2G"]
