"""The files of the documentation are complete: what its readers copy runs.

See tests/bench/test_words.py for the method, tests/jobs/given/test_scored.py for a model from elsewhere.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plugins
import pytest
import torch
from PIL import Image

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.cli.main import main
from crossmodal_bench.evaluation import PROTOCOLS, metric_table
from crossmodal_bench.evaluation.protocols.protocol import parse_protocols
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("shop_reader", None)


def test_the_data_set_is_read_and_planned(folder: Path) -> None:
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
