from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import fakes
import pytest

from crossmodal_bench.bench import plan
from crossmodal_bench.bench.option_checks import method_names
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.schema import SuiteFile, SuiteRow
from crossmodal_bench.methods import CCA

METHODS = experiments.names("methods")
DATASETS = experiments.names("datasets")
SUITES = experiments.names("suites")


def planned(gpu: bool = False, **words: Any) -> list[PlannedJob]:
    return make_plan(BenchOptions(**{"dataset": "synthetic-20", "methods": "acmr", **words}), gpu)


def only(**words: Any) -> PlannedJob:
    (job,) = planned(**words)
    return job


@pytest.fixture(scope="module")
def base() -> PlannedJob:
    return only(seeds=1)


def test_a_job_is_complete(base: PlannedJob) -> None:
    assert base.directory == Path("runs/synthetic-20/acmr") / base.job.id
    assert len(base.job.id) == 16 and int(base.job.id, 16)
    assert base.job.protocol == base.protocols[0].name == "synthetic-test"
    assert base.config["seed_everything"] == base.config["data"]["seed"] == 0
    assert base.counts["test"] == {"images": 4, "captions": 20}
    assert base.corpus is not None and base.corpus.fingerprint == base.data_fingerprint


@pytest.mark.parametrize(
    "words",
    [
        {"methods": "acmr_imd"},
        {"dataset": "synthetic-21"},
        {"preset": "small"},
        {"overrides": {"trainer.max_epochs": 3}},
        {"network": "vgg19"},
        {"network": "vgg19", "weights": "none"},
        {"on_bad_image": "skip"},
    ],
)
def test_the_id_changes_with_what_the_job_is(base: PlannedJob, words: dict[str, Any]) -> None:
    assert only(seeds=1, **words).job.id != base.job.id


def test_weights_make_another_job_of_a_network(base: PlannedJob) -> None:
    first, second = (only(seeds=1, network="vgg19", weights=weights) for weights in (None, "none"))
    assert first.job.id != second.job.id


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"weights": "/nope.pth"}, "WEIGHTS is '/nope.pth' and has no effect"),
        ({"methods": "scan", "network": "vgg19"}, "NETWORK is 'vgg19' and has no effect"),
        ({"plugins": ("pytest",)}, "PLUGINS 'pytest' has no effect"),
    ],
)
def test_a_word_without_effect_is_refused(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        planned(**words)


def test_weights_of_an_image_network_inside_a_method_have_an_effect() -> None:
    """TIMAM trains on pixels as in its paper, by a network whose weights are the data module's."""
    (job, *_) = planned(methods="acmr,timam", seeds=1, preset="paper", weights="none")
    assert job.config["data"]["images"]["weights"] == "none"


def test_the_id_does_not_change_with_where_and_how_it_runs(base: PlannedJob, tmp_path: Path) -> None:
    moved = only(seeds=1, data_root=tmp_path, runs=tmp_path / "r", devices="cpu", wandb="off", rerun="stale")
    assert moved.job.id == base.job.id
    assert moved.directory == tmp_path / "r" / "synthetic-20" / "acmr" / base.job.id
    assert moved.config["data"]["cache"] == str(tmp_path / "r" / "cache")


def test_seeds_are_jobs_and_deterministic_methods_run_once() -> None:
    jobs = planned(methods="acmr,cca", seeds=3, overrides={"trainer.max_epochs": 7})
    seeds = [(one.job.method, one.job.seed) for one in jobs]
    assert seeds == [("acmr", 0), ("acmr", 1), ("acmr", 2), ("cca", 0)]
    assert len({one.job.id for one in jobs}) == 4
    assert jobs[1].config["seed_everything"] == jobs[1].config["data"]["seed"] == 1
    assert [one.config["trainer"]["max_epochs"] for one in jobs] == [7, 7, 7, 1]


def test_method_words() -> None:
    assert method_names("all") == METHODS
    assert method_names("default") == experiments.default_methods()
    assert method_names(" acmr , cca,acmr") == ["acmr", "cca"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"seeds": 0}, "SEEDS is 0"),
        ({"methods": ""}, "METHODS is empty"),
        ({"methods": "cca,acmr_table22"}, "did you mean 'acmr_table2'"),
        ({"methods": "cca,all"}, "'all' cannot be combined"),
        ({"methods": "acmr_table2,cca"}, "'acmr_table2' cannot be combined"),
        ({"dataset": "flickr8"}, "did you mean 'flickr8k'"),
        ({"dataset": "synthetic-7"}, "number of training images from 20"),
        ({"preset": "smal"}, "did you mean 'small'"),
        ({"overrides": {"seed_everything": 3}}, "set SEEDS instead"),
        ({"overrides": {"data.cache": "x"}}, "set RUNS instead"),
        ({"overrides": {"trainer": 3}}, r"trainer\.KEY"),
        ({"overrides": {"trainer.max_epochs": 0}}, r"max_epochs is 0; give a whole number from 1"),
        ({"overrides": {"trainer.max_epochs": -1}}, "max_epochs is -1"),
        ({"overrides": {"trainer.max_epoch": 1}}, "max_epochs"),
        ({"overrides": {"model.init_args.alpha": "much"}}, "alpha"),
        ({"overrides": {"data.batch_size": 1}}, "at least 2"),
        (
            {"methods": "acmr_figure6", "dataset": "pascal_sentence", "overrides": {"data.validation": 0}},
            "val",
        ),
    ],
)
def test_bad_words_are_one_sentence(
    words: dict[str, Any], sentence: str, data_root: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    with pytest.raises(BadInput, match=sentence) as error:
        planned(data_root=data_root, runs=runs, **words)
    assert "\n" not in str(error.value)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("word", "dataset", "gpu", "suite", "preset"),
    [
        ("auto", "synthetic-tiny", True, {}, "smoke"),
        ("auto", "wikipedia", True, {}, "paper"),
        ("auto", "wikipedia", False, {}, "small"),
        ("auto", "wikipedia", False, {"presets": {"wikipedia": "paper"}}, "paper"),
        ("auto", "wikipedia", False, {"presets": {"wikipedia": "tuned"}, "preset": "paper"}, "tuned"),
        ("auto", "synthetic-tiny", False, {"presets": {"wikipedia": "tuned"}, "preset": "paper"}, "paper"),
        ("smoke", "wikipedia", False, {"presets": {"wikipedia": "paper"}, "preset": "tuned"}, "smoke"),
    ],
)
def test_the_auto_preset(word: str, dataset: str, gpu: bool, suite: dict[str, Any], preset: str) -> None:
    assert plan.preset_for(word, dataset, gpu=gpu, suite=SuiteFile(**suite)) == preset


def test_a_suites_validation_share_is_for_data_sets_that_have_none(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = SuiteFile(
        methods=("acmr",), evaluate="val", preset="smoke", seeds=1, overrides={"data.validation": 0.2}
    )
    monkeypatch.setattr(experiments, "suite", lambda name: suite)
    without = only(methods="acmr_grid", dataset="pascal_sentence", data_root=data_root)
    assert without.job.overrides == {"data.validation": 0.2} and without.counts["val"]["images"] == 12
    has_one = only(methods="acmr_grid", dataset="synthetic-20")
    assert has_one.job.overrides == {} and has_one.evaluate == "val" and has_one.counts["val"]["images"]
    # What the user says is not taken back in silence.
    with pytest.raises(BadInput, match=r"already has a validation split; set data\.validation to 0"):
        only(methods="acmr_grid", dataset="synthetic-20", overrides={"data.validation": 0.3})


def test_a_suite_runs_the_protocols_that_it_names_and_else_all(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = SuiteFile(methods=("acmr",), preset="smoke", protocols=("wikipedia-2173-map",))
    monkeypatch.setattr(experiments, "suite", lambda name: suite)
    other = {"data": {"validation": 0.2}}
    words = {"dataset": "pascal_sentence", "methods": "acmr_grid", "data_root": data_root, "seeds": 1}
    for names, run in ((("wikipedia-2173-map", "b"), ["wikipedia-2173-map"]), (("a", "b"), ["a", "b"])):
        variants = dict(zip(names, ({}, other), strict=True))
        monkeypatch.setattr(experiments, "protocols_of", lambda settings, variants=variants: variants)
        assert [one.job.protocol for one in planned(**words)] == [f"{name}-test" for name in run]


def test_missing_data_are_skipped_jobs_under_the_ids_they_will_have(tmp_path: Path) -> None:
    jobs = planned(dataset="wikipedia", methods="cca", data_root=tmp_path)
    assert [one.job.protocol for one in jobs] == ["wikipedia-2173-map", "wikipedia-1300-map"]
    assert all("raw_features.mat" in one.missing for one in jobs)
    (flickr,) = planned(dataset="flickr8k", methods="cca", data_root=tmp_path)
    assert flickr.job.protocol == "flickr8k-1k" and flickr.missing


def test_each_seed_takes_a_draw_of_its_own_where_the_data_set_says_so(tmp_path: Path) -> None:
    fakes.write_wikipedia(tmp_path, 1000, 330, arrays=fakes.wikipedia_arrays(1000, 330, 2, 2))
    words = {"dataset": "wikipedia-draws", "data_root": tmp_path, "preset": "small"}
    jobs = planned(**words, methods="cca,acmr", seeds=3)
    assert [(one.job.method, one.job.seed) for one in jobs] == [
        (method, seed) for method in ("cca", "acmr") for seed in range(3)
    ], "the seed decides the split of a method that has none, too"
    for one in jobs:
        assert one.config["data"]["dataset"]["init_args"]["draw_seed"] == one.job.seed
        assert one.corpus is not None and one.corpus.fingerprint == one.data_fingerprint
    hashes = [one.split_hash for one in jobs]
    assert len(set(hashes)) == 3 and hashes[:3] == hashes[3:]
    assert len({one.job.id for one in jobs}) == 6
    assert [one.split_hash for one in planned(**words, methods="cca", seeds=3)] == hashes[:3]
    # What acmr has on wikipedia, it has here.
    assert (
        jobs[3].config["model"]
        == planned(**{**words, "dataset": "wikipedia"}, methods="acmr")[0].config["model"]
    )
    key = "data.dataset.init_args.draw_seed"
    with pytest.raises(BadInput, match=rf"--set {key} has no effect because each seed uses its own draw"):
        planned(**words, methods="cca", overrides={key: 4})


def test_there_are_as_many_seeds_as_known_draws(tmp_path: Path) -> None:
    words = {"dataset": "wikipedia-draws", "data_root": tmp_path, "methods": "cca"}
    assert len(planned(**words, seeds=10)) == 10
    with pytest.raises(BadInput, match=r"SEEDS is 11, but wikipedia-1300-draws-map has only 10 draws"):
        planned(**words, seeds=11)


def test_an_own_folder_is_a_test_of_its_own(tmp_path: Path) -> None:
    images = [
        {"filename": f"{i}.png", "split": split, "sentences": [{"raw": f"a {word} dog {i}"}]}
        for i, (split, word) in enumerate([("train", "red"), ("train", "blue"), ("test", "red")])
    ]
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    for entry in images:
        (folder / "images" / str(entry["filename"])).write_bytes(b"")
    (folder / "dataset_mine.json").write_text(json.dumps({"images": images}))
    (job,) = planned(dataset="mine", methods="cca", data_root=tmp_path)
    assert (job.job.protocol, job.job.preset, job.missing) == ("mine-test", "small", "")
    assert job.counts["train"] == {"images": 2, "captions": 2}


def test_variants_on_other_splits_than_theirs_stay_apart(
    data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = {"pascal-a-map": {"data": {"validation": 0.0}}, "pascal-b-map": {"data": {"validation": 0.2}}}
    monkeypatch.setattr(experiments, "protocols_of", lambda settings: variants)
    jobs = planned(dataset="pascal_sentence", methods="cca", data_root=data_root)
    assert [one.job.protocol for one in jobs] == ["pascal-a-map-test", "pascal-b-map-test"]
    assert len({one.job.id for one in jobs}) == 2


def test_a_corpus_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from crossmodal_bench.data.datasets import Synthetic

    reads = []
    original = Synthetic.read
    monkeypatch.setattr(Synthetic, "read", lambda self, root: reads.append(1) or original(self, root))
    jobs = planned(methods="cca,sm,acmr", seeds=2)
    assert len(jobs) == 4 and len(reads) == 1
    assert all(one.corpus is jobs[0].corpus for one in jobs)


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_lists_its_rows(name: str) -> None:
    options = BenchOptions(methods=name)
    rows = list(plan._rows(options, gpu=False))
    content = experiments.suite(name)
    assert {row.dataset for row in rows} == set(content.datasets)
    assert all(row.suite == name and row.evaluate == content.evaluate for row in rows)
    keys = [(row.dataset, row.method, json.dumps(row.overrides, sort_keys=True)) for row in rows]
    assert len(set(keys)) == len(keys)
    narrowed = dataclasses.replace(options, dataset="synthetic-20", seeds=5)
    assert {(row.dataset, row.seeds) for row in plan._rows(narrowed, gpu=False)} == {("synthetic-20", 5)}


def test_a_sweep_varies_one_key_at_a_time() -> None:
    rows = list(experiments.suite_rows(experiments.suite("acmr_figure6")))
    assert len(rows) == 18
    common = experiments.suite("acmr_figure6").overrides
    assert all(len(row.overrides) == len(common) + 1 for row in rows)
    assert rows[1] == SuiteRow(
        method="acmr", overrides={**common, "model.init_args.alpha": 0.01}, label="alpha = 0.01"
    )
    assert experiments.overrides_of("acmr_figure6", "acmr", "alpha = 0.01") == rows[1].overrides
    assert (
        experiments.overrides_of("acmr_figure6", "acmr", "alpha = 7")
        == experiments.overrides_of("gone", "acmr", "x")
        == {}
    )
    assert [row.overrides["model.init_args.k"] for row in rows[12:]] == [1, 2, 3, 4, 5, 6]


def test_a_method_that_the_data_has_nothing_for_is_skipped_with_the_reason(tmp_path: Path) -> None:
    fakes.write_feature_arrays(tmp_path)
    words = {"data_root": tmp_path, "runs": tmp_path / "runs", "methods": "cca,timam"}
    cca, timam = plan.make_plan(BenchOptions("pascal_sentence", **words), gpu=False)
    assert not cca.missing
    assert timam.missing == "pascal_sentence has no captions: the view 'words' cannot be built from it"


def test_regions_decide_whether_a_method_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CCA, "requires", frozenset({"regions", "words"}))
    fakes.write_karpathy(tmp_path)
    words = {"dataset": "flickr8k", "methods": "cca", "data_root": tmp_path}
    assert only(**words, preset="small").missing == ""
    without = only(**words, preset="paper").missing
    assert without.startswith("flickr8k has no regions of its images; put a folder *_precomp next to them")
    assert only(**words, preset="paper", overrides={"data.images.regions": "detector"}).missing == ""
    auto = only(**words, preset="small", overrides={"data.images.regions": "auto"})
    assert auto.missing == without


def test_a_folder_of_regions_is_planned_without_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_precomputed(tmp_path)
    words = {"dataset": "f30k_precomp", "methods": "cca", "data_root": tmp_path, "preset": "small"}
    assert only(**words).missing.startswith("flickr30k has no image features, nor images to extract them")
    monkeypatch.setattr(CCA, "requires", frozenset({"regions", "words"}))
    job = only(**words)
    assert (job.missing, job.job.dataset, job.job.protocol) == ("", "f30k_precomp", "flickr30k-test")
    assert job.counts["test"] == {"images": 3, "captions": 15}
    extracted = only(**words, overrides={"data.images.regions": "grid"})
    assert extracted.missing.endswith(
        "to extract regions from; set data.images.regions to auto to use its own"
    )
    with pytest.raises(BadInput, match=r"data\.images\.regions' is 'gird'; did you mean 'grid'\?"):
        only(**words, overrides={"data.images.regions": "gird"})


WITHOUT_CAPTIONS = ("nuswide10k", "pascal_sentence", "wikipedia", "wikipedia-draws", "wikipedia_deep")
"""Data sets whose texts come as vectors."""


@pytest.mark.parametrize("name", [name for name in DATASETS if name not in WITHOUT_CAPTIONS])
def test_contrastive_objectives_are_planned_on_every_data_set_with_captions(
    name: str, tmp_path: Path
) -> None:
    changes = fakes.write_dataset(tmp_path, name)
    jobs = planned(
        dataset="synthetic-20" if name == "synthetic" else name,
        data_root=tmp_path,
        methods="infonce,siglip",
        preset="small",
        network="mobilenet_v2",
        weights="none",
        seeds=1,
        overrides={
            f"data.dataset.init_args.{key}": value
            for key, value in changes.items()
            # Of synthetic scenes the data set's name says how many.
            if key != "size"
        },
    )
    assert {job.job.method for job in jobs} == {"infonce", "siglip"}
    for job in jobs:
        assert job.missing == "" and job.counts["test"]["captions"] > 0, job.missing
        assert job.corpus is not None and job.corpus.captions is not None
        assert set(job.requires) >= {"features", "words", "identities"}


@pytest.mark.parametrize("name", WITHOUT_CAPTIONS)
def test_the_other_data_sets_have_no_captions(name: str, tmp_path: Path) -> None:
    fakes.write_dataset(tmp_path, name)
    chosen = experiments.dataset_settings(name, tmp_path)["data"]["dataset"]
    module, _, reader = chosen["class_path"].rpartition(".")
    corpus = getattr(importlib.import_module(module), reader)(**chosen.get("init_args", {})).read(tmp_path)
    assert corpus.captions is None and corpus.text_features is not None
