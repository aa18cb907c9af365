from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crossmodal_bench.jobs.given.records import given_records
from crossmodal_bench.jobs.record import Record


def test_given_records_are_found_among_others_and_damaged_ones(
    make_record: Callable[..., Record], runs: Path
) -> None:
    given = make_record(method="mine", preset="given")
    make_record(method="acmr")
    make_record(method="mine", preset="given", dataset="flickr8k")
    damaged = runs / "wikipedia" / "mine" / "damaged"
    damaged.mkdir()
    (damaged / "record.json").write_text("{")
    assert given_records(runs, ["wikipedia", "wikipedia", "coco"]) == [given]
    assert not given_records(runs / "nowhere", ["wikipedia"])
