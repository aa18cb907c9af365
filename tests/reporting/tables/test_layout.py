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
