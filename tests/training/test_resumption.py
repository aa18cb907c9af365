"""Checkpoints that do not fit are set aside and can be taken up again; none is ever removed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from crossmodal_bench.jobs.directory import JobDirectory, read_json
from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Job
from crossmodal_bench.training import resumption
from crossmodal_bench.training.resumption import (
    Basis,
    Start,
    expected_mismatch,
    mismatch_of,
    restore_set_aside,
    start_of,
)

FINGERPRINT = Fingerprint(
    scheme=1,
    modules={"pkg.ranking": "1"},
    files={},
    libraries={"torch": "2.9"},
    settings={"trainer.max_epochs": "1"},
    protocols={"coco-5k": "1"},
)
BASIS = Basis(FINGERPRINT, "data", {})


def changed(**parts: dict[str, str]) -> Basis:
    return replace(BASIS, fingerprint=FINGERPRINT.model_copy(update=parts))


CHANGED = changed(modules={"pkg.ranking": "2"})


def job(directory: Path, *, resume_anyway: bool = False) -> PlannedJob:
    words: dict[str, Any] = {"suite": None, "label": "", "overrides": {}}
    job = Job(id="0", method="scan", dataset="coco", protocol="coco-5k", preset="small", seed=0, **words)
    return PlannedJob(job, {}, [], "test", directory, "", "data", {}, resume_anyway=resume_anyway)


def write(directory: Path, basis: Basis | None = BASIS, **epochs: int) -> None:
    """Checkpoints of these epochs, as a run that rests on ``basis`` leaves them."""
    for name, epoch in epochs.items():
        content = {"epoch": epoch, "global_step": 10 * epoch, "weights": torch.ones(50)}
        torch.save(content, directory / f"{name.replace('_', '.')}.ckpt")
    if basis is not None:
        JobDirectory(directory).resume.write_text(json.dumps(basis.noted()))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    position = content.index(torch.ones(50).numpy().tobytes())
    content[position] ^= 1
    path.write_bytes(content)


def epochs(directory: Path) -> dict[str, int]:
    """The epoch of each checkpoint; the moment at which it was set aside is "TIME"."""
    found = {}
    for path in directory.glob("*.ckpt"):
        head, dash, tail = path.name.rpartition("-2")
        name = f"{head}-TIME{tail[14:]}" if dash else path.name
        found[name] = torch.load(path, weights_only=True)["epoch"]
    return found


def test_a_checkpoint_of_the_same_sources_is_gone_on_from(tmp_path: Path) -> None:
    assert start_of(job(tmp_path), BASIS) == Start(None)
    write(tmp_path, last_previous=1, last=2, best=1)
    assert start_of(job(tmp_path), BASIS) == Start(tmp_path / "last.ckpt")


@pytest.mark.parametrize(
    ("basis", "word", "why"),
    [
        (CHANGED, "sources-changed", "pkg.ranking has changed"),
        (changed(libraries={"torch": "2.10"}), "libraries-changed", "torch 2.9 → 2.10"),
        (changed(settings={}), "settings-changed", "settings differ: trainer.max_epochs"),
        (changed(protocols={"coco-5k": "2"}), "protocols-changed", "protocol coco-5k has changed"),
        (replace(BASIS, data="others"), "data-changed", "the data have changed"),
        (replace(BASIS, parents={"vse": {"job": "1"}}), "parents-changed", "vse ran again"),
    ],
)
def test_others_are_set_aside_whole_under_a_name_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], basis: Basis, word: str, why: str
) -> None:
    write(tmp_path, last_previous=1, last=2, best=1)
    assert start_of(job(tmp_path), basis) == Start(None)
    assert epochs(tmp_path) == {
        f"last.previous.{word}-TIME.ckpt": 1,
        f"last.{word}-TIME.ckpt": 2,
        f"best.{word}-TIME.ckpt": 1,
    }
    (noted,) = tmp_path.glob(f"resume.{word}-*.json")
    assert (
        read_json(noted)["made_from"] == FINGERPRINT.model_dump() and not (tmp_path / "resume.json").exists()
    )
    said = capsys.readouterr().err
    assert said.startswith("warning: ") and f"because {why}" in said and f"*.{word}-2" in said


def test_what_makes_no_difference_sets_nothing_aside(tmp_path: Path) -> None:
    write(tmp_path, last=2)
    more = changed(protocols={"coco-5k": "1", "coco-1k-5fold": "1"})
    assert start_of(job(tmp_path), more) == Start(tmp_path / "last.ckpt")


def test_anyway_it_goes_on_and_says_over_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, last=2, best=1)
    start = start_of(job(tmp_path, resume_anyway=True), CHANGED)
    assert start == Start(tmp_path / "last.ckpt", ("pkg.ranking has changed",))
    assert "resuming from last.ckpt although pkg.ranking has changed" in capsys.readouterr().err
    (tmp_path / "resume.json").write_text(json.dumps(CHANGED.noted(start.taken_up)))
    # Interrupted once more, it goes on without being told again, and what it was taken up over stays known.
    assert start_of(job(tmp_path), CHANGED) == start
    twice = start_of(job(tmp_path, resume_anyway=True), replace(CHANGED, data="others"))
    assert twice.taken_up == ("pkg.ranking has changed", "the data have changed")


def test_a_job_that_runs_again_because_it_was_taken_up_starts_over(tmp_path: Path) -> None:
    write(tmp_path, last=2)
    (tmp_path / "resume.json").write_text(json.dumps(CHANGED.noted(["pkg.ranking has changed"])))
    (tmp_path / "record.json").touch()
    assert start_of(job(tmp_path), CHANGED) == Start(None)
    assert list(epochs(tmp_path)) == ["last.taken-up-TIME.ckpt"]


@pytest.mark.parametrize("noted", ["", "{}", '{"sources": "old", "data": "data"}', '{"made_from": 3}', "[1]"])
def test_what_an_earlier_version_left_is_kept_too(tmp_path: Path, noted: str) -> None:
    write(tmp_path, None, last=2)
    (tmp_path / "resume.json").write_text(noted)
    assert start_of(job(tmp_path), BASIS) == Start(None)
    assert list(epochs(tmp_path)) == ["last.unknown-sources-TIME.ckpt"]


def test_a_damaged_one_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, last_previous=1, last=2, best=1)
    damage(tmp_path / "last.ckpt")
    start = start_of(job(tmp_path), BASIS)
    assert start == Start(tmp_path / "last.previous.ckpt")
    assert "warning: " in (said := capsys.readouterr().err) and "last.ckpt is damaged" in said
    # A process that is killed between two renames leaves the previous one alone.
    (tmp_path / "last.ckpt").unlink()
    assert start_of(job(tmp_path), BASIS) == start and not capsys.readouterr().err
    damage(tmp_path / "last.previous.ckpt")
    assert start_of(job(tmp_path), BASIS) == Start(None)
    assert sorted(path.name.partition(".damaged-")[0] for path in tmp_path.glob("*.ckpt")) == [
        "best",
        "last.previous",
    ]


def test_without_the_best_epochs_weights_a_job_starts_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, last=2, best=1)
    damage(tmp_path / "best.ckpt")
    assert start_of(job(tmp_path), BASIS) == Start(None)
    assert epochs(tmp_path).keys() == {"best.damaged-TIME.ckpt", "last.damaged-TIME.ckpt"}
    assert "best.ckpt is damaged" in capsys.readouterr().err
    # Nothing could be gone on from.
    assert restore_set_aside(JobDirectory(tmp_path)) == ""


def test_of_several_processes_only_the_first_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, last=2)
    (tmp_path / ".last.ckpt.abcdefgh").write_text("half")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert start_of(job(tmp_path), CHANGED) == Start(None) and epochs(tmp_path) == {"last.ckpt": 2}
    assert (tmp_path / ".last.ckpt.abcdefgh").is_file()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert start_of(job(tmp_path), CHANGED) == Start(None)
    assert epochs(tmp_path) == {"last.sources-changed-TIME.ckpt": 2}
    assert not (tmp_path / ".last.ckpt.abcdefgh").exists()


def test_what_was_set_aside_is_taken_up_where_it_is_further(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    assert restore_set_aside(files) == ""
    write(tmp_path, last_previous=6, last=7, best=5)
    start_of(job(tmp_path), CHANGED)
    write(tmp_path, CHANGED, last=2, best=1)
    said = restore_set_aside(files)
    assert "are restored" in said and "last.ckpt set aside" in said
    assert epochs(tmp_path) == {
        "last.ckpt": 7,
        "last.previous.ckpt": 6,
        "best.ckpt": 5,
        "last.overtaken-TIME.ckpt": 2,
        "best.overtaken-TIME.ckpt": 1,
    }
    assert mismatch_of(read_json(files.resume), BASIS) is None
    # The same command again changes nothing.
    assert restore_set_aside(files) == ""
    assert start_of(job(tmp_path, resume_anyway=True), CHANGED).taken_up == ("pkg.ranking has changed",)


def test_what_is_behind_stays_aside(tmp_path: Path) -> None:
    write(tmp_path, last=3)
    start_of(job(tmp_path), CHANGED)
    write(tmp_path, CHANGED, last=4)
    assert restore_set_aside(JobDirectory(tmp_path)) == ""
    assert epochs(tmp_path) == {"last.ckpt": 4, "last.sources-changed-TIME.ckpt": 3}


def test_several_in_one_second_have_names_of_their_own(tmp_path: Path) -> None:
    for epoch in (3, 4, 5):
        write(tmp_path, last=epoch)
        start_of(job(tmp_path), CHANGED)
    kept = [
        torch.load(path, weights_only=True)["epoch"] for path in tmp_path.glob("last.sources-changed-*.ckpt")
    ]
    assert sorted(kept) == [3, 4, 5]


def test_what_is_to_come_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "basis_of", lambda planned: CHANGED)
    assert expected_mismatch(job(tmp_path)) is None
    write(tmp_path, CHANGED, last=3)
    assert expected_mismatch(job(tmp_path)) is None
    write(tmp_path, last=3)
    mismatch = expected_mismatch(job(tmp_path))
    assert mismatch is not None and mismatch.why == "pkg.ranking has changed"
    assert epochs(tmp_path) == {"last.ckpt": 3}
