from __future__ import annotations

from collections.abc import Callable

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.layout import notes

Maker = Callable[..., Record]


def test_repeated_captions_are_stated_where_there_are_any(make_recall_record: Maker) -> None:
    plain = make_recall_record()
    data = dict(plain.content["data"])
    assert "repeats" not in "\n".join(notes(tables(leaderboard([plain]))[0]))
    counts = {"test": {"images": 210, "captions": 1050, "repeated_captions": 840}}
    repeated = make_recall_record(method="cca", data={**data, "counts": counts})
    said = "\n".join(notes(tables(leaderboard([repeated]))[0]))
    assert "repeats: 840 of 1050 captions (80.0 %) are identical to a caption" in said


def test_what_all_rows_were_run_with_stands_below_the_table_and_in_no_name(
    make_recall_record: Maker,
) -> None:
    weights = {"data.images.weights": "data/weights/net.pth"}
    wide = {**weights, "model.init_args.dim": 64}
    records = [make_recall_record(overrides=weights), make_recall_record(method="cca", overrides=wide)]
    (table,) = tables(leaderboard(records))
    assert {row.name for row in table.rows} == {"acmr", "cca (dim=64)"}
    assert "all rows: data.images.weights=data/weights/net.pth" in notes(table)
    (table,) = tables(leaderboard([*records, make_recall_record(method="vse")]))
    assert "acmr (weights=data/weights/net.pth)" in {row.name for row in table.rows}
    (alone,) = leaderboard(records[:1])
    assert alone.name == "acmr (weights=data/weights/net.pth)"
