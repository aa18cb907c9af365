"""The lock of a job's directory; that it ends with its process is in test_state.py."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import locks
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.locks import Taken, holder, is_locked, locked


def test_a_directory_is_locked_while_it_is_worked_in(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "job"
    assert not is_locked(directory)
    with locked(directory):
        assert is_locked(directory)
        assert holder(directory).startswith(f"process {os.getpid()} on {socket.gethostname()} since 2")
    assert not is_locked(directory)


def test_a_failure_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), locked(tmp_path):
        raise RuntimeError("inside")
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)


def test_a_second_lock_is_refused_with_who_holds_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.05)
    with (
        locked(tmp_path),
        pytest.raises(Taken, match=rf"another process \(process {os.getpid()} on .*; wait for it or stop it"),
        locked(tmp_path),
    ):
        raise AssertionError("a directory is locked twice")


def test_the_signature_is_the_last_holders_alone(tmp_path: Path) -> None:
    lock = JobDirectory(tmp_path).lock
    lock.write_text(json.dumps({"pid": 10**9, "host": "a host with a long name " * 20, "since": "2020"}))
    with locked(tmp_path):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": 7}'])
def test_a_lock_without_a_signature_says_nothing_of_its_holder(tmp_path: Path, content: str) -> None:
    JobDirectory(tmp_path).lock.write_text(content)
    assert holder(tmp_path) == ""


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written"), locked(tmp_path / "runs" / "job"):
        raise AssertionError("locked a folder that is not there")
