"""What a bench reads, given broken versions of it: records, arrays, weights, experiments and --set."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
import yaml
from answered import write_ranks as write_query_ranks
from hostile import Reader

from crossmodal_bench.bench.options import read_options
from crossmodal_bench.cli.main import _parser
from crossmodal_bench.evaluation import Ranks, rank_metrics, retrieval_ranks
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.record import read_record, read_records, write_record
from crossmodal_bench.jobs.suite_ensembles import with_members
from crossmodal_bench.reporting.charts import result_charts
from crossmodal_bench.reporting.charts.collection import collect
from crossmodal_bench.reporting.page.contents import page_tables
from crossmodal_bench.reporting.page.document import document
from crossmodal_bench.reporting.table import csv, shown_tables
from crossmodal_bench.reporting.tables.latex import latex
from crossmodal_bench.reporting.tables.markdown import markdown, readme
from crossmodal_bench.reporting.tables.terminal import print_tables
from crossmodal_bench.training import lightning_cli as training
from crossmodal_bench.training import trained_model as model
from crossmodal_bench.training.configuration import check_configuration

FEW = {"page": 3, "projection": 4}
MEMBER = {"id": "a", "method": "acmr", "seed": 0, "overrides": {}, "directory": "x", "finished_at": "y"}
FEATURES = {"network": "vgg19", "weights": "w.pth", "weights_sha256": "0" * 16, "image_size": 224}


def records(content: Callable[..., dict[str, Any]]) -> Callable[[Path], None]:
    """Two rows: one with all that a record can have, one that sums two models."""

    def write(root: Path) -> None:
        one = content(
            suite="figure6",
            overrides={"model.init_args.k": 5},
            parents={"sm": {"job": "0", "finished_at": "1"}},
        )
        one["data"]["features"] = {**FEATURES, "pooled": FEATURES}
        one["also"] = {
            "wikipedia-test": {
                name: one[name] for name in ("protocol_version", "metrics", "intervals", "curves")
            }
        }
        two = content(seed=1, label="ensemble of 2", ensemble=[MEMBER, {**MEMBER, "id": "b"}])
        two["data"]["features"] = {"members": [FEATURES, None]}
        for record in (one, two):
            write_record(root / "wikipedia" / "acmr" / record["job"]["id"], record)

    return write


def read_tables(root: Path) -> None:
    found = shown_tables(read_records(root))
    out = io.StringIO()
    print_tables(found, out)
    for text in (markdown(found), readme(found), csv(found), latex(found), out.getvalue()):
        assert text.encode() and not set(text) & {"\x1b", "\0", "\u202e"}
    assert not any(line.startswith(("=", "+", "@")) for line in csv(found).splitlines())


def read_page(root: Path) -> None:
    tables = shown_tables(read_records(root))
    contents = page_tables(tables, collect([table.source for table in tables]), root)
    page = document("title", "summary", contents, str(root), most_drawings=0)
    assert page.encode() and not set(page) & {"\x1b", "\0", "\u202e"}
    # Every script is ours, or data.
    assert "<script>alert" not in page and page.count("<script") == page.count("</script>")


def write_ranks(root: Path) -> None:
    ranks = retrieval_ranks(np.random.default_rng(0).random((3, 6)), np.repeat(np.arange(3), 2))
    ranks.save(root / "ranks.npz", list("abc"), list("abcdef"))


def read_ranks(root: Path) -> None:
    assert len(Ranks.load(root / "ranks.npz").arrays()) == 12
    assert len(Ranks.load_ids(root / "ranks.npz")) == 2


def answered(content: Callable[..., dict[str, Any]]) -> Callable[[Path], None]:
    """Two rows of which it is known what each query gave."""

    def write(root: Path) -> None:
        i2t, t2i = np.array([1, 3, 1, 9]), np.array([1, 2, 8, 1, 1, 4, 1, 30])
        metrics = rank_metrics(QueryRanks.untied(i2t), QueryRanks.untied(t2i))
        for method in ("scan", "addr_scan"):
            record = content(dataset="mine", protocol="mine-test", method=method, metrics=metrics)
            written = write_record(root / "mine" / method / record["job"]["id"], record)
            write_query_ranks(read_record(written), i2t, t2i)

    return write


def projected(content: Callable[..., dict[str, Any]]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_record(root, content())
        points, labels = np.ones((4, 2)), np.arange(4)
        np.savez(root / "projection.npz", image=points, text=points, image_labels=labels, text_labels=labels)

    return write


def trained(content: Callable[..., dict[str, Any]]) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        write_record(root, content())
        (root / "config.yaml").write_text("data: {}\n")
        torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, root / "last.ckpt")

    return write


def write_experiments(root: Path) -> None:
    """Some files of ours, as JSON, which is YAML too."""
    ours = experiments.experiments_folder()
    chosen = ("methods/vse", "methods/vsrn", "methods/addr_vsrn", "datasets/coco", "suites/addr_table1")
    chosen += ("suites/acmr_grid", "datasets/flickr8k")
    for name in chosen:
        path = root / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(hostile.as_json(yaml.safe_load((ours / f"{name}.yaml").read_text())))
    for needed in sorted((ours / "methods").glob("*.yaml")):
        path = root / "methods" / needed.name
        if not path.is_file():
            # A copy: what is broken here must not be ours.
            shutil.copyfile(needed, path)


def read_experiments(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "experiments_folder", lambda: root)
        experiments._file.cache_clear()
        try:
            for name in ("vse", "addr_vsrn"):
                assert isinstance(experiments.method_settings(name, "coco", "small"), dict)
                assert isinstance(experiments.parents_of(name), list)
            experiments.resolve("vse", "coco", {}, "small", {"trainer.max_epochs": 1}, root)
            for suite in experiments.names("suites"):
                for row in with_members(experiments.suite(suite)):
                    experiments.expand(row.overrides)
        finally:
            experiments._file.cache_clear()


def write_config(root: Path) -> None:
    config = experiments.resolve("vse", "coco", {}, "small", {}, root)
    (root / "config.yaml").write_text(hostile.as_json(config))


def read_config(root: Path) -> None:
    check_configuration(training.config_file(root / "config.yaml"))


def write_setting(root: Path) -> None:
    (root / "set.txt").write_text("model.init_args.k={a: [1, 2.5, x], b: {c: null, d: 'y'}, e: 2}")


def read_setting(root: Path) -> None:
    word = (root / "set.txt").read_bytes().decode("utf-8", "surrogateescape")
    overrides = read_options(_parser().parse_args(["bench", f"--set={word}"])).overrides
    assert hostile.as_json(overrides) and experiments.expand(overrides)


def readers(content: Callable[..., dict[str, Any]]) -> dict[str, Reader]:
    return {
        "record": Reader(records(content), read_tables, "*.json", inputs=2500),
        "page": Reader(records(content), read_page, "*.json", inputs=100),
        "ranks": Reader(write_ranks, read_ranks, "*.npz", inputs=800),
        "queries": Reader(answered(content), read_tables, "*.npz", inputs=500),
        "projection": Reader(
            projected(content),
            lambda root: result_charts.projection(read_record(root), "row"),
            "*.npz",
            inputs=150,
        ),
        "checkpoint": Reader(
            trained(content), lambda root: model.trained_weights(read_record(root)), "*.ckpt"
        ),
        "experiments": Reader(write_experiments, read_experiments, "*.yaml", inputs=700, named=False),
        "--config": Reader(write_config, read_config, "*.yaml", inputs=800, named=False),
        "--set": Reader(write_setting, read_setting, "*.txt", inputs=1500, named=False),
    }


NAMES = tuple(readers(dict))


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file_gives_a_value_or_a_sentence(
    tmp_path: Path, name: str, make_content: Callable[..., dict[str, Any]]
) -> None:
    few = FEW.get(name, 10)
    assert hostile.check(readers(make_content)[name], tmp_path, few) >= few


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_thousands_of_broken_files_give_values_or_sentences(
    tmp_path: Path,
    name: str,
    make_content: Callable[..., dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader = readers(make_content)[name]
    inputs = hostile.check(reader, tmp_path, reader.inputs)
    with capsys.disabled():
        print(f"\n{name}: {inputs} broken files")
    assert inputs >= reader.inputs
