from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.figure import Figure
from pictures import is_picture

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.figures import training_figures as figures
from crossmodal_bench.reporting.rows.leaderboard import leaderboard

Maker = Callable[..., Record]


def test_training_curves_have_a_panel_per_measured_key(make_record: Maker, drawn: list[Figure]) -> None:
    history = [{"epoch": epoch, "train/loss_embedding": 1.0 / (1 + epoch)} for epoch in range(3)]
    history[2]["train/discriminator_accuracy"] = 0.5
    (row,) = leaderboard([make_record(seed=seed, history=history) for seed in (0, 1)])
    assert is_picture(figures.training_curves(row))
    losses, accuracy = drawn[0].axes
    assert losses.get_title() == "embedding loss"
    np.testing.assert_allclose(losses.lines[1].get_xydata(), [[0, 1], [1, 1 / 2], [2, 1 / 3]])
    np.testing.assert_allclose(accuracy.lines[0].get_xydata(), [[2, 0.5]])
    assert all(axis.get_xlabel() == "epoch" and axis.get_ylabel() for axis in drawn[0].axes)


def test_discriminators_of_all_methods_share_one_picture(make_record: Maker, drawn: list[Figure]) -> None:
    def history(*accuracy: float) -> list[dict[str, float]]:
        return [
            {"epoch": epoch, "train/discriminator_accuracy": value} for epoch, value in enumerate(accuracy)
        ]

    rows = leaderboard(
        [
            make_record(method="timam", seed=0, history=history(0.9, 0.6, 0.5)),
            make_record(method="timam", seed=1, history=history(0.7, 0.4)),
            make_record(method="timam_no_adversary", history=history(0.8, 0.9, 1.0)),
            make_record(method="cca", history=[{"epoch": 0}]),
        ]
    )
    assert is_picture(figures.discriminator_accuracy(rows))
    lines = {str(line.get_label()).split(",")[0]: line.get_xydata() for line in drawn[0].axes[0].lines}
    assert set(lines) == {"timam", "timam_no_adversary", "chance"}
    np.testing.assert_allclose(lines["timam"], [[1, 0.8], [2, 0.5]])
    np.testing.assert_allclose(lines["timam_no_adversary"], [[1, 0.8], [2, 0.9], [3, 1.0]])
    assert figures.discriminator_accuracy([row for row in rows if row.method == "cca"]) is None


def _lines(figure: Figure) -> dict[str, list[list[float]]]:
    (axis,) = figure.axes
    assert axis.get_xlabel() == "epoch" and axis.get_ylabel()
    return {str(line.get_label()): line.get_xydata().tolist() for line in axis.lines}


def test_validation_of_rows_with_two_epochs_is_averaged_over_seeds(
    make_record: Maker, drawn: list[Figure]
) -> None:
    def history(*values: float) -> list[dict[str, float]]:
        return [{"epoch": epoch, "val/i2t/R@1": value} for epoch, value in enumerate(values)]

    rows = leaderboard(
        [
            make_record(method="scan", seed=0, history=history(10, 20, 30)),
            make_record(method="scan", seed=1, history=history(20, 40)),
            make_record(method="addr_scan", history=history(30, 50)),
            make_record(method="vse", history=history(99)),
            make_record(method="cca", history=[]),
        ]
    )
    assert is_picture(figures.validation_curves(rows))
    assert _lines(drawn[0]) == {
        "scan, small": [[1, 15], [2, 30]],
        "addr_scan, small": [[1, 30], [2, 50]],
    }
    assert figures.validation_curves([row for row in rows if row.method in ("vse", "cca")]) is None


def test_risks_have_two_lines_a_row(make_record: Maker, drawn: list[Figure]) -> None:
    history = [{"epoch": e, "train/risk_own": 0.5 - e / 10, "train/risk_other": 0.5 + e / 10} for e in (0, 1)]
    rows = leaderboard([make_record(method="addr_scan", history=history), make_record(method="scan")])
    assert is_picture(figures.pair_risks(rows))
    assert _lines(drawn[0]) == {
        "addr_scan, small: own discriminator": [[1, 0.5], [2, 0.4]],
        "addr_scan, small: another pair's": [[1, 0.5], [2, 0.6]],
    }
    assert figures.pair_risks([row for row in rows if row.method == "scan"]) is None


def test_without_history_there_is_no_figure(make_record: Maker) -> None:
    rows = leaderboard([make_record(history=[{"epoch": 0, "val/mAP": 0.1}])])
    assert figures.training_curves(rows[0]) is None
    assert figures.discriminator_accuracy(rows) is None
