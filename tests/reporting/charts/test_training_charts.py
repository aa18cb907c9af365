"""What charts of training hold: epochs from 1, seeds averaged as far as all go."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts import training_charts
from crossmodal_bench.reporting.charts.chart import Chart
from crossmodal_bench.reporting.charts.looks import Looks, Series
from crossmodal_bench.reporting.rows.leaderboard import leaderboard

Maker = Callable[..., Record]


def series_of(records: list[Record]) -> list[Series]:
    rows = leaderboard(records)
    return Looks(rows).series(rows, "table")


def lines(chart: Chart | None, by: str = "series") -> dict[str, list[tuple[int, float]]]:
    assert chart is not None
    drawn: dict[str, list[tuple[int, float]]] = {}
    for value in chart.specification["data"]["values"]:
        drawn.setdefault(value[by], []).append((value["x"], pytest.approx(value["y"])))
    return drawn


def history(key: str, *values: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, key: value} for epoch, value in enumerate(values)]


def test_training_curves_have_a_panel_per_measured_key(make_record: Maker) -> None:
    epochs = history("train/loss_embedding", 1, 0.5, 0.25)
    epochs[2]["train/discriminator_accuracy"] = 0.5
    for epoch, value in enumerate((10, 30, 20)):
        epochs[epoch]["val/primary"] = value
    (row,) = series_of([make_record(seed=seed, history=epochs) for seed in (0, 1)])
    chart = training_charts.training_curves(row, "mAP")
    by_panel = lines(chart, "panel")
    assert by_panel["embedding loss"] == [(1, 1), (2, 0.5), (3, 0.25)] * 2
    assert by_panel["discriminator accuracy"] == [(3, 0.5)] * 2
    assert by_panel["mAP on validation"] == [(1, 10), (2, 30), (3, 20)] * 2
    assert [entry.label for entry in chart.entries] == ["seed 0", "seed 1"]


def test_discriminators_of_all_methods_share_one_chart(make_record: Maker) -> None:
    key = "train/discriminator_accuracy"
    series = series_of(
        [
            make_record(method="timam", seed=0, history=history(key, 0.9, 0.6, 0.5)),
            make_record(method="timam", seed=1, history=history(key, 0.7, 0.4)),
            make_record(method="timam_no_adversary", history=history(key, 0.8, 0.9, 1.0)),
            make_record(method="cca", history=[{"epoch": 0}]),
        ]
    )
    chart = training_charts.discriminator_accuracy(series, "table")
    assert lines(chart) == {
        "timam": [(1, 0.8), (2, 0.5)],
        "timam_no_adversary": [(1, 0.8), (2, 0.9), (3, 1.0)],
    }
    assert chart.specification["layer"][0]["data"]["values"] == [{"y": 0.5}]
    closed_form = [each for each in series if each.label == "cca"]
    assert training_charts.discriminator_accuracy(closed_form, "table") is None


def test_validation_of_rows_with_two_epochs_is_averaged_over_seeds(make_record: Maker) -> None:
    key = "val/i2t/R@1"
    series = series_of(
        [
            make_record(method="scan", seed=0, history=history(key, 10, 20, 30)),
            make_record(method="scan", seed=1, history=history(key, 20, 40)),
            make_record(method="vse", history=history(key, 99)),
            make_record(method="cca", history=[]),
        ]
    )
    assert lines(training_charts.validation_curves(series, "table")) == {"scan": [(1, 15), (2, 30)]}
    assert training_charts.validation_curves(series[-1:], "table") is None


def test_risks_have_two_lines_a_row(make_record: Maker) -> None:
    epochs = [{"epoch": e, "train/risk_own": 0.5 - e / 10, "train/risk_other": 0.5 + e / 10} for e in (0, 1)]
    series = series_of([make_record(method="addr_scan", history=epochs), make_record(method="scan")])
    assert lines(training_charts.pair_risks(series, "table")) == {
        "addr_scan: own discriminator": [(1, 0.5), (2, 0.4)],
        "addr_scan: another pair's": [(1, 0.5), (2, 0.6)],
    }


def test_a_long_training_is_thinned_out(make_record: Maker) -> None:
    record = make_record(history=history("train/loss_embedding", *range(1000)))
    epochs = list(training_charts.by_epoch([record], "train/loss_embedding"))
    assert epochs[:2] == [1, 6] and len(epochs) == training_charts.MOST_EPOCHS


def test_without_history_there_is_no_chart(make_record: Maker) -> None:
    series = series_of([make_record(history=[{"epoch": 0, "val/mAP": 0.1}])])
    assert training_charts.training_curves(series[0], "mAP") is None
    assert training_charts.discriminator_accuracy(series, "table") is None
