from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.training.basis import made_by, matches_record
from crossmodal_bench.training.checkpoints import chosen_checkpoint


def test_the_tested_checkpoint_follows_from_the_selection(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    assert chosen_checkpoint(files, "val/rsum") == tmp_path / "best.ckpt"
    assert chosen_checkpoint(files, None) == tmp_path / "last.ckpt"


def test_checkpoints_rest_on_sources_data_and_parents() -> None:
    assert made_by("a", "b", {}) == {"sources": "a", "data": "b"}
    run = {"job": "0", "finished_at": "2026"}
    assert made_by("a", "b", {"cca": run}) == {"sources": "a", "data": "b", "parents": {"cca": run}}


def test_checkpoints_are_told_from_those_of_another_run(make_record: Callable[..., Record]) -> None:
    record = make_record()
    noted = made_by(record.source_fingerprint, record.data.fingerprint, {})
    assert matches_record({**noted, "taken_up": ["what else is noted there"]}, record)
    assert not matches_record({**noted, "sources": "others"}, record)
    assert not matches_record({**noted, "parents": {"cca": {}}}, record)
