"""What charts of results hold: averages, scopes, labels, differences; read from their specifications."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from answered import Answered

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation.metric_table import SIDES
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts import result_charts
from crossmodal_bench.reporting.charts.chart import Chart, png, svg
from crossmodal_bench.reporting.charts.collection import collect
from crossmodal_bench.reporting.charts.looks import COLOURS, Looks, Series, distinct_ids
from crossmodal_bench.reporting.comparison.ablations import effects
from crossmodal_bench.reporting.comparison.parameter_sweeps import sweeps
from crossmodal_bench.reporting.rows.leaderboard import Row, leaderboard, tables

Maker = Callable[..., Record]


def series_of(rows: list[Row]) -> list[Series]:
    return Looks(rows).series(rows, "table")


def values(chart: Chart) -> list[dict[str, Any]]:
    return chart.specification["data"]["values"]


def test_precision_scope_averages_seeds_over_the_scopes_they_share(make_record: Maker) -> None:
    def curves(scope: list[int], precision: list[float]) -> dict[str, object]:
        return {
            f"{side}/precision_scope": {"scope": scope, "precision": precision} for side in ("i2t", "t2i")
        }

    rows = leaderboard(
        [
            make_record(seed=0, curves=curves([50, 100, 200], [0.6, 0.4, 0.2])),
            make_record(seed=1, curves=curves([50, 100], [0.4, 0.2])),
            make_record(seed=2, curves={}),
            make_record(method="cca", curves={}),
        ]
    )
    charts = list(result_charts.precision_scope(series_of(rows), "table"))
    assert [chart.title.rpartition(", ")[2] for chart in charts] == ["image → text", "text → image"]
    for chart in charts:
        assert [(value["x"], value["y"]) for value in values(chart)] == [(50, 0.5), (100, 0.3)]
        assert [entry.label for entry in chart.entries] == ["acmr"]


def test_without_curves_there_is_no_chart(make_record: Maker) -> None:
    rows = leaderboard([make_record(curves={}, history=[], cost={})])
    series = series_of(rows)
    assert list(result_charts.precision_scope(series, "table")) == []
    assert list(result_charts.recall_at_k(series, "table")) == []
    assert result_charts.recall_sums(series, "table") is None
    assert result_charts.cost_and_quality(series, "mAP", "table") is None
    assert result_charts.projection(rows[0].records[0], "row") is None
    assert collect(tables(rows))[0].all == []


def test_recall_at_k_is_the_tables_where_both_have_it(answered: Answered) -> None:
    (table,) = answered.tables([answered(0.3, method="scan", seed=seed) for seed in (0, 1)])
    i2t, t2i = result_charts.recall_at_k(series_of(list(table.rows)), "table")
    for chart, side in ((i2t, "i2t"), (t2i, "t2i")):
        drawn = {value["x"]: value["y"] for value in values(chart)}
        for k in (1, 5, 10):
            assert drawn[k] == pytest.approx(table.rows[0].cells[f"{side}/R@{k}"].mean, abs=1e-3)
        assert list(drawn.values()) == sorted(drawn.values()) and max(drawn) == 100


def test_sums_of_recalls_are_of_each_direction(answered: Answered) -> None:
    (table,) = answered.tables([answered(0.3, method="scan", seed=seed) for seed in (0, 1)])
    chart = result_charts.recall_sums(series_of(list(table.rows)), "table")
    drawn = {value["x"]: value["y"] for value in values(chart)}
    cells = table.rows[0].cells
    for side, title in SIDES.items():
        assert drawn[title] == pytest.approx(sum(cells[f"{side}/R@{k}"].mean for k in (1, 5, 10)), abs=0.02)


def test_the_forest_has_the_effects_of_the_table(answered: Answered) -> None:
    records = [answered(0.3, method="timam"), answered(0.25, method="timam_no_adversary")]
    (table,) = answered.tables(records)
    series = series_of(list(table.rows))
    chart = result_charts.forest(effects(table), series, "table")
    assert chart is not None
    (value,), (effect,) = values(chart), effects(table)
    assert value["label"] == "timam − timam_no_adversary"
    assert (value["x"], value["low"], value["high"]) == (effect.difference, effect.low, effect.high)
    assert result_charts.forest([], series, "table") is None
    behind = result_charts.against_the_first(table, series, "table")
    assert behind is not None and [value["label"] for value in values(behind)] == ["timam_no_adversary"]
    assert values(behind)[0]["x"] == pytest.approx(-effect.difference)


def test_a_map_shows_modalities_and_the_frequent_labels(make_record: Maker) -> None:
    record = make_record()
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 20
    points = {"image": rng.normal(size=(300, 2)), "text": rng.normal(size=(300, 2))}
    np.savez(record.files.projection, image_labels=labels, text_labels=labels, **points)
    chart = result_charts.projection(record, "row")
    assert chart is not None and len(chart.specification["hconcat"]) == 2
    drawn = values(chart)
    assert len(drawn) == 300 and "300 of 600 points" in chart.caption
    assert [value["x"] for value in drawn[:3]] == [round(float(x), 2) for x in points["image"][:6:2, 0]]
    looks = {(value["label_colour"], value["label_shape"]) for value in drawn}
    assert len(looks) <= result_charts.SHOWN_LABELS + 1


def test_a_damaged_map_is_one_sentence(make_record: Maker) -> None:
    record = make_record()
    np.savez(
        record.files.projection,
        image=np.zeros((3, 3)),
        text=np.zeros((3, 2)),
        image_labels=[],
        text_labels=[],
    )
    with pytest.raises(BadInput, match=r"projection\.npz: 'image' and 'text' must be numbers"):
        result_charts.projection(record, "row")


def test_a_sweep_has_a_line_for_each_direction_and_the_mean(make_record: Maker) -> None:
    rows = leaderboard(
        [
            make_record(
                suite="figure6",
                seed=seed,
                overrides={"model.init_args.k": k},
                metrics={"i2t/mAP": 0.4 + k / 100, "t2i/mAP": 0.2, "mAP": 0.3 + k / 200},
                intervals={},
            )
            for k in (1, 10)
            for seed in (0, 1)
        ]
    )
    (sweep,) = sweeps(rows)
    chart = result_charts.parameter_sweep(sweep, "sweep")
    lines: dict[str, list[tuple[float, float]]] = {}
    for value in values(chart):
        lines.setdefault(value["series"], []).append((value["x"], value["y"]))
    assert list(lines) == ["image → text", "text → image", "average"]
    np.testing.assert_allclose(lines["image → text"], [(1, 0.41), (10, 0.5)])
    assert chart.specification["layer"][0]["encoding"]["x"]["scale"]["type"] == "log"


def test_a_method_has_one_colour_in_every_chart(make_record: Maker) -> None:
    records = [make_record(method=f"m{number:02}") for number in range(14)]
    records += [
        make_record(method="m03", label="other"),
        make_record(method="m03", dataset="mine", protocol="mine-test"),
    ]
    rows = leaderboard(records)
    looks = Looks(rows)
    of_one = [looks.of(row) for row in rows if row.method == "m03"]
    assert len({look.colour for look in of_one}) == 1 and len({look.dash for look in of_one}) == 2
    firsts = [looks.of(row) for row in rows if not row.label and row.dataset == "wikipedia"]
    assert len({(look.colour, look.dash) for look in firsts}) == 14 > len(COLOURS)


def test_ids_are_distinct_and_harmless() -> None:
    assert distinct_ids(["a b", "A/B", '"><script>', "…"]) == ["a-b", "a-b--2", "script", "x"]


def test_drawings_stand_within_a_page_and_in_a_file(answered: Answered) -> None:
    hostile = '<script>alert(1)</script>\x1b"'
    (table,) = answered.tables([answered(0.3, method="scan", label=hostile), answered(0.2, method="cca")])
    chart = next(iter(result_charts.recall_at_k(series_of(list(table.rows)), "table")))
    drawing = svg(chart)
    assert drawing.startswith("<svg ") and "role=" not in drawing and "style=" not in drawing
    assert "<script" not in drawing and "\x1b" not in drawing and "currentColor" in drawing
    assert png(chart).startswith(b"\x89PNG")
