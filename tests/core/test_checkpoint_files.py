from __future__ import annotations

import multiprocessing
import resource
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from crossmodal_bench.core.checkpoint_files import damage, previous
from crossmodal_bench.core.checkpoint_writing import CheckpointFiles
from crossmodal_bench.core.errors import BadInput

CONTENT = {"epoch": 3, "weights": torch.arange(20.0), "names": ["a", "b"]}


def fill_up(path: Path) -> None:
    """In a process of its own: save what does not fit a file system that is full at 100 KB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        CheckpointFiles(("last.ckpt",)).save_checkpoint({"weights": torch.ones(100_000)}, path)
    except BadInput as error:
        path.with_name("said.txt").write_text(str(error))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    CheckpointFiles().save_checkpoint(CONTENT, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_the_one_before_is_kept_where_asked_for(path: Path) -> None:
    CheckpointFiles().save_checkpoint({"epoch": 4}, path)
    assert not previous(path).exists()
    CheckpointFiles(("last.ckpt",)).save_checkpoint({"epoch": 5}, path)
    found = [torch.load(one, weights_only=True)["epoch"] for one in (path, previous(path))]
    assert found == [5, 4]
    assert CheckpointFiles().load_checkpoint(path, weights_only=True) == {"epoch": 5}


def test_every_flipped_bit_is_found_or_changes_nothing(path: Path) -> None:
    whole = path.read_bytes()
    assert damage(path) == ""
    found = 0
    # What no checksum covers is the zip file's own: padding, dates and the like.
    for position in range(0, len(whole), 5):
        broken = bytearray(whole)
        broken[position] ^= 1 << position % 8
        path.write_bytes(broken)
        if damage(path):
            found += 1
        else:
            loaded = torch.load(path, weights_only=True)
            assert torch.equal(loaded.pop("weights"), CONTENT["weights"])
            assert loaded == {"epoch": 3, "names": ["a", "b"]}
    assert found > len(whole) / 5 / 2


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_truncated_file_is_found(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    assert damage(path)


def test_a_file_that_would_run_code_is_damaged(path: Path) -> None:
    torch.save({"x": subprocess.Popen}, path)
    assert damage(path)


def test_a_full_disk_is_a_sentence_and_leaves_the_last_checkpoint(path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=fill_up, args=(path,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    said = path.with_name("said.txt")
    assert f"{path} cannot be written (File too large)" in said.read_text()
    said.unlink()
    assert [one.name for one in path.parent.iterdir()] == ["last.ckpt"]
    assert damage(path) == ""
