"""Methods that start from other methods' trained weights: a diamond of four, and one that is solved."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from crossmodal_bench.bench import runner, runtime_estimate
from crossmodal_bench.bench.launchers import local
from crossmodal_bench.bench.launchers.subprocesses import guarded
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.bench.runtime_estimate import DryRuns
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.directory import read_json, write_json
from crossmodal_bench.jobs.locks import locked
from crossmodal_bench.jobs.planned import PlannedJob, from_json, to_json
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.jobs.state import State, state_of
from crossmodal_bench.methods import ACMR, CCA, RetrievalMethod
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.layout import notes
from crossmodal_bench.training.trained_model import check_model
from crossmodal_bench.training.worker import run_job

Weights = Mapping[str, Tensor]


class Heir(ACMR):
    """ACMR from the mean of its parents' weights; fails in an epoch, where it is told to."""

    inherited: ClassVar[list[dict[str, Weights]]] = []
    started: ClassVar[list[Weights]] = []
    fails_in: ClassVar[int | None] = None

    def inherit(self, parents: Mapping[str, Weights]) -> None:
        self.inherited.append({name: dict(weights) for name, weights in parents.items()})
        first, *others = parents.values()
        for weights in others:
            first = {name: (first[name] + weights[name]) / 2 for name in first}
        self.load_state_dict(first)

    def on_fit_start(self) -> None:
        self.started.append({name: value.clone() for name, value in self.state_dict().items()})

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch == self.fails_in:
            raise ValueError("told to")


class SolvedHeir(CCA):
    """CCA that only looks at what it is given."""

    def inherit(self, parents: Mapping[str, Weights]) -> None:
        Heir.inherited.append({name: dict(weights) for name, weights in parents.items()})


HEIR, SOLVED = f"{__name__}.Heir", f"{__name__}.SolvedHeir"
METHODS = {
    "first": "base: acmr\n"
    "smoke: {model: {init_args: {projectors: {image_hidden: [16], text_hidden: [16], dim: 8}}}}\n",
    "left": f"base: first\nclass_path: {HEIR}\nparents: [first]\n",
    "right": f"base: first\nclass_path: {HEIR}\nparents: [first]\n",
    "last": "base: left\nparents: [left, right]\n",
    "from_solved": "base: left\nparents: [cca]\n",
    "solved": f"base: cca\nclass_path: {SOLVED}\nparents: [first]\n",
}
DIAMOND = ["first", "left", "right", "last"]


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of methods, with those above and the real ones that they need; nothing was inherited."""
    copy = tmp_path / "experiments"
    shutil.copytree(experiments.experiments_folder(), copy)
    for path in (copy / "methods").iterdir():
        if path.stem not in ("acmr", "cca"):
            path.unlink()
    monkeypatch.setattr(experiments, "experiments_folder", lambda: copy)
    experiments._file.cache_clear()
    for name, content in METHODS.items():
        (copy / "methods" / f"{name}.yaml").write_text(content)
    for name in ("inherited", "started"):
        monkeypatch.setattr(Heir, name, [])
    yield copy / "methods"
    experiments._file.cache_clear()


def options(folder: Path, **words: Any) -> BenchOptions:
    given = {"dataset": "synthetic-20", "methods": "last", "runs": folder / "runs", "wandb": "off"}
    chosen = {**given, "devices": "cpu", "overrides": {"trainer.max_epochs": 1}, **words}
    ours = {"first", "acmr", "cca"}.issuperset(chosen["methods"].split(","))
    # Heir and SolvedHeir are classes of this module.
    return BenchOptions(plugins=() if ours else (__name__,), **chosen)


def planned(folder: Path, **words: Any) -> list[PlannedJob]:
    return make_plan(options(folder, **words), gpu=False)


def shown(plan: list[PlannedJob]) -> list[tuple[str, int]]:
    return [(one.job.method, one.job.seed) for one in plan]


def run(*jobs: PlannedJob) -> list[Record]:
    for one in jobs:
        one.directory.mkdir(parents=True, exist_ok=True)
        run_job(one, "cpu")
    return [read_record(one.directory) for one in jobs]


def change(one: PlannedJob, **fields: Any) -> None:
    path = one.directory / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def ran_again(one: PlannedJob) -> None:
    change(one, finished_at="2030-01-01T00:00:00+00:00")


def trained(one: PlannedJob) -> Weights:
    weights: Weights = torch.load(one.directory / "best.ckpt", weights_only=True)["state_dict"]
    return weights


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Workers that run in this process, for benches without a look ahead; the methods that were started."""
    started: list[str] = []

    class Worker:
        def __init__(self, planned: PlannedJob, devices: str, environment: Any) -> None:
            started.append(planned.job.method)
            planned.directory.mkdir(parents=True, exist_ok=True)
            planned.files.error.unlink(missing_ok=True)
            self.exit_code = guarded(planned, devices)

        def wait(self, seconds: float) -> bool:
            return True

    monkeypatch.setattr(local, "Worker", Worker)
    monkeypatch.setattr(runtime_estimate, "dry_runs", lambda *arguments: DryRuns({}, {}))
    return started


def test_parents_are_planned_before_their_children_and_once(family: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    assert shown(plan) == [(name, 0) for name in DIAMOND]
    by_name = {one.job.method: one for one in plan}
    assert {name: list(one.parents) for name, one in by_name.items()} == {
        "first": [],
        "left": ["first"],
        "right": ["first"],
        "last": ["left", "right"],
    }
    assert by_name["last"].parents["left"].directory == by_name["left"].directory
    assert by_name["right"].parents["first"].job.id == by_name["first"].job.id
    alone = planned(tmp_path, methods="first")
    assert alone[0].job == by_name["first"].job
    # What was asked for goes behind what it starts from, and nothing else moves.
    assert shown(planned(tmp_path, methods="last,cca,first")) == [(name, 0) for name in (*DIAMOND, "cca")]
    assert shown(planned(tmp_path, methods="cca,right,first")) == [("cca", 0), ("first", 0), ("right", 0)]
    every = [one.job.method for one in planned(tmp_path, methods="all")]
    assert sorted(every) == experiments.names("methods")
    assert [name for name in every if name in DIAMOND] == DIAMOND


def test_parents_have_the_childs_seeds(family: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path, methods="left", seeds=2)
    assert shown(plan) == [("first", 0), ("first", 1), ("left", 0), ("left", 1)]
    assert [one.parents["first"].job.seed for one in plan[2:]] == [0, 1]
    # A method that is solved has one seed, as a parent and as a child.
    assert shown(planned(tmp_path, methods="solved", seeds=2)) == [("first", 0), ("solved", 0)]
    plan = planned(tmp_path, methods="from_solved", seeds=2)
    assert shown(plan) == [("cca", 0), ("from_solved", 0), ("from_solved", 1)]
    assert [one.parents["cca"].job.id for one in plan[1:]] == [plan[0].job.id] * 2


SUITE = """
description: for tests
datasets: [synthetic]
evaluate: val
methods: [left]
rows:
  - {method: left, label: narrow, overrides: {model.init_args.projectors.dim: 4}}
  - {method: right, label: plain}
  - {method: first, label: named}
"""


def test_a_suites_overrides_are_the_parents_too(family: Path, tmp_path: Path) -> None:
    (family.parent / "suites" / "kin.yaml").write_text(SUITE)
    plan = planned(tmp_path, methods="kin", overrides={"trainer.max_epochs": 1})
    found = [
        (one.job.method, one.job.label, one.job.overrides.get("model.init_args.projectors.dim"))
        for one in plan
    ]
    assert found == [
        ("first", "narrow", 4),
        ("left", "narrow", 4),
        # Its own row has a label for it.
        ("first", "named", None),
        ("right", "plain", None),
        ("left", "", None),
    ]
    assert {(one.evaluate, one.job.suite) for one in plan} == {("val", "kin")}
    assert plan[1].parents["first"].job.id == plan[0].job.id
    assert plan[3].parents["first"].job.id == plan[4].parents["first"].job.id == plan[2].job.id
    (family.parent / "suites" / "kin.yaml").write_text(SUITE.replace("- {method: first, label: named}", ""))
    experiments._file.cache_clear()
    labels = {one.job.label for one in planned(tmp_path, methods="kin") if one.job.method == "first"}
    assert labels == {"narrow", ""}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "left",
            "base: first\nparents: [frist]\n",
            r"left\.yaml: parent 'frist' is unknown; did you mean 'first'",
        ),
        (
            "left",
            "base: first\nparents: first\n",
            r"left\.yaml: field 'parents' is 'first'; it must be a list",
        ),
        (
            "first",
            "base: acmr\nparents: [last]\n",
            r"'last' would start from itself \(last -> left -> first -> last\)",
        ),
        ("last", "base: left\nparents: [last]\n", r"'last' would start from itself \(last -> last\)"),
        (
            "last",
            "base: first\nparents: [left]\n",
            "ACMR cannot start from their weights; implement inherit",
        ),
    ],
)
def test_parents_that_cannot_be_are_refused(
    family: Path, tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (family / f"{name}.yaml").write_text(content)
    experiments._file.cache_clear()
    with pytest.raises(BadInput, match=sentence) as error:
        planned(tmp_path)
    assert "\n" not in str(error.value)


def test_parents_are_not_those_of_the_base(family: Path) -> None:
    (family / "heir.yaml").write_text("base: left\n")
    assert experiments.parents_of("left") == ["first"]
    assert experiments.parents_of("heir") == []


def test_a_job_with_parents_survives_the_way_to_another_process(family: Path, tmp_path: Path) -> None:
    last = planned(tmp_path)[-1]
    content = json.loads(json.dumps(to_json(last)))
    assert not any("corpus" in parent for parent in (content, *content["parents"].values()))
    assert from_json(content) == replace(last, corpus=None)
    again = from_json(content)
    assert again.parents["left"].parents["first"].directory == last.parents["left"].parents["first"].directory
    assert state_of(again) == State("not started", "waits for left, right")


def test_the_weights_of_the_chosen_checkpoint_arrive(family: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path, overrides={"trainer.max_epochs": 2})
    records = run(*plan)
    first, left, right, _ = plan
    assert [list(names) for names in Heir.inherited] == [["first"], ["first"], ["left", "right"]]
    assert same(Heir.inherited[0]["first"], trained(first))
    assert same(Heir.started[0], trained(first)) and same(Heir.started[1], trained(first))
    assert same(Heir.inherited[2]["right"], trained(right)) and not same(trained(left), trained(first))
    halfway = {name: (value + trained(right)[name]) / 2 for name, value in trained(left).items()}
    assert same(Heir.started[2], halfway)
    assert records[0].parents == {} and records[1].parents == {"first": records[0].run}
    assert records[3].parents == {"left": records[1].run, "right": records[2].run}
    assert records[1].run == {"job": left.job.id, "finished_at": records[1].finished_at}
    assert [state_of(one).name for one in plan] == ["done"] * 4
    for record in records:
        check_model(record)
    (table,) = tables(leaderboard(records))
    said = [line for line in notes(table) if line.startswith("start (")]
    assert len(said) == 2 and any(": from the trained weights of left, right, whose" in line for line in said)


def test_what_is_solved_has_weights_too(family: Path, tmp_path: Path) -> None:
    first, solved = planned(tmp_path, methods="solved")
    run(first, solved)
    assert same(Heir.inherited[0]["first"], trained(first))
    cca, child = planned(tmp_path, methods="from_solved")
    run(cca)
    child.directory.mkdir(parents=True)
    # CCA's are not ACMR's.
    assert guarded(child, "cpu") == 2
    message = read_json(child.files.error)["message"]
    assert message.startswith("the trained weights of cca do not match Heir as configured; use the same")


def test_a_training_that_goes_on_does_not_inherit_again(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, left = planned(tmp_path, methods="left", overrides={"trainer.max_epochs": 2})
    run(first)
    left.directory.mkdir(parents=True)
    monkeypatch.setattr(Heir, "fails_in", 1)
    assert guarded(left, "cpu") == 1
    assert state_of(left) == State("failed", "ValueError: told to")
    monkeypatch.setattr(Heir, "fails_in", None)
    half = torch.load(left.directory / "last.ckpt", weights_only=True)["state_dict"]
    (record,) = run(left)
    assert len(Heir.inherited) == 1 and len(record.history) == 2
    assert same(Heir.started[1], half) and record.parents == {"first": read_record(first.directory).run}

    # One that was interrupted on its way from an older parent starts over.
    (left.directory / "record.json").unlink()
    monkeypatch.setattr(Heir, "fails_in", 1)
    ran_again(first)
    assert guarded(left, "cpu") == 1
    assert len(Heir.inherited) == 2 and same(Heir.started[2], trained(first))


def test_a_record_is_stale_with_its_parents(family: Path, tmp_path: Path) -> None:
    plan = planned(tmp_path)
    first, left, right, last = plan
    assert state_of(first) == State("not started")
    assert state_of(left) == State("not started", "waits for first")
    assert state_of(last) == State("not started", "waits for left, right")
    run(*plan)
    before = (first.directory / "record.json").read_text()
    ran_again(first)
    assert state_of(first).name == "done"
    assert state_of(left) == State("stale", "it did not start from today's first")
    assert state_of(last) == State("stale", "left, which it starts from, is stale")
    (first.directory / "record.json").write_text(before)
    assert state_of(last).name == "done"
    change(first, source_fingerprint="old")
    assert state_of(left) == State("stale", "first, which it starts from, is stale")
    (first.directory / "record.json").unlink()
    assert state_of(left) == State("stale", "first, which it starts from, is not started")
    (first.directory / "record.json").write_text(before)

    # A record from before the method had parents, or more of them than today.
    known = read_record(right.directory).parents
    content = json.loads((right.directory / "record.json").read_text())
    del content["parents"]
    (right.directory / "record.json").write_text(json.dumps(content))
    assert read_record(right.directory).parents == {}
    assert state_of(right) == State("stale", "it did not start from today's first")
    change(right, parents={**known, "left": read_record(left.directory).run})
    assert state_of(right) == State("stale", "it did not start from today's left")
    # Where the data are away, nothing can be said against it.
    assert state_of(replace(right, missing="gone")).name == "done"


def test_what_a_parent_lacks_its_children_lack(family: Path, tmp_path: Path) -> None:
    first, left, right, last = planned(tmp_path)
    poor = replace(left, parents={"first": replace(first, missing="x is missing; put it there")})
    assert state_of(poor) == State("skipped", "needs first, which is skipped")
    poorer = replace(last, parents={"left": poor, "right": right})
    assert state_of(poorer) == State("skipped", "needs left, which is skipped")


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "record.json").unlink(), r"record\.json cannot be read .*run the bench again"),
    (
        lambda folder: (folder / "record.json").write_text("{"),
        r"record\.json is damaged .*delete it and run",
    ),
    (lambda folder: (folder / "best.ckpt").unlink(), r"best\.ckpt is missing; delete the record and run"),
    (
        lambda folder: (folder / "best.ckpt").write_bytes((folder / "best.ckpt").read_bytes()[:500]),
        r"best\.ckpt is damaged .*; delete the record and run that job again",
    ),
    (
        lambda folder: torch.save({"epoch": 1}, folder / "best.ckpt"),
        r"best\.ckpt cannot be read; delete the record and run that job again",
    ),
    (
        lambda folder: write_json(folder / "resume.json", {"sources": "newer", "data": "d"}),
        r"best\.ckpt is not from the run of the record next to it",
    ),
]


def test_a_parent_that_cannot_be_started_from_is_named(family: Path, tmp_path: Path) -> None:
    first, left = planned(tmp_path, methods="left")
    run(first)
    whole = shutil.copytree(first.directory, tmp_path / "whole")
    for damage, sentence in DAMAGES:
        shutil.rmtree(first.directory)
        shutil.copytree(whole, first.directory)
        damage(first.directory)
        with pytest.raises(BadInput, match=f"^left starts from first, and .*{sentence}") as error:
            run(left)
        assert "\n" not in str(error.value) and str(first.directory) in str(error.value)
        assert not Heir.inherited and not (left.directory / "config.yaml").exists()


def test_a_look_ahead_needs_no_weights(family: Path, tmp_path: Path) -> None:
    last = planned(tmp_path)[-1]
    assert runtime_estimate.dry_run(last) > 0
    assert not Heir.inherited


@pytest.mark.slow
def test_a_bench_runs_parents_first_and_once(family: Path, tmp_path: Path, in_place: list[str]) -> None:
    said: list[str] = []
    assert runner.bench(options(tmp_path), log=said.append) == 0
    assert in_place == DIAMOND
    plan_lines = [line.split("seed 0  ")[1] for line in said if "seed 0  " in line]
    assert plan_lines == [
        "not started",
        *["not started: waits for first"] * 2,
        "not started: waits for left, right",
    ]
    starts = [line for line in said if "starts from" in line]
    assert starts[0] == "left on synthetic-20 seed 0 starts from first" and len(starts) == 3
    assert starts[2].endswith("starts from left, right") and "4 of 4 jobs done" in said
    assert runner.bench(options(tmp_path), log=said.append) == 0
    assert in_place == DIAMOND

    # Stale parents run again first, then what starts from them, and only when told.
    first, *others = planned(tmp_path)
    ids = {name: one["job"] for name, one in read_record(others[-1].directory).parents.items()}
    change(first, source_fingerprint="old")
    said.clear()
    assert runner.bench(options(tmp_path), log=said.append) == 0
    assert in_place == DIAMOND and sum("; RERUN=stale runs it again" in line for line in said) == 4
    said.clear()
    assert runner.bench(options(tmp_path, rerun="stale"), log=said.append) == 0
    assert in_place == DIAMOND * 2 and sum(line.endswith("stale: runs again") for line in said) == 4
    assert {name: one["job"] for name, one in read_record(others[-1].directory).parents.items()} == ids
    assert [state_of(one).name for one in (first, *others)] == ["done"] * 4


@pytest.mark.slow
def test_what_needs_a_failed_parent_is_not_started(
    family: Path, tmp_path: Path, in_place: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(tmp_path, methods="last,cca")
    first, left, _, last, _ = make_plan(words, gpu=False)
    in_the_way = left.directory / "ranks.npz"
    in_the_way.mkdir(parents=True)
    said: list[str] = []
    assert runner.bench(words, log=said.append) == 1
    assert in_place == ["first", "left", "right", "cca"]
    assert "skipped: last on synthetic-20 seed 0: needs left, which failed" in said
    assert any(line.startswith("failed: left on synthetic-20 seed 0: IsADirectoryError") for line in said)
    assert "3 of 5 jobs done" in said
    assert not last.directory.exists() and state_of(last) == State("not started", "waits for left")
    # A failed job runs again, and then what waited for it.
    in_the_way.rmdir()
    said.clear()
    assert runner.bench(words, log=said.append) == 0
    assert in_place[4:] == ["left", "last"] and "5 of 5 jobs done" in said

    # Whoever fails anew in spite of an old record holds back what would start from it.
    change(first, source_fingerprint="old")
    monkeypatch.setattr(Heir, "fails_in", 0)
    said.clear()
    assert runner.bench(replace(words, rerun="stale"), log=said.append) == 1
    assert in_place[6:] == ["first", "left", "right"]
    assert "skipped: last on synthetic-20 seed 0: needs left, which failed" in said


def work_until(planned: PlannedJob, ready: Any, told: Any) -> None:
    with locked(planned.directory):
        ready.set()
        told.wait(60)


def test_what_needs_an_unreadable_parent_is_not_started(
    family: Path, tmp_path: Path, in_place: list[str]
) -> None:
    words = options(tmp_path)
    first, *_ = make_plan(words, gpu=False)
    run(first)
    first.files.record.write_text("{")
    said: list[str] = []
    assert runner.bench(words, log=said.append) == 1
    assert in_place == [] and first.files.record.read_text() == "{"
    needs = "needs first, whose record cannot be read"
    assert any(line.endswith(f"seed 0  not started: {needs}") for line in said)
    assert f"skipped: left on synthetic-20 seed 0: {needs}" in said


@pytest.mark.slow
def test_what_needs_a_stale_parent_is_not_started_and_a_busy_one_is_waited_for(
    family: Path, tmp_path: Path, in_place: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(tmp_path)
    first, *_ = make_plan(words, gpu=False)
    run(first)
    change(first, source_fingerprint="old")
    said: list[str] = []
    assert runner.status(words, log=said.append) == 0
    stale = "needs first, which is stale; RERUN=stale runs it again"
    assert [line.split("seed 0  ")[1] for line in said[2:]] == [
        *[f"not started: {stale}"] * 2,
        "not started: needs left, which is skipped",
    ]
    said.clear()
    assert runner.bench(words, log=said.append) == 1
    assert in_place == [] and f"skipped: left on synthetic-20 seed 0: {stale}" in said
    assert "skipped: last on synthetic-20 seed 0: needs left, which is skipped" in said

    # What another process works on is waited for, and taken over where that process ends without a record.
    (first.directory / "record.json").unlink()
    monkeypatch.setattr(runner, "_settle", lambda plan: None)
    context = multiprocessing.get_context("fork")
    ready, told = context.Event(), context.Event()
    other = context.Process(target=work_until, args=(first, ready, told))
    other.start()
    assert ready.wait(10)
    busy: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        if "is being worked on by" in line:
            busy.append(line)
            told.set()

    said.clear()
    assert runner.bench(words, log=hear) == 0
    other.join()
    assert in_place == DIAMOND and "4 of 4 jobs done" in said and len(busy) == 1
    assert busy[0].startswith(f"first on synthetic-20 seed 0 is being worked on by process {other.pid} on ")


def test_a_method_without_parents_has_nothing_to_inherit() -> None:
    with pytest.raises(NotImplementedError, match="ACMR must implement inherit to start from first"):
        RetrievalMethod.inherit(ACMR(), {"first": {}})
