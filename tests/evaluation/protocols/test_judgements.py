"""ECCV Caption and CxC against the metrics of the package that they come in."""

from __future__ import annotations

import builtins
import gzip
import importlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.evaluation import PROTOCOLS, Evaluation, SplitItems, evaluate, metric_table
from crossmodal_bench.evaluation.chance import Search
from crossmodal_bench.evaluation.metric_table import SIDES
from crossmodal_bench.evaluation.protocols import judgements
from crossmodal_bench.evaluation.protocols.judgements import judged_pairs, read_judgements
from crossmodal_bench.evaluation.protocols.protocol import (
    expected_protocols,
    matches,
    measured_on,
    resolve_protocols,
)

pytestmark = pytest.mark.skipif(
    not judgements.is_installed(), reason="eccv-caption is not installed (the extra eccv)"
)

KARPATHY = Path(__file__).parents[2] / "golden" / "coco_karpathy_test.txt.gz"
SIXTH = {575916: 144675, 421999: 467259}
"""Captions of COCO's, by image, that were judged right and are not in the package's gallery."""


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


@dataclass(frozen=True)
class Coco:
    """Karpathy's test split, 25,010 captions, by the ids that are known.

    image_numbers, caption_numbers: (5000,), (25010,) COCO's ids.
    owner: (25010,) row of each caption's image.
    """

    image_numbers: NDArray[np.int64]
    caption_numbers: NDArray[np.int64]
    owner: NDArray[np.int64]

    @property
    def items(self) -> SplitItems:
        return SplitItems(
            [f"COCO_val2014_{number:012d}.jpg" for number in self.image_numbers],
            self.owner,
            caption_keys=[str(number) for number in self.caption_numbers],
        )


@pytest.fixture(scope="module")
def metrics() -> Any:
    """The package's metrics, imported as where neither tqdm nor ujson is installed."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name in ("tqdm", "ujson"):
            raise ImportError(name)
        return real(name, *rest, **more)

    for name in [name for name in sys.modules if name.partition(".")[0] == "eccv_caption"]:
        del sys.modules[name]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(builtins, "__import__", without)
        return importlib.import_module("eccv_caption").Metrics()


@pytest.fixture(scope="module")
def coco(metrics: Any) -> Coco:
    images = [int(line) for line in gzip.decompress(KARPATHY.read_bytes()).split()]
    captions: list[int] = []
    owner: list[int] = []
    own = metrics.coco_gts["i2t"]
    for row, number in enumerate(images):
        others = [SIXTH[number]] if number in SIXTH else []
        # Of the other eight captions only the number is known.
        others += [10**9 + row] if row < 8 else []
        captions += own[number] + others
        owner += [row] * (len(own[number]) + len(others))
    return Coco(np.array(images), np.array(captions), np.array(owner))


@pytest.fixture(scope="module")
def vectors(coco: Coco) -> tuple[Encoding, Encoding]:
    """Vectors of whole numbers: their products are exact in double precision, and none are tied."""
    generator = np.random.default_rng(0)
    images, texts = (
        torch.from_numpy(generator.integers(-(10**6), 10**6, (count, 8)).astype(np.float64))
        for count in (len(coco.image_numbers), len(coco.caption_numbers))
    )
    return Encoding(images), Encoding(texts)


def evaluated(name: str, coco: Coco, vectors: tuple[Encoding, Encoding], **how: Any) -> Evaluation:
    protocol = PROTOCOLS[name]
    assert protocol.judged is not None
    pairs = judged_pairs(protocol.judged, coco.items.image_ids, coco.items.caption_keys)
    return evaluate(protocol, *vectors, dot, coco.owner, positives=pairs, **how)


def retrieved(
    queries: NDArray[np.float64],
    gallery: NDArray[np.float64],
    query_numbers: NDArray[np.int64],
    gallery_numbers: NDArray[np.int64],
    asked: set[int],
    length: int,
) -> dict[int, list[int]]:
    """The best items of each query that is asked, by COCO's numbers, best first."""
    lists: dict[int, list[int]] = {}
    rows = np.flatnonzero(np.isin(query_numbers, list(asked)))
    for block in np.array_split(rows, max(1, len(rows) // 500)):
        scores = torch.from_numpy(queries[block]) @ torch.from_numpy(gallery).T
        best = scores.topk(length, dim=1).indices.numpy()
        lists |= {
            int(query_numbers[row]): gallery_numbers[top].tolist()
            for row, top in zip(block, best, strict=True)
        }
    return lists


def package_lists(
    coco: Coco, vectors: tuple[Encoding, Encoding], answers: dict[str, dict[int, Any]], gallery: Any
) -> dict[str, dict[int, list[int]]]:
    """What the package takes: for each query the best 50 items of its gallery."""
    images, texts = (each.values.numpy() for each in vectors)
    kept = np.isin(coco.caption_numbers, gallery)
    return {
        "i2t": retrieved(
            images, texts[kept], coco.image_numbers, coco.caption_numbers[kept], set(answers["i2t"]), 50
        ),
        "t2i": retrieved(texts, images, coco.caption_numbers, coco.image_numbers, set(answers["t2i"]), 50),
    }


def assert_eccv(found: Evaluation, metrics: Any, coco: Coco, vectors: tuple[Encoding, Encoding]) -> None:
    lists = package_lists(coco, vectors, metrics.eccv_gts, metrics.coco_ids)
    theirs = metrics.eccv_metrics(lists, "all")
    names = {"R@1": "eccv_r1", "R-Precision": "eccv_rprecision", "mAP@R": "eccv_map_at_r"}
    for side in SIDES:
        for ours, name in names.items():
            assert found.metrics[f"{side}/{ours}"] == pytest.approx(100 * theirs[name][side], abs=1e-9), ours
        for k in (5, 10):
            recall = metrics.eccv_recalls(lists, "all", K=k)[side]
            assert found.metrics[f"{side}/R@{k}"] == pytest.approx(100 * recall, abs=1e-9)


def test_eccv_caption_equals_the_package_on_random_rankings(
    metrics: Any, coco: Coco, vectors: tuple[Encoding, Encoding]
) -> None:
    found = evaluated("coco-5k-eccv", coco, vectors)
    assert found.asked == {
        "i2t": {"gallery": 25_000, "queries": 1_261, "positives": 22_548},
        "t2i": {"gallery": 5_000, "queries": 1_332, "positives": 11_279},
    }
    assert_eccv(found, metrics, coco, vectors)
    assert_chance(found)
    # What is outside the gallery is in no image's list, and asks nothing.
    outside = ~np.isin(coco.caption_numbers, metrics.coco_ids)
    assert found.ranks is not None and outside.sum() == 10
    assert not np.isin(found.ranks.i2t_top, np.flatnonzero(outside)).any()
    assert (found.ranks.t2i[outside] == 0).all() and np.isnan(found.per_query["t2i/mAP@R"][outside]).all()
    assert found.counts == (5_000, 25_010)


def assert_chance(found: Evaluation) -> None:
    """Random scores are within four standard errors of what is expected of them."""
    for side in SIDES:
        asked = found.asked[side]
        search = Search(
            gallery=asked["gallery"],
            identities=1,
            classes=1,
            positives=asked["positives"] / asked["queries"],
        )
        for metric in metric_table.ENTRIES:
            if metric.side != side or metric.key not in found.metrics or metric.chance is None:
                continue
            if metric.family not in found.protocol.families:
                continue
            level = metric.chance_level(search)
            assert level is not None and 0 < level < 3
            values = found.per_query[metric.key]
            error = 100 * np.nanstd(values) / np.sqrt(np.count_nonzero(~np.isnan(values)))
            # With hardly a hit the spread itself is uncertain.
            error = max(error, 100 * np.sqrt(level / 100 / asked["queries"]) / 2)
            assert abs(found.metrics[metric.key] - level) < 4 * error, metric.key


@pytest.mark.slow
def test_cxc_equals_the_package_on_random_rankings(
    metrics: Any, coco: Coco, vectors: tuple[Encoding, Encoding]
) -> None:
    found = evaluated("coco-5k-cxc", coco, vectors)
    assert found.asked == {
        "i2t": {"gallery": 25_000, "queries": 5_000, "positives": 35_585},
        "t2i": {"gallery": 5_000, "queries": 24_972, "positives": 35_585},
    }
    lists = package_lists(coco, vectors, metrics.cxc_gts, metrics.coco_ids)
    for k in (1, 5, 10):
        theirs = metrics.cxc_recalls(lists, "all", K=k)
        for side in SIDES:
            assert found.metrics[f"{side}/R@{k}"] == pytest.approx(100 * theirs[side], abs=1e-9)
    assert_chance(found)


InProcesses = Callable[[int, Callable[[int, Callable[[Tensor], Tensor]], Evaluation]], list[Evaluation]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco-5k-eccv", "coco-5k-cxc"])
def test_two_processes_give_the_digits_of_one(
    coco: Coco, vectors: tuple[Encoding, Encoding], name: str, in_processes: InProcesses
) -> None:
    alone = evaluated(name, coco, vectors)

    def work(rank: int, reduce: Callable[[Tensor], Tensor]) -> Evaluation:
        return evaluated(name, coco, vectors, rank=rank, world_size=2, reduce=reduce)

    for found in in_processes(2, work):
        assert found.metrics == alone.metrics
        for key, values in alone.per_query.items():
            np.testing.assert_array_equal(found.per_query[key], values, err_msg=key)


def test_the_split_is_measured_by_them_where_captions_have_ids(coco: Coco) -> None:
    protocols = resolve_protocols("coco", coco.items)
    names = [protocol.name for protocol in protocols]
    assert names == ["coco-5k", "coco-1k-5fold", "coco-5k-eccv", "coco-5k-cxc"]
    # There are no judgements of other splits.
    assert [protocol.name for protocol in measured_on("val", protocols)] == names[:2]
    bare = SplitItems(coco.items.image_ids, coco.owner)
    assert [protocol.name for protocol in resolve_protocols("coco", bare)] == names[:2]
    sentences = [match.sentence for match in matches("coco", bare) if match.protocol.judged]
    assert sentences[0] == (
        "coco-5k-eccv@1 is not measured: its captions have no COCO ids, which Karpathy's "
        "dataset_coco.json has (sentid)"
    )
    # Of another split of that size nothing is known, not even under another name.
    others = SplitItems([f"{10**7 + row}.jpg" for row in range(5_000)], coco.owner)
    assert {each.resembles for each in resolve_protocols("coco", others)} == {"coco-5k", "coco-1k-5fold"}


def test_without_the_package_a_sentence_says_how_to_get_it(
    coco: Coco, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgements, "find_spec", lambda name: None)
    assert [each.name for each in resolve_protocols("coco", coco.items)] == ["coco-5k", "coco-1k-5fold"]
    assert [each.name for each in expected_protocols("coco")] == ["coco-5k", "coco-1k-5fold"]
    sentences = [match.sentence for match in matches("coco", coco.items) if match.protocol.judged]
    assert sentences[1] == (
        "coco-5k-cxc@1 is not measured: the package eccv-caption is not installed "
        "(pip install 'crossmodal-bench[eccv]')"
    )
    with pytest.raises(MissingInput, match=r"crossmodal-bench\[eccv\]"):
        read_judgements("eccv")


def test_judgements_of_another_split_are_refused(coco: Coco) -> None:
    keys = list(coco.items.caption_keys or ())
    with pytest.raises(BadInput, match="was judged but is not in the split"):
        judged_pairs("eccv", coco.items.image_ids[:10], keys)
    with pytest.raises(BadInput, match="by which they were judged"):
        judged_pairs("eccv", coco.items.image_ids, None)


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        ([1, 2], {"5": [7]}, "holds no answers by query"),
        ({"7": []}, {"5": [7]}, "the answers to '7'"),
        ({"7": ["x"]}, {"5": [7]}, "the answers to '7'"),
        ({"seven": [5]}, {"5": [7]}, "the answers to 'seven'"),
        ({"7": [5, 6]}, {"5": [7], "6": [8]}, "image 7 and caption 6 are correct for each other in one"),
    ],
)
def test_damaged_judgements_are_refused(
    images: Any, captions: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "coco_test_ids.npy", np.array([5, 6]))
    (tmp_path / "eccv_image_to_caption.json").write_text(json.dumps(images), encoding="utf-8")
    (tmp_path / "eccv_caption_to_image.json").write_text(json.dumps(captions), encoding="utf-8")
    monkeypatch.setattr(judgements, "_folder", lambda: tmp_path)
    with pytest.raises(BadInput, match=message):
        read_judgements("eccv")
