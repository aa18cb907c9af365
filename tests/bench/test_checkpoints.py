from __future__ import annotations

import json
from pathlib import Path

import torch

from crossmodal_bench.bench.checkpoints import chosen_checkpoint, made_by, resumable


def test_only_a_checkpoint_of_the_same_sources_is_gone_on_from(tmp_path: Path) -> None:
    last, note, sources = tmp_path / "last.ckpt", tmp_path / "resume.json", {"sources": "a", "data": "b"}

    def write(content: dict[str, str]) -> None:
        torch.save({"epoch": 1}, last)
        note.write_text(json.dumps(content))

    assert resumable(tmp_path, sources) is None
    write(sources)
    assert resumable(tmp_path, sources) == last
    write({**sources, "data": "others"})
    assert resumable(tmp_path, sources) is None and not last.exists()
    write(sources)
    last.write_bytes(last.read_bytes()[:100])
    assert resumable(tmp_path, sources) is None and not last.exists()


def test_the_tested_checkpoint_follows_from_the_selection(tmp_path: Path) -> None:
    assert chosen_checkpoint(tmp_path, "val/rsum") == tmp_path / "best.ckpt"
    assert chosen_checkpoint(tmp_path, None) == tmp_path / "last.ckpt"


def test_checkpoints_rest_on_sources_data_and_parents() -> None:
    # Those of methods without parents are noted as they always were.
    assert made_by("a", "b", {}) == {"sources": "a", "data": "b"}
    run = {"job": "0", "finished_at": "2026"}
    assert made_by("a", "b", {"cca": run}) == {"sources": "a", "data": "b", "parents": {"cca": run}}
