from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.training.checkpoints import made_by, resumable

SOURCES = {"sources": "a", "data": "b"}


def write(directory: Path, **epochs: int) -> None:
    """Checkpoints of these epochs, as a run of ``SOURCES`` leaves them."""
    for name, epoch in epochs.items():
        torch.save({"epoch": epoch, "weights": torch.ones(50)}, directory / f"{name.replace('_', '.')}.ckpt")
    (JobDirectory(directory).resume).write_text(json.dumps(SOURCES))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    position = content.index(torch.ones(50).numpy().tobytes())
    content[position] ^= 1
    path.write_bytes(content)


def left(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.ckpt"))


def test_only_a_checkpoint_of_the_same_sources_is_gone_on_from(tmp_path: Path) -> None:
    assert resumable(tmp_path, SOURCES) is None
    write(tmp_path, last_previous=1, last=2, best=1)
    assert resumable(tmp_path, SOURCES) == JobDirectory(tmp_path).last_checkpoint
    assert resumable(tmp_path, {**SOURCES, "data": "others"}) is None and not left(tmp_path)


def test_a_damaged_one_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, last_previous=1, last=2, best=1)
    damage(JobDirectory(tmp_path).last_checkpoint)
    found = resumable(tmp_path, SOURCES)
    assert found == tmp_path / "last.previous.ckpt"
    assert "warning: " in (said := capsys.readouterr().err) and "last.ckpt is damaged" in said
    # A process that is killed between two renames leaves the previous one alone.
    (JobDirectory(tmp_path).last_checkpoint).unlink()
    assert resumable(tmp_path, SOURCES) == found and not capsys.readouterr().err
    found.write_bytes(found.read_bytes()[:100])
    assert resumable(tmp_path, SOURCES) is None and not left(tmp_path)


def test_without_the_best_epochs_weights_a_job_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, last=2, best=1)
    damage(JobDirectory(tmp_path).best_checkpoint)
    assert resumable(tmp_path, SOURCES) is None and not left(tmp_path)
    assert "best.ckpt is damaged" in capsys.readouterr().err


def test_of_several_processes_only_the_first_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, last=2)
    (tmp_path / ".last.ckpt.abcdefgh").write_text("half")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resumable(tmp_path, {}) is None and left(tmp_path) == ["last.ckpt"]
    assert (tmp_path / ".last.ckpt.abcdefgh").is_file()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert resumable(tmp_path, {}) is None and list(tmp_path.iterdir()) == [JobDirectory(tmp_path).resume]


def test_the_tested_checkpoint_follows_from_the_selection(tmp_path: Path) -> None:
    assert JobDirectory(tmp_path).chosen_checkpoint("val/rsum") == tmp_path / "best.ckpt"
    assert JobDirectory(tmp_path).chosen_checkpoint(None) == tmp_path / "last.ckpt"


def test_checkpoints_rest_on_sources_data_and_parents() -> None:
    # Those of methods without parents are noted as they always were.
    assert made_by("a", "b", {}) == {"sources": "a", "data": "b"}
    run = {"job": "0", "finished_at": "2026"}
    assert made_by("a", "b", {"cca": run}) == {"sources": "a", "data": "b", "parents": {"cca": run}}
