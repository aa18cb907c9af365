from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.training.named_checkpoint import named_checkpoint, requeued_checkpoint

WEIGHTS = {"state_dict": {"a": torch.ones(2)}, "pytorch-lightning_version": "2.6.0"}
WHOLE = {**WEIGHTS, "optimizer_states": [], "loops": {}}


def write(path: Path, content: Any = WHOLE, age: float = 0.0) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    torch.save(content, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def named(word: str | Path, folder: Path, *, in_file: bool = False, to_go_on: bool = True) -> Path | None:
    return named_checkpoint(str(word), folder, in_file=in_file, to_go_on=to_go_on)


def test_last_is_the_newest_of_all_and_hpc_the_newest_of_its_name(tmp_path: Path) -> None:
    write(tmp_path / "interrupted.ckpt", age=20)
    newest = write(tmp_path / "checkpoints" / "epoch=1.ckpt", age=5)
    hpc = write(tmp_path / "hpc_ckpt_1.ckpt", age=10)
    write(tmp_path / "hpc_ckpt_2.ckpt", age=15)
    assert named("last", tmp_path) == newest
    assert named("hpc", tmp_path) == hpc


def test_a_training_that_has_saved_nothing_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named("last", tmp_path) is None
    assert "no checkpoint of yours" in capsys.readouterr().err
    for word in ("hpc", "best", "nothing.ckpt", "registry"):
        with pytest.raises(BadInput, match=f"--ckpt_path {word}"):
            named(word, tmp_path)


def test_neither_links_nor_others_files_are_taken_for_ones_own(tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere" / "x.ckpt")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "hpc_ckpt_9.ckpt").symlink_to(elsewhere)
    assert named("last", folder) is None
    theirs = write(folder / "hpc_ckpt_8.ckpt")
    if os.geteuid() == 0:
        os.chown(theirs, 12345, 12345)
        with pytest.raises(BadInput, match=r"no hpc_ckpt_\*\.ckpt of yours"):
            named("hpc", folder)
        with pytest.raises(BadInput, match="which your own training did not write"):
            named(theirs, folder, in_file=True)
    # By its name, on the command line, it is the user's own decision; it is weights all the same.
    assert named(theirs, folder) == theirs


def test_a_file_names_checkpoints_of_the_trainings_own_folder_alone(tmp_path: Path) -> None:
    inside = write(tmp_path / "mine" / "checkpoints" / "a.ckpt")
    outside = write(tmp_path / "a.ckpt")
    folder = tmp_path / "mine"
    assert named(inside, folder, in_file=True) == inside
    (folder / "link.ckpt").symlink_to(outside)
    for path in (outside, folder / ".." / "a.ckpt", folder / "link.ckpt"):
        with pytest.raises(BadInput, match=r"configuration key 'ckpt_path' is .*did not write"):
            named(path, folder, in_file=True)
        assert named(path, folder) == path


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        ([1], "it contains no keys"),
        ({}, "it has no state_dict"),
        ({"state_dict": {}}, "it has no pytorch-lightning_version"),
        (WEIGHTS, "it has no optimizer_states"),
    ],
)
def test_what_is_no_checkpoint_says_what_it_lacks(tmp_path: Path, content: Any, lacks: str) -> None:
    path = write(tmp_path / "x.ckpt", content)
    with pytest.raises(BadInput, match=lacks):
        named(path, tmp_path)
    if content is WEIGHTS:
        assert named(path, tmp_path, to_go_on=False) == path


def test_under_slurm_lightning_goes_on_by_itself_from_ones_own_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = write(tmp_path / "hpc_ckpt_1.ckpt")
    assert requeued_checkpoint(tmp_path, to_go_on=True, writes_them=True) is None, "no task of SLURM's"
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert requeued_checkpoint(tmp_path, to_go_on=True, writes_them=True) == ours
    with pytest.raises(BadInput, match=r"hpc_ckpt_1\.ckpt is not from your own training.*remove it"):
        requeued_checkpoint(tmp_path, to_go_on=True, writes_them=False)
    elsewhere = write(tmp_path / "elsewhere" / "x.ckpt")
    (tmp_path / "hpc_ckpt_2.ckpt").symlink_to(elsewhere)
    assert requeued_checkpoint(tmp_path, to_go_on=True, writes_them=True) == ours
    ours.unlink()
    with pytest.raises(BadInput, match=r"hpc_ckpt_2\.ckpt is not from your own training"):
        requeued_checkpoint(tmp_path, to_go_on=True, writes_them=True)
    (tmp_path / "hpc_ckpt_2.ckpt").unlink()
    assert requeued_checkpoint(tmp_path, to_go_on=True, writes_them=True) is None
