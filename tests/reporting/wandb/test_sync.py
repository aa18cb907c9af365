"""What is sent to W&B's server, and what is not again."""

from __future__ import annotations

import subprocess
import types
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.wandb import sync as syncing
from crossmodal_bench.reporting.wandb.state import RunState, read_state, sending, write_state
from crossmodal_bench.reporting.wandb.sync import Project, known_runs, lacking, named_project, sync

Maker = Callable[..., Record]
pytestmark = pytest.mark.usefixtures("no_account")
PROJECT = Project("bench", "team")


class Server:
    """Has the runs that were sent, by id, with the time of their records; ``down``: takes none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: dict[str, str] = {}
        self.sent: list[str] = []
        self.down = False
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setattr(syncing, "known_runs", lambda project, records: dict(self.there))
        monkeypatch.setattr(syncing, "_send", self.take)
        monkeypatch.setattr(syncing.run, "log_record", self.write)

    def write(self, record: Record, directory: Path, mode: str) -> None:
        assert mode == "offline"
        (directory / "wandb" / f"offline-run-1-{record.job.id}").mkdir(parents=True, exist_ok=True)

    def take(self, records: Sequence[Record], project: Project, log: Callable[[str], None]) -> None:
        assert project == PROJECT
        for record in records:
            assert record.files.offline_wandb_runs(record.job.id)
            self.sent.append(record.job.id)
            if not self.down:
                self.there[record.job.id] = record.finished_at


def test_a_run_that_was_left_half_written_is_not_taken_for_the_records(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    record = make_record()
    there = [
        types.SimpleNamespace(id=state, state=state, config={"finished_at": record.finished_at})
        for state in ("finished", "crashed", "running", "failed")
    ]
    api = types.SimpleNamespace(runs=lambda *_, **__: there)
    monkeypatch.setattr(wandb, "Api", lambda **_: api)
    known = known_runs(PROJECT, [record])
    assert known == {"finished": record.finished_at, "crashed": "", "running": "", "failed": ""}
    assert "incomplete" in lacking([record], {record.job.id: ""})[record.job.id]


def test_ids_that_the_server_has_deleted_are_told(
    make_record: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    sentence = "wandb: ERROR run 0123 was previously created and deleted; try a new run name (Error 409)"
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr=f"{sentence}\nwandb: done")
    monkeypatch.setattr(syncing.subprocess, "run", lambda *_, **__: answer)
    syncing._send([make_record()], PROJECT, said.append)
    assert len(said) == 1 and "--project" in said[0] and "deleted" in said[0]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def test_missing_and_older_runs_are_sent_and_nothing_twice(server: Server, make_record: Maker) -> None:
    records = [make_record(id=f"{number}" * 16, seed=number) for number in range(3)]
    runs = records[0].directory.parents[2]
    server.there = {
        records[0].job.id: records[0].finished_at,
        records[1].job.id: "2000-01-01T00:00:00+00:00",
    }
    said: list[str] = []
    assert sync(runs, PROJECT, said.append, dry_run=True) == 0
    assert server.sent == [] and said[-1] == "2 of 3 runs would be sent to team/bench"
    assert "older than its record" in said[0] and "not on the server yet" in said[1]
    assert read_state(records[0].files) is None
    assert sync(runs, PROJECT, said.append) == 0
    assert sorted(server.sent) == ["1" * 16, "2" * 16]
    assert said[-1] == "2 of 2 runs sent to team/bench"
    assert read_state(records[1].files) == RunState("sent", records[1].finished_at, mode="offline")
    # Of what the server had before, the bench shall say so, too.
    assert read_state(records[0].files) == RunState("sent", records[0].finished_at, mode="online")
    assert sync(runs, PROJECT, said.append) == 0
    assert said[-1] == "team/bench has all 3 runs; nothing to send" and len(server.sent) == 2


def test_what_has_not_arrived_is_told(server: Server, make_record: Maker) -> None:
    record = make_record()
    server.down = True
    said: list[str] = []
    assert sync(record.directory.parents[2], PROJECT, said.append) == 1
    assert "not there yet" in said[-1] and record.job.id in said[-1]
    assert read_state(record.files) == RunState("offline", record.finished_at, mode="offline")


def test_a_run_that_lies_there_whole_is_sent_as_it_is(
    server: Server, make_record: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    server.write(record, record.directory, "offline")
    write_state(record.files, RunState("offline", record.finished_at))
    monkeypatch.setattr(syncing.run, "log_record", lambda *_: pytest.fail("it was written anew"))
    assert sync(record.directory.parents[2], PROJECT, lambda line: None) == 0
    # Deleted there, or wanted in another project.
    server.there.clear()
    assert sync(record.directory.parents[2], PROJECT, lambda line: None) == 0
    assert server.sent == [record.job.id] * 2


def test_a_run_that_the_server_has_is_not_sent_from_an_earlier_records_files(
    server: Server, make_record: Maker
) -> None:
    record = make_record()
    server.write(record, record.directory, "offline")
    write_state(record.files, RunState("offline", "of an earlier record"))
    server.there = {record.job.id: record.finished_at}
    assert sync(record.directory.parents[2], PROJECT, lambda line: None) == 0
    state = read_state(record.files)
    assert state == RunState("sent", record.finished_at, mode="online")
    assert state is not None and not state.is_complete_locally(record)


def test_a_run_that_another_process_sends_is_left_to_that(server: Server, make_record: Maker) -> None:
    record = make_record()
    said: list[str] = []
    with sending(record.files) as held:
        assert held
        assert sync(record.directory.parents[2], PROJECT, said.append) == 1
    assert server.sent == [] and any("another process" in line for line in said)


def test_a_run_of_a_later_record_is_not_overwritten(make_record: Maker) -> None:
    record = make_record()
    assert lacking([record], {record.job.id: "2999-01-01T00:00:00+00:00"}) == {}


def test_without_an_account_or_a_record_nothing_is_asked(make_record: Maker, tmp_path: Path) -> None:
    record = make_record()
    with pytest.raises(BadInput, match="wandb login"):
        sync(record.directory.parents[2], PROJECT, print)
    with pytest.raises(BadInput, match="has no finished job"):
        sync(tmp_path / "empty", PROJECT, print)


def test_the_project_is_that_of_the_words_or_of_wandbs_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert named_project(None, None) == Project("crossmodal-bench", "")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_ENTITY", "them")
    assert named_project(None, None).path == "them/theirs"
    assert named_project("mine", None).path == "them/mine"
    with pytest.raises(BadInput, match="--project mine --entity us"):
        named_project("us/mine", None)
