from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmodal_bench.bench.ensembles import (
    Ensemble,
    ensemble_id,
    plan_ensemble,
    read_members,
    run_ensemble,
)
from crossmodal_bench.bench.plan import BenchOptions, make_plan
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.evaluation import PROTOCOLS, Protocol, Ranks, retrieval_ranks
from crossmodal_bench.evaluation.items import owners
from crossmodal_bench.evaluation.protocols.splits import describe
from crossmodal_bench.jobs.inputs import items_of_test
from crossmodal_bench.jobs.locks import locked
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.reporting.rows.leaderboard import leaderboard
from crossmodal_bench.training.trained_model import encode
from crossmodal_bench.training.worker import run_job

Maker = Callable[..., Record]
SHORT = {"trainer.max_epochs": 2, "data.batch_size": 16}


def finished(runs: Path, most: int = 9, **words: Any) -> list[Path]:
    """The directories of a plan's first jobs, which were run to their end."""
    options = BenchOptions(**{"dataset": "synthetic-20", "runs": runs, "overrides": SHORT, **words})
    plan = make_plan(options, gpu=False)[:most]
    for planned in plan:
        planned.directory.mkdir(parents=True)
        run_job(planned, "cpu")
    return [planned.directory for planned in plan]


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """ACMR with two seeds, and CCA."""
    return finished(tmp_path_factory.mktemp("jobs") / "runs", methods="acmr,cca", seeds=2)


def copied(jobs: list[Path], folder: Path) -> list[Path]:
    """The same jobs where a test may damage them."""
    shutil.copytree(jobs[0].parents[2], folder / "runs")
    return [folder / "runs" / job.relative_to(jobs[0].parents[2]) for job in jobs]


def summed(paths: list[Path], runs: Path, data_root: Path = Path("data")) -> Record:
    return run_ensemble(plan_ensemble(read_members(paths), runs), data_root, runs / "cache")


def test_an_ensemble_is_a_record_of_the_summed_similarities(jobs: list[Path], tmp_path: Path) -> None:
    members = [read_record(job) for job in jobs]
    record = summed(jobs, tmp_path)
    assert record.directory == tmp_path / "synthetic-20" / "acmr+cca" / record.job.id
    assert (record.job.method, record.job.label) == ("acmr+cca", "ensemble of 2 x acmr, cca")
    assert (record.job.seed, record.job.suite, record.job.overrides) == (0, None, SHORT)
    assert [one.id for one in record.ensemble] == [one.job.id for one in members]
    assert record.ensemble[1].directory == f"synthetic-20/acmr/{members[1].job.id}"
    assert record.data == members[0].data and record.history == []
    assert record.encoders == members[0].encoders and len(record.encoders) == 1
    assert record.selection.rule == "each member's own" and record.selection.metric is None
    for name in ("parameters", "evaluation_seconds", "train_seconds"):
        assert record.cost[name] == pytest.approx(sum(one.cost[name] for one in members))
    assert record.cost["peak_memory_mb"] > 10
    assert record.metrics.keys() == members[0].metrics.keys()
    assert record.intervals.keys() < record.metrics.keys() and "CIDEr@5" in record.metrics
    encoded = [encode(one, Path("data"), tmp_path / "cache", {}) for one in members]
    matrix = sum(one.member.score(one.member.images, one.member.texts) for one in encoded)
    expected = retrieval_ranks(matrix, owners(encoded[0].corpus, "test"))  # type: ignore[arg-type]
    found = Ranks.load(record.directory / "ranks.npz")
    np.testing.assert_array_equal(found.i2t, expected.i2t)
    np.testing.assert_array_equal(found.t2i, expected.t2i)
    assert Ranks.load_ids(record.directory / "ranks.npz") == encoded[0].items("test")


@pytest.mark.parametrize("which", [0, 2], ids=["acmr", "cca"])
def test_a_sum_of_one_has_exactly_that_members_results(jobs: list[Path], tmp_path: Path, which: int) -> None:
    member = read_record(jobs[which])
    alone = Ensemble(member.job, (member,), tmp_path / "alone")
    record = run_ensemble(alone, Path("data"), tmp_path / "cache")
    assert (record.metrics, record.intervals, record.curves) == (
        member.metrics,
        member.intervals,
        member.curves,
    )
    with (
        np.load(member.directory / "ranks.npz") as own,
        np.load(record.directory / "ranks.npz") as again,
    ):
        assert own.files == again.files
        for name in own.files:
            np.testing.assert_array_equal(own[name], again[name], err_msg=name)


def test_what_members_are_together(make_record: Maker, tmp_path: Path) -> None:
    def together(*changes: dict[str, Any]) -> Ensemble:
        return plan_ensemble([make_record(**change) for change in changes], tmp_path)

    seeds = together({"seed": 1}, {"seed": 2})
    assert (seeds.job.method, seeds.job.label, seeds.job.seed) == ("acmr", "ensemble of 2 seeds", 1)
    shared = together({"seed": 3, "method": "scan"}, {"seed": 3, "method": "scan_i2t"})
    assert (shared.job.method, shared.job.seed) == ("scan+scan_i2t", 3)
    assert shared.job.label == "ensemble of scan, scan_i2t"
    changed = together({"overrides": {"a.b": 1, "c": 2}}, {"overrides": {"a.b": 1, "c": 3}})
    assert changed.job.overrides == {"a.b": 1}
    assert changed.job.label == "ensemble of acmr (c=2), acmr (c=3)"
    named = plan_ensemble(
        list(shared.members), tmp_path, method="scan", label="t2i + i2t", suite="addr_table2"
    )
    assert (named.job.method, named.job.label) == ("scan", "ensemble of t2i + i2t")
    assert named.job.suite == "addr_table2" and named.directory.parent.name == "scan"
    assert ensemble_id("acmr", ["a", "b"]) == ensemble_id("acmr", ["b", "a"])
    assert len({ensemble_id("acmr", ["a", "b"]), ensemble_id("acmr", ["a", "c"]), seeds.job.id}) == 3


def test_the_command_makes_it_once(
    jobs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = copied(jobs, tmp_path)
    monkeypatch.chdir(tmp_path)
    words = ["ensemble", str(own[0]), str(own[1] / "record.json"), "--wandb", "off"]
    assert main(words) == 0
    first = capsys.readouterr().out
    (path,) = (
        one
        for one in tmp_path.glob("runs/*/acmr/*/record.json")
        if json.loads(one.read_text()).get("ensemble")
    )
    assert f"Record: {path.parent.relative_to(tmp_path)}" in first and "2 seeds)" in first
    before = path.stat().st_mtime_ns
    assert main([words[0], words[2], words[1], *words[3:]]) == 0
    assert "already exists" in capsys.readouterr().out
    assert path.stat().st_mtime_ns == before
    # A member that has run again makes another sum.
    content = json.loads((own[0] / "record.json").read_text())
    (own[0] / "record.json").write_text(json.dumps({**content, "finished_at": "2030-01-01T00:00:00+00:00"}))
    assert main(words) == 0
    assert path.stat().st_mtime_ns != before
    rows = leaderboard([read_record(job) for job in (*own[:2], path.parent)])
    assert sorted((row.name, len(row.seeds), row.ensemble) for row in rows) == [
        ("acmr", 2, False),
        ("acmr (ensemble of 2 seeds)", 1, True),
    ]


@pytest.mark.slow
def test_every_protocol_and_the_split_that_was_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = Synthetic(20).read(tmp_path)
    split = describe(items_of_test(corpus), "exact")
    for name, folds in (("synthetic-a", 1), ("synthetic-b", 2)):
        fitting = Protocol(
            name=name,
            dataset="synthetic",
            images=4,
            captions=(20,),
            positives="caption",
            families=("ranks",),
            primary="rsum",
            folds=folds,
            split=split,
        )
        monkeypatch.setitem(PROTOCOLS, name, fitting)
    record = summed(finished(tmp_path / "runs", methods="acmr", seeds=2), tmp_path / "runs")
    assert record.job.protocol == "synthetic-a" and set(record.also) == {"synthetic-b"}
    assert record.also["synthetic-b"].metrics["rsum"] > record.metrics["rsum"]
    monkeypatch.undo()
    with pytest.raises(
        BadInput, match=r"under synthetic-a@1 \+ synthetic-b@1 but would be measured under synthetic-test@1"
    ):
        summed([tmp_path / "runs" / one.directory for one in record.ensemble], tmp_path / "other")


@pytest.mark.slow
def test_models_tuned_on_validation_are_summed_there(tmp_path: Path, data_root: Path) -> None:
    own = finished(
        tmp_path,
        most=2,
        dataset="pascal_sentence",
        data_root=data_root,
        methods="acmr_figure6",
        overrides={"trainer.max_epochs": 1, "model.init_args.beta": 0.1, "model.init_args.k": 2},
        preset="smoke",
    )
    record = summed(own, tmp_path, data_root)
    assert record.evaluated_on == "val"
    assert record.metrics["mAP"] > 0
    with np.load(record.directory / "ranks.npz") as ranks:
        assert len(ranks["image_ids"]) == record.data.counts["val"]["images"] == 12


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"dataset": "pascal_sentence"}, "has data set pascal_sentence and .* synthetic-20"),
        ({"preset": "small"}, "has preset small and .* smoke"),
        ({"protocol": "synthetic-tiny"}, "has protocol synthetic-tiny@1 and"),
        ({"protocol_version": 2}, "has protocol synthetic-test@2 and .* synthetic-test@1"),
        ({"protocol_version": 0}, "has protocol synthetic-test@0 and .* synthetic-test@1"),
        ({"evaluated_on": "val"}, "has evaluated split val and"),
        ({"fingerprint": "f" * 64}, "has data fingerprint ffff"),
        ({"split_hash": "5" * 16}, "has test split 5555"),
    ],
)
def test_members_must_have_been_measured_alike(
    jobs: list[Path], tmp_path: Path, change: dict[str, str], sentence: str
) -> None:
    own = copied(jobs, tmp_path)
    content = json.loads((own[1] / "record.json").read_text())
    for part in (content["job"], content["data"], content):
        part.update({key: value for key, value in change.items() if key in part})
    (own[1] / "record.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=sentence) as error:
        read_members(own[:2])
    assert "\n" not in str(error.value)


def test_members_must_be_whole(jobs: list[Path], tmp_path: Path) -> None:
    first, second, solved = copied(jobs, tmp_path)
    best, content = second / "best.ckpt", (second / "best.ckpt").read_bytes()
    (solved / "last.ckpt").unlink()
    with pytest.raises(BadInput, match=r"last\.ckpt is missing; .*run that job again"):
        read_members([first, solved])
    best.write_bytes(content[:200])
    with pytest.raises(BadInput, match=r"best\.ckpt is damaged"):
        read_members([first, second])
    best.write_bytes(content)
    with (
        locked(second),
        pytest.raises(BadInput, match="is in use by another process"),
    ):
        read_members([first, second])
    (second / "resume.json").write_text(json.dumps({"sources": "newer", "data": "d"}))
    with pytest.raises(BadInput, match="is not from the run of the record next to it"):
        read_members([first, second])
    (second / "config.yaml").unlink()
    with pytest.raises(BadInput, match=r"config\.yaml is missing"):
        read_members([first, second])


def test_what_is_no_choice_of_members_is_refused(jobs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least two records, but only 1 was given"):
        read_members(jobs[:1])
    with pytest.raises(BadInput, match="is named twice"):
        read_members([jobs[0], jobs[0] / "record.json"])
    with pytest.raises(BadInput, match=r"record\.json cannot be read"):
        read_members([jobs[0], tmp_path])
    record = summed(jobs[:2], tmp_path)
    with pytest.raises(BadInput, match="is itself an ensemble; name its members instead"):
        read_members([jobs[2], record.directory])


def test_data_that_have_changed_are_refused(tmp_path: Path, data_root: Path) -> None:
    own = shutil.copytree(data_root, tmp_path / "data")
    words = {"dataset": "pascal_sentence", "data_root": own, "overrides": {"trainer.max_epochs": 1}}
    paths = finished(tmp_path / "runs", methods="acmr,cca", **words)
    assert summed(paths, tmp_path / "runs", own).metrics["mAP"] > 0
    features = np.load(own / "pascal_sentence" / "test_images.npy")
    np.save(own / "pascal_sentence" / "test_images.npy", features + 1)
    with pytest.raises(BadInput, match=r"the data of .* have changed in .*; run that job again"):
        summed(paths, tmp_path / "runs", own)


def test_a_checkpoint_of_other_networks_is_refused(jobs: list[Path], tmp_path: Path) -> None:
    own = copied(jobs, tmp_path)
    config = (own[1] / "config.yaml").read_text()
    assert "dim: 200" in config
    (own[1] / "config.yaml").write_text(config.replace("dim: 200", "dim: 20"))
    with pytest.raises(BadInput, match="does not match the current code of acmr"):
        summed(own[:2], tmp_path / "runs")
