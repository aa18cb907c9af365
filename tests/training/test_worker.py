from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dual_encoders
import fakes
import numpy as np
import pytest
import torch

from crossmodal_bench.bench import runtime_estimate as probing
from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.bench.progress import StatusLine
from crossmodal_bench.bench.runtime_estimate import dry_run
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.encoders import Encoders, ImageFacts, TextFacts
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.reporting.figures.qualitative import save_panels
from crossmodal_bench.training.worker import run_job, trainer_devices

METHODS = experiments.names("methods")
QUICK = ("acmr", "cca", "gxn_i2t_xe")
"""A vector method, one that is solved, and one with panels and a parent; `make smoke` runs all of them."""
TINY_BERT = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 64,
}


def job(runs: Path, **words: Any) -> PlannedJob:
    options = {"dataset": "synthetic-20", "runs": runs, "overrides": {"trainer.max_epochs": 1}, **words}
    if options.get("methods") == "clip":
        options.setdefault("network", dual_encoders.tiny())
    planned = make_plan(BenchOptions(**options), gpu=False)[-1]
    planned.directory.mkdir(parents=True, exist_ok=True)
    return planned


def run_with_parents(planned: PlannedJob) -> None:
    for parent in planned.parents.values():
        if not (parent.directory / "record.json").is_file():
            run_with_parents(parent)
    planned.directory.mkdir(parents=True, exist_ok=True)
    run_job(planned, "cpu", illustrate=save_panels)


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS],
)
def test_every_method_runs_to_a_whole_record(method: str, tmp_path: Path) -> None:
    planned = job(tmp_path, methods=method)
    run_with_parents(planned)
    record = read_record(planned.directory)
    assert record.job == planned.job and record.evaluated_on == "test"
    assert len(record.encoders) == 1
    assert record.encoders[0].image is not None and record.encoders[0].text is not None, (
        "nobody could compare"
    )
    assert record.data.counts == planned.counts and record.data.split_hash == planned.split_hash
    assert record.data.fingerprint == planned.data_fingerprint
    assert record.protocol_label == planned.protocols[0].label == "synthetic-test@1"
    quality = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "CIDEr")
    unbounded = {f"{side}/{rank}" for side in ("i2t", "t2i") for rank in ("MedR", "MeanR")}
    unbounded |= {f"{name}{at}" for name in quality for at in ("", "@2", "@3", "@4", "@5")}
    weights = torch.load(planned.files.last_checkpoint, weights_only=True)["state_dict"]
    writes = any(name.startswith("captions.") for name in weights)
    draws = any(name.startswith("pictures.") for name in weights)
    if writes:
        unbounded |= {f"written/{name}" for name in quality}
        captions = json.loads((planned.directory / "captions.json").read_text())
        assert list(captions) == [planned.corpus.image_ids[i] for i in planned.corpus.image_rows("test")]
    assert set(record.metrics) - set(record.intervals) == unbounded
    shown = {path.name for path in planned.directory.glob("*.png")}
    kind = "panel" if writes or draws else "retrieved"
    panels = {f"{kind}_captions.png", f"{kind}_pictures.png"}
    assert shown == panels | ({"panel_words.png"} if "words.weight" in weights else set())
    assert {"rsum", "mAP", "i2t/R@1"} <= set(record.metrics)
    assert all(low <= record.metrics[name] <= high for name, (low, high) in record.intervals.items())
    assert len(record.history) == 1
    assert record.cost["world_size"] == 1 and record.cost["peak_memory_mb"] > 10
    with np.load(planned.directory / "ranks.npz") as ranks:
        assert set(ranks["image_ids"]) == {
            planned.corpus.image_ids[i] for i in planned.corpus.image_rows("test")
        }
    assert (planned.directory / "config.yaml").is_file() and (planned.directory / "last.ckpt").is_file()
    assert {path.suffix for path in planned.directory.iterdir()}.isdisjoint({".tmp", ".partial"})


def distinct_jobs(root: Path, captions: Path, runs: Path) -> dict[str, PlannedJob]:
    """One job of each kind that the suites ask for, on fakes of Pascal Sentence, of CUB and of Flickr8K."""
    found = {}
    for suite in experiments.names("suites"):
        rows = experiments.suite(suite)
        dataset = "pascal_sentence" if suite.startswith("acmr") else "flickr8k"
        if "data.dataset.init_args.train_on" in rows.overrides:
            dataset = "cub"
        overrides = {"trainer.max_epochs": 1, "data.images.size": 16}
        if suite.startswith("addr"):
            host = "model.init_args.host.init_args"
            overrides |= {f"{host}.dim": 16, f"{host}.embedding": 16}
        options = BenchOptions(
            dataset=dataset,
            data_root=captions,
            methods=suite,
            preset="small" if dataset == "cub" else "auto",
            seeds=1,
            runs=runs,
            network="mobilenet_v2",
            weights="none",
            overrides=overrides,
        )
        if dataset == "pascal_sentence":
            options = replace(options, data_root=root, network=None, weights=None)
        jobs = make_plan(options, gpu=False)
        assert jobs, f"{suite} has no job on another data set than its own"
        for planned in jobs:
            found[f"{planned.job.method} {rows.evaluate} {sorted(planned.job.overrides)}"] = planned
    return found


@pytest.mark.slow
def test_every_suite_runs_on_fake_data(data_root: Path, tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path / "data")
    fakes.write_cub(tmp_path / "data")
    jobs = distinct_jobs(data_root, tmp_path / "data", tmp_path)
    assert len(jobs) >= 9
    for planned in jobs.values():
        run_with_parents(planned)
        record = read_record(planned.directory)
        assert record.evaluated_on == planned.evaluate
        assert record.metrics[planned.protocols[0].primary] > 0
        with np.load(planned.directory / "ranks.npz") as ranks:
            shown = set(ranks["image_ids"])
        rows = planned.corpus.image_rows(planned.evaluate)
        assert shown == {planned.corpus.image_ids[row] for row in rows}
        if record.job.dataset == "flickr8k":
            assert record.selection.rule == "best epoch by val/rsum"
        elif planned.evaluate == "val":
            # Test must stay unseen, and no epoch be chosen on what is reported.
            rules = {"last epoch: validation is what is reported", "solved in closed form"}
            assert record.selection.rule in rules
            assert record.data.counts["val"]["images"] == 12
        elif record.selection.epoch is not None:
            assert record.selection.rule == "last epoch: no validation split"
            assert record.selection.epoch == 0


def test_a_label_protocol_has_a_map_of_its_space(tmp_path: Path, data_root: Path) -> None:
    planned = job(tmp_path, methods="cca", dataset="pascal_sentence", data_root=data_root)
    run_job(planned, "cpu")
    with np.load(planned.directory / "projection.npz") as projection:
        assert projection["image"].shape == projection["text"].shape == (20, 2)
        assert projection["image_labels"].tolist() == projection["text_labels"].tolist()
    second = replace(planned, job=planned.job.model_copy(update={"seed": 1}), directory=tmp_path / "second")
    second.directory.mkdir()
    run_job(second, "cpu")
    assert not (second.directory / "projection.npz").exists()


def test_queries_without_a_label_and_the_widths_of_given_features_are_in_the_record(tmp_path: Path) -> None:
    folder = tmp_path / "nuswide10k"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("test", 30)):
        labels = np.eye(4, dtype=np.uint8)[np.arange(count) % 4]
        labels[: count // 2, :2] = 1
        labels[-6:] = 0 if part == "test" else 1
        np.save(folder / f"{part}_labels.npy", labels)
        for what, width in (("images", 12), ("texts", 8)):
            np.save(folder / f"{part}_{what}.npy", rng.normal(size=(count, width)).astype(np.float32))
    planned = job(tmp_path / "runs", methods="cca", dataset="nuswide10k", data_root=tmp_path)
    run_job(planned, "cpu")
    record = read_record(planned.directory)
    assert record.dropped == {"i2t": 6, "t2i": 6}
    image, text = ImageFacts(network=None, dim=12), TextFacts(encoder=None, dim=8)
    assert record.encoders == (Encoders(image=image, text=text),)


def test_a_network_inside_the_model_and_what_is_trained_of_it_are_in_the_record(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path / "data")
    sides = {
        "model.init_args.image_encoder": {
            "class_path": "crossmodal_bench.networks.ConvNetEncoder",
            "init_args": {"freeze": "always"},
        },
        "model.init_args.text_encoder": {
            "class_path": "crossmodal_bench.networks.LanguageModelEncoder",
            "init_args": {"config": TINY_BERT, "hidden": 5, "freeze": "never"},
        },
        "data.images.size": 32,
        "trainer.max_epochs": 1,
    }
    planned = job(
        tmp_path / "runs",
        methods="timam",
        dataset="flickr8k",
        data_root=tmp_path / "data",
        network="resnet18",
        weights="none",
        overrides=sides,
    )
    run_job(planned, "cpu")
    (encoders,) = read_record(planned.directory).encoders
    assert encoders.image == ImageFacts(network="resnet18", weights="none", dim=512, fine_tuned=False)
    assert encoders.text == TextFacts(encoder="bert", weights="none", fine_tuned=True)


def test_a_probe_trains_six_steps_whatever_the_job_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crossmodal_bench.methods import ACMR

    steps = []
    original = ACMR.training_step
    monkeypatch.setattr(ACMR, "training_step", lambda self, *words: steps.append(1) or original(self, *words))
    long = job(tmp_path, methods="acmr", overrides={"trainer.max_epochs": 1000, "data.batch_size": 4})
    seconds = dry_run(long)
    assert len(steps) == 6
    short = job(tmp_path, methods="acmr", overrides={"trainer.max_epochs": 10, "data.batch_size": 4})
    assert seconds > 5 * dry_run(short) > 0
    assert not list(long.directory.iterdir())


def test_a_probe_finds_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"lost\.pth"):
        dry_run(job(tmp_path, methods="cca", network="vgg19", weights="lost.pth"))


def test_a_probe_that_nobody_waits_for_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(planned: PlannedJob, tell: Any) -> float:
        tell("extracting features", os.getpid(), 10)
        time.sleep(60)
        return 1.0

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "extracting features":
            children.append(done)
            raise KeyboardInterrupt

    children: list[int] = []
    monkeypatch.setattr(probing, "dry_run", slow)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        one = job(tmp_path, methods="cca")
        probing.dry_runs({probing.kind_of(one): one}, [Slot("cpu")], interrupt)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)


def test_as_many_probes_run_at_a_time_as_jobs_will(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meet(planned: PlannedJob, tell: Any) -> float:
        (tmp_path / planned.job.method).touch()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        if planned.job.method == "sm":
            raise ValueError("the job will say it")
        return float(torch.get_num_threads())

    monkeypatch.setattr(probing, "dry_run", meet)
    jobs = [job(tmp_path / "runs", methods=method) for method in ("cca", "sm")]
    shutil.rmtree(tmp_path / "runs")
    slots = [Slot("cpu", {"OMP_NUM_THREADS": "3"})] * 2
    found = probing.dry_runs({probing.kind_of(one): one for one in jobs}, slots, lambda *state: None)
    assert [found.seconds[probing.kind_of(one)] for one in jobs] == [3.0, 0.0] and found.refused == {}
    assert probing.dry_runs({probing.kind_of(one): one for one in jobs}, [Slot("2")], print) == ({}, {})


def test_a_probe_of_one_kind_that_is_refused_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(planned: PlannedJob, tell: Any) -> float:
        if planned.job.method in refused:
            raise BadInput(f"{refused[planned.job.method]} cannot be used")
        return 1.0

    monkeypatch.setattr(probing, "dry_run", refuse)
    jobs = {method: job(tmp_path / "runs", methods=method) for method in ("cca", "sm", "acmr")}
    kinds = {method: probing.kind_of(planned) for method, planned in jobs.items()}
    said: list[str] = []

    def look() -> probing.Outlook:
        return probing.estimates(list(jobs.values()), [Slot("cpu")], StatusLine(), said.append)

    refused = {"sm": "this caption"}
    assert look() == (
        {kinds["cca"]: 1.0, kinds["sm"]: 0.0, kinds["acmr"]: 1.0},
        {jobs["sm"].job.id: "this caption cannot be used"},
    )
    assert said == ["2 to run, about 0:02 from timed steps"]
    refused = {"cca": "this picture", "sm": "this caption", "acmr": "this caption"}
    assert look().refused.keys() == {planned.job.id for planned in jobs.values()} and len(said) == 1
    refused = dict.fromkeys(jobs, "this picture")
    with pytest.raises(BadInput, match="this picture cannot be used"):
        look()


def test_a_row_that_overrides_something_else_is_not_refused_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(planned: PlannedJob, tell: Any) -> float:
        raise BadInput("this grid cannot be taken")

    monkeypatch.setattr(probing, "dry_run", refuse)
    first = job(tmp_path / "runs", methods="cca")
    other = job(tmp_path / "runs", methods="cca", overrides={"trainer.max_epochs": 2})
    assert probing.kind_of(first) == probing.kind_of(other)
    outlook = probing.estimates([first, other], [Slot("cpu")], StatusLine(), lambda line: None)
    assert outlook.refused == {first.job.id: "this grid cannot be taken"}


def test_devices_become_trainer_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer_devices("auto") == {"accelerator": "auto", "devices": 1}
    assert trainer_devices("cpu") == {"accelerator": "cpu", "devices": 1}
    assert trainer_devices("1") == {"accelerator": "auto", "devices": 1}
    assert trainer_devices("2") == {"accelerator": "auto", "devices": 2, "strategy": "ddp"}
    unused = "ddp_find_unused_parameters_true"
    assert trainer_devices("2", unused)["strategy"] == unused
    assert "precision" not in trainer_devices("1", unused, "bf16-mixed")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    on_gpus = {"accelerator": "gpu", "devices": -1, "strategy": "ddp", "sync_batchnorm": True}
    assert trainer_devices("auto") == on_gpus
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trainer_devices("1", unused, "bf16-mixed")["precision"] == "bf16-mixed"
    assert "precision" not in trainer_devices("cpu", unused, "bf16-mixed")
    assert "precision" not in trainer_devices("1", unused, "32-true")


def test_batch_statistics_are_shared_on_several_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "sync_batchnorm" not in trainer_devices("2"), "CPU processes have no such batch norm"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trainer_devices("2")["sync_batchnorm"] is True
    assert "sync_batchnorm" not in trainer_devices("1") and "sync_batchnorm" not in trainer_devices("cpu")
