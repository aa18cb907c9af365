"""Several jobs at a time: who starts when, what a failed one holds back, and benches that share a folder."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from crossmodal_bench.bench.kinds import kind_of
from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.launchers.subprocesses import TAKEN
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import PlannedJob
from crossmodal_bench.bench.progress import StatusLine
from crossmodal_bench.bench.schedule import Schedule
from crossmodal_bench.jobs.directory import JobDirectory, write_json
from crossmodal_bench.jobs.locks import locked
from crossmodal_bench.jobs.record import Job

Start = Callable[..., Any]


class Place:
    """Where jobs end after so many looks at them and leave a record; keeps the order of their starts."""

    allows_dry_runs = False

    def __init__(
        self, slots: int, looks: dict[str, int], statuses: dict[str, list[int]], record: Any
    ) -> None:
        self.slots = [Slot(str(number)) for number in range(slots)]
        self.looks, self.statuses, self.record = looks, statuses, record
        self.started: list[str] = []
        self.together: list[set[str]] = []
        self.slot_of: dict[str, str] = {}
        self.told: list[str] = []
        self.running: set[str] = set()

    def start(self, planned: PlannedJob, slot: Slot) -> Any:
        method = planned.job.method
        self.started.append(method)
        self.slot_of[method] = slot.devices
        self.running.add(method)
        self.together.append(set(self.running))
        return Fake(planned, self)

    def adopts(self, planned: PlannedJob) -> bool:
        return False

    def parting(self) -> str:
        return ""


class Fake:
    def __init__(self, planned: PlannedJob, place: Place) -> None:
        self.planned, self.place = planned, place
        self.left = place.looks.get(planned.job.method, 1)
        self.exit_code: int | None = None

    def wait(self, seconds: float) -> bool:
        method = self.planned.job.method
        if seconds:
            return self.exit_code is not None
        self.left -= 1
        if self.left <= 0 and self.exit_code is None:
            self.exit_code = (self.place.statuses.get(method) or [0]).pop(0)
            self.place.running.discard(method)
            if self.exit_code == 0:
                self.place.record(self.planned)
        return self.exit_code is not None

    def terminate(self) -> None:
        self.place.told.append(f"terminate {self.planned.job.method}")

    def stop(self) -> None:
        self.place.told.append(f"stop {self.planned.job.method}")


@pytest.fixture
def job(runs: Path) -> Callable[..., PlannedJob]:
    def make(method: str, *parents: PlannedJob) -> PlannedJob:
        one = Job(
            id=method * 4,
            method=method,
            dataset="wikipedia",
            protocol="wikipedia-2173-map",
            preset="small",
            seed=0,
            suite=None,
            label="",
            overrides={},
        )
        directory = runs / "wikipedia" / method / one.id
        by_name = {parent.job.method: parent for parent in parents}
        return PlannedJob(one, {}, [], "test", directory, "split", "", {}, "", parents=by_name)

    return make


@pytest.fixture
def schedule(
    make_content: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Place, list[str], list[str]]]:
    """Runs jobs in a ``Place``: it, the methods that failed, and what was said."""
    from crossmodal_bench.bench import schedule as module
    from crossmodal_bench.jobs.fingerprints.sources import fingerprint_of
    from crossmodal_bench.jobs.record import write_record

    monkeypatch.setattr(module, "POLL", 0.01)
    monkeypatch.setattr(module, "LOOK", 0.02)

    def record(planned: PlannedJob) -> None:
        data = {**make_content()["data"], "fingerprint": ""}
        parents = {name: parent_run(parent) for name, parent in planned.parents.items()}
        changes = {"data": data, "source_fingerprint": fingerprint_of({}).digest, "parents": parents}
        write_record(planned.directory, make_content(**vars(planned.job), **changes))

    def parent_run(parent: PlannedJob) -> dict[str, str]:
        from crossmodal_bench.jobs.record import read_record

        return read_record(parent.directory).run

    def run(
        jobs: Sequence[PlannedJob], slots: int, log: Callable[[str], None] | None = None, **words: Any
    ) -> tuple[Place, list[str], list[str]]:
        place = Place(slots, words.get("looks", {}), words.get("statuses", {}), record)
        said: list[str] = []

        def ended(planned: PlannedJob, status: int | None, more: bool) -> bool:
            return status == 0

        seconds = {kind_of(one): words["seconds"][one.job.method] for one in jobs if "seconds" in words}
        one = Schedule(jobs, BenchOptions(), place, seconds, ended, StatusLine(), log or said.append)
        try:
            failed = one.run()
        except KeyboardInterrupt:
            one.stop()
            failed = []
        return place, [planned.job.method for planned in failed], said

    return run


def test_as_many_run_at_once_as_there_is_room_for(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any]
) -> None:
    jobs = [job(name) for name in "abcde"]
    place, failed, _ = schedule(jobs, 2, looks={"a": 6})
    assert place.started == list("abcde") and failed == []
    assert max(len(running) for running in place.together) == 2
    # While the long one keeps its place, all others pass through the other one.
    assert place.slot_of == {"a": "0", "b": "1", "c": "1", "d": "1", "e": "1"}
    alone, _, _ = schedule([job(name) for name in "vwx"], 1)
    assert alone.together == [{"v"}, {"w"}, {"x"}]


def test_children_wait_for_their_parents_and_leave_their_place_to_others(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any]
) -> None:
    first, alone = job("first"), job("alone")
    left, right = job("left", first), job("right", first)
    last = job("last", left, right)
    place, failed, said = schedule([first, left, right, last, alone], 2, looks={"first": 3, "left": 5})
    assert place.started == ["first", "alone", "left", "right", "last"] and failed == []
    assert place.together[-1] == {"last"}
    assert "last on wikipedia seed 0 starts from left, right" in said


def test_the_chain_that_would_end_last_starts_first_and_is_what_is_left(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(StatusLine, "show", lambda line, text: shown.append(text))
    first = job("first")
    jobs = [job("a"), job("b"), first, job("last", first)]
    seconds = {"a": 60.0, "b": 60.0, "first": 300.0, "last": 400.0}
    place, failed, _ = schedule(jobs, 2, seconds=seconds, looks={"first": 4})
    assert place.started == ["first", "a", "b", "last"] and failed == []
    # Known from the estimates alone, it is not shown before a job's progress confirms it.
    assert not any("in total" in text for text in shown)
    progress = {"phase": "testing", "done": 1, "total": 2, "seconds_left": 100.0}
    monkeypatch.setattr(JobDirectory, "read_progress", lambda files: progress)
    for planned in jobs:
        shutil.rmtree(planned.directory)
    schedule(jobs, 2, seconds=seconds, looks={"first": 4})
    # 100 s of the first job, and 400 s of the one that starts from it.
    assert any("8:20 in total" in text for text in shown)


def test_a_failed_job_frees_its_place_and_holds_back_what_starts_from_it(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any]
) -> None:
    first, other = job("first"), job("other")
    child, grandchild = job("child", first), job("grandchild")
    grandchild = job("grandchild", child)
    jobs = [first, child, grandchild, other]
    place, failed, _ = schedule(jobs, 1, statuses={"first": [1]})
    assert place.started == ["first", "other"] and failed == ["first"]


def test_another_benchs_stale_job_is_waited_for_and_not_run_here(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossmodal_bench.bench import schedule as module
    from crossmodal_bench.jobs.state import State

    monkeypatch.setattr(module, "state_of", lambda planned: State("stale", "the data differ"))
    shown: list[str] = []
    monkeypatch.setattr(StatusLine, "show", lambda line, text: shown.append(text))
    place, failed, _ = schedule([job("a")], 1)
    assert place.started == [] and failed == [] and shown == []


def test_a_worker_that_comes_second_is_no_failure(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any]
) -> None:
    place, failed, _ = schedule([job("a")], 1, statuses={"a": [TAKEN, 0]})
    assert place.started == ["a", "a"] and failed == []


def hold(planned: PlannedJob, ready: Any, told: Any, fails: bool) -> None:
    with locked(planned.directory):
        ready.set()
        told.wait(30)
        if fails:
            write_json(planned.files.error, {"kind": "error", "message": "ValueError: there"})


@pytest.mark.parametrize("fails", [False, True])
def test_what_another_bench_runs_is_waited_for_and_taken_over_when_that_one_dies(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any], fails: bool
) -> None:
    taken, child, free = job("taken"), None, job("free")
    child = job("child", taken)
    context = multiprocessing.get_context("fork")
    ready, told = context.Event(), context.Event()
    other = context.Process(target=hold, args=(taken, ready, told, fails))
    other.start()
    assert ready.wait(10)
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if "is being worked on" in line:
            told.set()

    place, failed, _ = schedule([taken, child, free], 2, log=hear)
    other.join()
    assert f"is being worked on by process {other.pid} on {os.uname().nodename} since 2" in said[0]
    if fails:
        assert place.started == ["free"] and failed == ["taken"]
        assert said[1] == "taken on wikipedia seed 0 failed in another bench: ValueError: there"
    else:
        assert sorted(place.started) == ["child", "free", "taken"] and failed == []


def test_all_are_told_to_end_before_one_is_waited_for(
    job: Callable[..., PlannedJob], schedule: Callable[..., Any]
) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    parent = job("parent")
    jobs = [parent, job("b"), job("c"), job("child", parent)]
    place, _, _ = schedule(jobs, 3, log=interrupt, looks={"b": 1000, "c": 1000})
    assert place.told == ["terminate b", "terminate c", "stop b", "stop c"]


@pytest.mark.slow
def test_two_benches_in_one_folder_both_end_well_and_with_the_same_table(
    start: Start, data_root: Path, tmp_path: Path
) -> None:
    words = ("bench", "--dataset", "pascal_sentence", "--data-root", data_root, "--methods", "sm,cca")
    words += ("--wandb", "off", "--jobs", "2")
    both = [start(*words, folder=tmp_path) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0], [one.err.read_text() for one in both]
    texts = [one.out.read_text() for one in both]
    assert all("2 of 2 jobs done" in text for text in texts)
    tables = [text[text.rindex("pascal_sentence ·") : text.index("2 of 2 jobs done")] for text in texts]
    assert tables[0] == tables[1]
