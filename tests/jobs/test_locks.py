"""The lock of a job's directory; that it ends with its process is in test_state.py."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import TextIO

import pytest
from users import as_its_owner

from crossmodal_bench.cli.main import main
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.file_locks import SWITCH
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


def test_locks_that_are_off_are_neither_asked_for_nor_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(handle: TextIO, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setenv(SWITCH, "on")
    monkeypatch.setattr(fcntl, "flock", refuses)
    with pytest.raises(BadInput, match=r"or pass LOCKS=off \(--locks off\)"), locked(tmp_path):
        raise AssertionError("it was locked")
    assert main(["status", "--dataset", "synthetic-20", "--methods", "cca", "--locks", "off"]) == 0
    assert os.environ[SWITCH] == "off", "for the processes that it starts"
    with locked(tmp_path):
        assert not is_locked(tmp_path)
        assert holder(tmp_path).startswith(f"process {os.getpid()} on ")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_a_sentence_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuses(handle: TextIO, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    JobDirectory(tmp_path).lock.touch()
    monkeypatch.setattr(fcntl, "flock", refuses)
    sentence = rf"{tmp_path}/lock cannot be locked: .*{errno.errorcode[number]}.*; choose a RUNS folder"
    with pytest.raises(BadInput, match=sentence):
        is_locked(tmp_path)
    with pytest.raises(BadInput, match=sentence) as refused, locked(tmp_path):
        raise AssertionError("locked without a lock")
    assert not isinstance(refused.value, Taken)


def test_another_users_lock_can_be_looked_at_and_not_taken(anothers_runs: Path) -> None:
    directory = anothers_runs / "wikipedia" / "cca" / "job"
    with as_its_owner(), locked(directory):
        pass
    assert not is_locked(directory)
    with pytest.raises(BadInput, match="cannot be written"), locked(directory):
        raise AssertionError("locked in another user's folder")


def test_another_users_held_lock_is_seen(anothers_runs: Path) -> None:
    directory = anothers_runs / "job"
    with as_its_owner():
        holding = locked(directory)
        holding.__enter__()
    assert is_locked(directory)
    with as_its_owner():
        holding.__exit__(None, None, None)
        JobDirectory(directory).lock.chmod(0o600)
    assert not is_locked(directory)


def test_no_link_is_signed_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("dear")
    job = tmp_path / "job"
    job.mkdir()
    JobDirectory(job).lock.symlink_to(victim)
    assert not is_locked(job)
    with pytest.raises(BadInput, match="cannot be written"), locked(job):
        raise AssertionError("locked through a link")
    assert victim.read_text() == "dear"
    JobDirectory(job).lock.unlink()
    os.mkfifo(JobDirectory(job).lock)
    assert not is_locked(job)
    with pytest.raises(BadInput, match="not a regular file"), locked(job):
        raise AssertionError("locked a pipe")
