from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from crossmodal_bench.bench import planned_ensembles as suite_ensembles
from crossmodal_bench.bench import runner
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.bench.planned_ensembles import describe, make_ensembles, planned_ensembles
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.signals import Interrupted
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.jobs.suite_ensembles import ensemble_rows, with_members
from crossmodal_bench.reporting.rows.leaderboard import leaderboard
from crossmodal_bench.training.worker import run_job

SUITE = """
description: for tests
datasets: [synthetic]
overrides: {trainer.max_epochs: 1}
ensembles:
  - method: acmr
    label: seeds
    members: [{method: acmr, seed: 0}, {method: acmr, seed: 1}]
  - method: sm
    label: both
    members:
      - {method: acmr}
      - {method: acmr, label: narrow, overrides: {model.init_args.projectors.dim: 8}}
"""


@pytest.fixture
def suite(copied_experiments: Path) -> Path:
    """A suite ``pair`` beside the real experiments; the test may change it."""
    path = copied_experiments / "suites" / "pair.yaml"
    path.write_text(SUITE)
    return path


def options(folder: Path, **words: Any) -> BenchOptions:
    return BenchOptions(
        **{
            "dataset": "synthetic-20",
            "methods": "pair",
            "seeds": 2,
            "runs": folder / "runs",
            "wandb": "off",
            "devices": "cpu",
            **words,
        }
    )


def run(planned: PlannedJob) -> None:
    planned.directory.mkdir(parents=True, exist_ok=True)
    run_job(planned, "cpu")


def made(folder: Path) -> dict[str, Path]:
    """Directories of the ensembles that there are, by label and seed."""
    found = [read_record(path) for path in folder.glob("runs/*/*/*/record.json")]
    return {f"{one.job.label} {one.job.seed}": one.directory for one in found if one.ensemble}


def test_members_are_jobs_of_the_suite_and_each_once(suite: Path, tmp_path: Path) -> None:
    rows = list(with_members(experiments.suite("pair")))
    common = {"trainer.max_epochs": 1}
    assert [(row.method, row.overrides, row.label) for row in rows] == [
        ("acmr", common, ""),
        ("acmr", {**common, "model.init_args.projectors.dim": 8}, "narrow"),
    ]
    plan = make_plan(options(tmp_path), gpu=False)
    found = planned_ensembles(plan, options(tmp_path))
    assert [(one.name, one.seed, len(one.members)) for one in found] == [
        ("acmr (ensemble of seeds)", 0, 2),
        ("sm (ensemble of both)", 0, 2),
        ("sm (ensemble of both)", 1, 2),
    ]
    assert [one.job.label for one in found[2].members] == ["", "narrow"]
    assert planned_ensembles(plan, options(tmp_path, methods="acmr")) == []
    said: list[str] = []
    one_seed = options(tmp_path, seeds=1, overrides={"data.batch_size": 32})
    describe(make_plan(one_seed, gpu=False), one_seed, said.append)
    assert [line.split("seed 0")[-1].strip() for line in said] == [
        "waiting for its members",
        "acmr (ensemble of seeds): a member's seed is not among these jobs",
    ]


@pytest.mark.slow
def test_each_is_made_when_its_members_are_done_and_once(suite: Path, tmp_path: Path) -> None:
    words = options(tmp_path)
    plan = make_plan(words, gpu=False)
    said: list[str] = []
    for planned in plan[:3]:
        run(planned)
    assert make_ensembles(plan, words, "off", said.append)
    assert set(made(tmp_path)) == {"ensemble of seeds 0", "ensemble of both 0"}
    assert said[-1].endswith("seed 1 waits for acmr (narrow) seed 1, which is not started")
    run(plan[3])
    before = {path: (path / "record.json").stat().st_mtime_ns for path in made(tmp_path).values()}
    assert make_ensembles(plan, words, "off", said.append)
    assert set(made(tmp_path)) == {"ensemble of seeds 0", "ensemble of both 0", "ensemble of both 1"}
    assert {path: (path / "record.json").stat().st_mtime_ns for path in before} == before

    said.clear()
    assert runner.bench(words, log=said.append) == 0
    assert "4 of 4 jobs done" in said and not any("summing their similarities" in line for line in said)
    assert sum(line.endswith("  done") and "ensemble of" in line for line in said) == 3
    report = (tmp_path / "runs" / "report" / "leaderboard.md").read_text()
    assert "sm (ensemble of both)" in report and "acmr (ensemble of seeds)" in report
    rows = leaderboard([read_record(path) for path in made(tmp_path).values()])
    assert sorted((row.method, row.seeds) for row in rows) == [("acmr", (0,)), ("sm", (0, 1))]

    # A member that has run again makes its ensembles anew.
    path = plan[1].directory / "record.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "finished_at": "2030-01-01T00:00:00+00:00"}))
    said.clear()
    assert runner.bench(words, log=said.append) == 0
    assert sum("summing their similarities" in line for line in said) == 2
    assert sum(line.endswith("  not made") for line in said) == 2


@pytest.mark.slow
def test_a_failing_ensemble_is_said_and_costs_nothing_else(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = options(tmp_path)
    plan = make_plan(words, gpu=False)
    for planned in plan:
        run(planned)
    (plan[1].directory / "best.ckpt").unlink()
    said: list[str] = []
    assert runner.bench(words, log=said.append) == 1
    (failed, other) = [line for line in said if " failed: " in line]
    assert (
        "acmr (ensemble of seeds) on synthetic-20 seed 0 failed: " in failed
        and "best.ckpt is missing" in failed
    )
    assert "sm (ensemble of both) on synthetic-20 seed 1 failed" in other
    assert "4 of 4 jobs done" in said and set(made(tmp_path)) == {"ensemble of both 0"}

    def broken(*words: Any) -> None:
        raise RuntimeError("out of memory\nmore")

    shutil.rmtree(made(tmp_path)["ensemble of both 0"])
    monkeypatch.setattr(suite_ensembles, "run_ensemble", broken)
    assert not make_ensembles(plan, words, "off", said.append)
    assert any(line.endswith("failed: RuntimeError: out of memory") for line in said)

    def interrupted(*words: Any) -> None:
        raise Interrupted

    monkeypatch.setattr(suite_ensembles, "run_ensemble", interrupted)
    assert runner.bench(words, log=said.append) == 75


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "label: seeds",
            "labels: seeds",
            r"pair\.yaml: field 'ensembles\[0\]\.labels' \(method 'acmr'\) is unknown; did you mean 'label'",
        ),
        (
            "    label: both\n",
            "",
            r"pair\.yaml: field 'ensembles\[1\]\.label' \(method 'sm'\) is missing; add it",
        ),
        ("seed: 1}", "sed: 1}", r"ensembles\[0\]\.members\[1\]\.sed' .* is unknown; did you mean 'seed'"),
        (", {method: acmr, seed: 1}]", "]", r"ensembles\[0\]\.members' .* lists 1; it must list at least 2"),
        ("[{method: acmr, seed: 0},", "[acmr,", r"members\[0\]' .* is 'acmr'; it must be keys and values"),
    ],
)
def test_a_faulty_ensemble_is_refused_with_its_place(suite: Path, old: str, new: str, sentence: str) -> None:
    assert old in SUITE
    suite.write_text(SUITE.replace(old, new, 1))
    experiments._file.cache_clear()
    with pytest.raises(BadInput, match=sentence):
        ensemble_rows(experiments.suite("pair"))


@pytest.mark.parametrize("name", ["addr_table2", "addr_table3"])
def test_the_papers_ensembles_are_of_two_for_each_host_with_and_without_addr(name: str) -> None:
    rows = ensemble_rows(experiments.suite(name))
    assert [row.method for row in rows] == ["scan", "bfan", "vsrn", "addr_scan", "addr_bfan", "addr_vsrn"]
    assert all(len(row.members) == 2 for row in rows)
    host = experiments.resolve("scan_i2t", experiments.suite(name).datasets[0], {}, "paper", {}, Path())
    (i2t,) = [one.overrides for one in rows[3].members if one.overrides]
    own = host["model"]["init_args"]["host"]["init_args"]
    for key, value in i2t.items():
        assert own[key.rpartition(".")[2]] == value
