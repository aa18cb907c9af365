"""What classes say of themselves is kept, and asked anew wherever it may have changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fakes
import pytest

from crossmodal_bench.bench import descriptions
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.data.datasets import DatasetReader, Synthetic
from crossmodal_bench.jobs.planned import PlannedJob

Plan = Callable[..., list[PlannedJob]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The method of every configuration whose instances are made, from then on."""
    ask = descriptions._ask
    methods: list[str] = []

    def note(config: descriptions.Config) -> descriptions.Described:
        described = ask(config)
        methods.append(described.description.method)
        return described

    monkeypatch.setattr(descriptions, "_ask", note)
    return methods


@pytest.fixture
def plan(tmp_path: Path, asked: list[str]) -> Plan:
    (tmp_path / "runs").mkdir()

    def plan(**words: str) -> list[PlannedJob]:
        options = {"dataset": "synthetic-20", "methods": "cca", "runs": tmp_path / "runs", **words}
        return make_plan(BenchOptions(**options), gpu=False)

    return plan


def kept(runs: Path) -> Path:
    return runs / "descriptions.json"


@pytest.mark.parametrize("methods", ["cca", pytest.param("timam", marks=pytest.mark.slow)])
def test_a_plan_of_kept_descriptions_is_the_plan_of_asked_ones(
    plan: Plan, asked: list[str], methods: str
) -> None:
    first = plan(methods=methods)
    assert len(asked) == 1
    second = plan(methods=methods)
    assert len(asked) == 1
    assert second == first
    assert second[0].corpus is not None and second[0].corpus.fingerprint == first[0].data_fingerprint


def test_another_configuration_is_asked(plan: Plan, asked: list[str]) -> None:
    plan()
    plan(overrides={"data.eval_batch_size": 7})
    assert len(asked) == 2


def test_other_sources_or_libraries_are_asked(
    plan: Plan, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan()
    monkeypatch.setattr(descriptions, "MADE_WITH", ("torch",))
    plan()
    assert len(asked) == 2
    package = tmp_path / "package"
    package.mkdir()
    source = package / "module.py"
    source.write_text("A = 1")
    monkeypatch.setattr(descriptions, "package_location", lambda name: package)
    plan()
    plan()
    assert len(asked) == 3
    source.write_text("A = 2")
    plan()
    assert len(asked) == 4


def test_what_changes_while_classes_are_asked_is_not_kept(
    plan: Plan, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foundations = iter(["before", "after"])
    monkeypatch.setattr(descriptions, "_foundation", lambda: next(foundations))
    plan()
    assert not kept(tmp_path / "runs").exists()


@pytest.mark.parametrize("content", ["[", '{"rests_on": "WHAT", "descriptions": []}'])
def test_a_damaged_file_is_written_anew(plan: Plan, asked: list[str], tmp_path: Path, content: str) -> None:
    plan()
    file = kept(tmp_path / "runs")
    file.write_text(content.replace("WHAT", json.loads(file.read_text())["rests_on"]))
    plan()
    plan()
    assert len(asked) == 2


def test_a_reader_of_nobody_s_package_is_not_made(plan: Plan, asked: list[str], tmp_path: Path) -> None:
    plan()
    file = kept(tmp_path / "runs")
    file.write_text(
        file.read_text().replace("crossmodal_bench.data.datasets.synthetic.Synthetic", "os.path.Reader")
    )
    plan()
    assert len(asked) == 2


def test_nothing_is_written_where_there_are_no_runs(tmp_path: Path) -> None:
    runs = tmp_path / "elsewhere"
    make_plan(BenchOptions(dataset="synthetic-20", methods="cca", runs=runs), gpu=False)
    assert not runs.exists()


def test_with_plugins_nothing_is_kept(plan: Plan, asked: list[str], tmp_path: Path) -> None:
    config = plan()[0].config
    before = kept(tmp_path / "runs").read_text()
    trust(["fakes"])
    try:
        for _ in range(2):
            trusting = descriptions.Descriptions(tmp_path / "runs")
            trusting.describe(config)
            trusting.keep()
    finally:
        trust([])
    assert len(asked) == 3
    assert kept(tmp_path / "runs").read_text() == before


def test_data_are_looked_at_each_time(plan: Plan, asked: list[str], tmp_path: Path) -> None:
    words = {"dataset": "flickr8k", "data_root": tmp_path / "data", "methods": "infonce"}
    (lacking,) = plan(**words)
    assert "flickr8k" in lacking.missing
    folder = fakes.write_karpathy(tmp_path / "data", "flickr8k")
    (there,) = plan(**words)
    assert not there.missing and there.counts["train"]["images"]
    (folder / "dataset_flickr8k.json").unlink()
    (gone,) = plan(**words)
    assert gone.missing
    # Where no job has its data, nothing is kept.
    assert len(asked) == 2


class Remembering(DatasetReader):
    """One that plain arguments do not make again."""

    def __init__(self, words: object) -> None:
        self.words = words


def test_a_reader_that_plain_values_do_not_make_is_not_kept() -> None:
    def parsed(**arguments: object) -> SimpleNamespace:
        return SimpleNamespace(as_dict=lambda: {"data": {"dataset": {"init_args": arguments}}})

    made = descriptions._reader_of(Synthetic(20, 3), parsed(size=20, seed=3))
    assert made is not None and made.init_args == {"size": 20, "seed": 3}
    assert descriptions._reader_of(Synthetic(20, 4), parsed(size=20, seed=3)) is None
    assert descriptions._reader_of(Synthetic(20), parsed(length=20)) is None
