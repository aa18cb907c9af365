"""The files of the documentation are complete: what its readers copy runs.

See tests/bench/test_option_checks.py for the method's whole command, tests/jobs/given/test_scored.py for a
model from elsewhere.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import plugins
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tiny import QUIET

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.cli.main import main
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.evaluation import PROTOCOLS, metric_table
from crossmodal_bench.evaluation.protocols.protocol import parse_protocols
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.training.lightning_cli import instantiate
from crossmodal_bench.training.worker import run_job


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in ("shop_reader", "my_package"):
        sys.modules.pop(name, None)


def run(planned: PlannedJob) -> Record:
    """A job's record, from this process."""
    planned.directory.mkdir(parents=True)
    run_job(planned, "cpu")
    return read_record(planned.directory)


def test_the_method_is_trained(folder: Path) -> None:
    plugins.write_plugin(folder)
    options = BenchOptions(
        dataset="synthetic-20",
        methods="./bilinear.yaml",
        plugins=("my_package",),
        seeds=1,
        wandb="off",
        devices="cpu",
        overrides={"trainer.max_epochs": 1},
    )
    (planned,) = make_plan(options, gpu=False)
    record = run(planned)
    assert (record.job.method, record.job.preset) == ("bilinear", "smoke")
    assert record.metrics["rsum"] > 0
    (epoch,) = record.history
    assert epoch["train/loss_ranking"] > 0


def test_addr_stands_on_a_host_of_ones_own(folder: Path) -> None:
    """The page's last file on a host whose file is made of SCAN's."""
    _, content = plugins.fenced("own_method.md", "yaml")
    Path("my_host.yaml").write_text("title: my host\nbase: scan\n")
    Path("addr_my_host.yaml").write_text(content)
    options = BenchOptions(
        dataset="synthetic-20",
        methods="./my_host.yaml,./addr_my_host.yaml",
        preset="paper",
        seeds=1,
    )
    host, addr = make_plan(options, gpu=False)
    assert (host.job.method, addr.job.method) == ("my_host", "addr_my_host")
    assert addr.config["model"]["class_path"] == "crossmodal_bench.methods.ADDR"
    settings = addr.config["model"]["init_args"]
    assert (settings["beta"], settings["gamma"]) == (0.1, 0.4)
    assert settings["host"] == host.config["model"]["init_args"]["host"]
    # Its constructors take all of it.
    instantiate(addr.config, **QUIET)


def test_the_data_set_is_read_planned_and_ranked(folder: Path) -> None:
    plugins.write_dataset(folder)
    reader = importlib.import_module("shop_reader").Shop()
    reader.write_fake(folder / "data")
    corpus = reader.read(folder / "data")
    assert (len(corpus.image_ids), corpus.captions[0]) == (14, "a red shoe number 0")
    words = plugins.dataset_command()
    assert words == ["bench", "--dataset", "./shop.yaml", "--plugins", "shop_reader"]
    options = BenchOptions(
        dataset="./shop.yaml",
        plugins=("shop_reader",),
        methods="cca",
        data_root=folder / "data",
        preset="small",
        network="mobilenet_v2",
        weights="none",
        wandb="off",
        devices="cpu",
    )
    (planned,) = make_plan(options, gpu=False)
    assert (planned.job.dataset, planned.counts["test"]["images"]) == ("shop", 4)
    record = run(planned)
    assert record.job.protocol == "shop-test" and record.metrics["rsum"] > 0
    assert record.data.features is not None and record.data.features["network"] == "mobilenet_v2"


def test_the_folder_of_pictures_and_captions_is_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (content,) = plugins.fenced("get_started.md", "json")
    shoes = folder / "data" / "shoes"
    (shoes / "images").mkdir(parents=True)
    (shoes / "dataset.json").write_text(content)
    entries = json.loads(content)["images"]
    for number, entry in enumerate(entries):
        Image.new("RGB", (32, 32), (80 * number, 90, 90)).save(shoes / "images" / entry["filename"])
    assert main(["prepare", "shoes", "--min-count", "1"]) == 0
    shown = capsys.readouterr().out
    assert {entry["split"] for entry in entries} == {"train", "val", "test"}
    assert "shoes" in shown and "shoes-test" in shown
    (short,) = re.findall(r"```json\n(.*?)```", (plugins.PAGES.parent / "README.md").read_text(), re.DOTALL)
    assert json.loads(short)["images"][0] == entries[0]


def test_the_captions_of_a_csv_become_the_json_of_the_page(folder: Path) -> None:
    (code,) = plugins.fenced("get_started.md", "python")
    (content,) = plugins.fenced("get_started.md", "json")
    lines = [
        f"{image['filename']},{image['split']},{sentence['raw']}"
        for image in json.loads(content)["images"]
        for sentence in image["sentences"]
    ]
    (folder / "captions.csv").write_text("\n".join(["filename,split,caption", *lines]))
    (folder / "data" / "shoes").mkdir(parents=True)
    exec(compile(code, "get_started.md", "exec"), {})
    written = (folder / "data" / "shoes" / "dataset.json").read_text(encoding="utf-8")
    assert json.loads(written) == json.loads(content)


class Faiss(ModuleType):
    """What the page asks of FAISS, which is no dependency: exact inner products, as it documents them."""

    def __init__(self) -> None:
        super().__init__("faiss")

    @staticmethod
    def normalize_L2(vectors: NDArray[np.float32]) -> None:
        """In place, as the library does it; of rows that are single precision and in one piece."""
        assert vectors.dtype == np.float32 and vectors.flags["C_CONTIGUOUS"]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    class IndexFlatIP:
        """An index without any approximation."""

        def __init__(self, width: int) -> None:
            self.vectors = np.empty((0, width), np.float32)

        def add(self, vectors: NDArray[np.float32]) -> None:
            assert vectors.dtype == np.float32
            self.vectors = np.concatenate([self.vectors, vectors])

        def search(
            self, queries: NDArray[np.float32], count: int
        ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            products = queries @ self.vectors.T
            rows = np.argsort(-products, axis=1, kind="stable")[:, :count]
            return np.take_along_axis(products, rows, axis=1), rows


def test_a_trained_run_is_searched_and_indexed(
    folder: Path,
    trained: Callable[[str], Record],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    indexed, asked = plugins.fenced("trained_run.md", "python")
    record = trained("vse")
    shutil.copytree(record.directory, folder / "runs" / "synthetic-tiny" / "vse" / record.job.id)
    corpus = Synthetic(20).read(folder)
    assert corpus.images is not None and corpus.captions is not None
    (folder / "pics").mkdir()
    corpus.images[0].save(folder / "pics" / "scene000221.png")
    (folder / "sentences.txt").write_text("\n".join(corpus.captions[:6]))

    names: dict[str, Any] = {}
    exec(compile(asked, "trained_run.md", "exec"), names)
    searched = names["run"]
    assert searched.metrics == record.metrics
    assert searched.unknown_words("a red circle and a dinosaur") == ["dinosaur"]

    assert main(["export-embeddings", "synthetic-tiny/vse"]) == 0
    capsys.readouterr()
    if importlib.util.find_spec("faiss") is None:
        monkeypatch.setitem(sys.modules, "faiss", Faiss())
    found: dict[str, Any] = {}
    exec(compile(indexed, "trained_run.md", "exec"), found)
    # "The answers are those of run.search", as the page says.
    answers = searched.search("a red circle over snow", top=3)
    assert [found["ids"][row] for row in found["rows"][0]] == [answer.id for answer in answers]
    np.testing.assert_allclose(found["scores"][0], [answer.score for answer in answers], rtol=1e-4)


def test_the_metric_is_one_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = plugins.fenced("own_metric.md", "python")
    names: dict[str, Any] = {"__name__": "mrr"}
    exec(compile(code, "own_metric.md", "exec"), names)
    assert all(0.05 < value < 1 for value in names["mrr"].values())
    (entry,) = plugins.fenced("own_metric.md", "text")
    written = vars(metric_table) | {"reciprocal_rank": names["reciprocal_rank"]}
    metrics = eval(f"({entry.strip()})", written)
    assert [metric.key for metric in metrics] == ["i2t/MRR", "t2i/MRR"]
    assert metrics[0].value(QueryRanks.untied([1, 2])) == 0.75


def test_the_protocol_is_one() -> None:
    (content,) = plugins.fenced("own_metric.md", "yaml")
    protocols = parse_protocols(content, "own_metric.md")
    assert protocols["my-protocol"].label == "my-protocol@1" and "my-protocol" not in PROTOCOLS


def test_ranks_and_similarities_alone() -> None:
    _, similarities, ranks = plugins.fenced("own_model.md", "python")
    regions, words = torch.rand(3, 4, 8), torch.rand(6, 5, 8)
    names: dict[str, Any] = {"regions": regions, "words": words, "lengths": torch.tensor([5, 4, 3, 2, 1, 5])}
    exec(compile(similarities, "own_model.md", "exec"), names)
    assert names["scores"].shape == (3, 6)
    exec(compile(ranks, "own_model.md", "exec"), names | {"caption_image": np.arange(6) // 2})


def test_the_readmes_method_is_an_excerpt_of_the_complete_one() -> None:
    readme = (plugins.PAGES.parent / "README.md").read_text(encoding="utf-8")
    (excerpt,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    whole = plugins.fenced("own_method.md", "python")[0].splitlines()
    for line in excerpt.splitlines():
        assert line.replace("return triplet", "loss = triplet") in whole, line
