from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.encoding import Encoding
from crossmodal_bench.errors import BadInput
from crossmodal_bench.evaluation import Protocol, Ranks, evaluate, recall_metrics, retrieval_ranks

BOTH = Protocol("x-test", "x", None, None, "caption", True, True, "rsum")
RECALL = replace(BOTH, label_precision=False)
LABELS = replace(BOTH, recall=False, primary="mAP")
OWNER = np.random.default_rng(0).permutation(np.concatenate([np.arange(200) // 5, [3, 17, 17]]))
IMAGES = Encoding(torch.randint(-9, 10, (40, 6), generator=torch.Generator().manual_seed(0)).float())
TEXTS = Encoding(
    IMAGES.values[torch.from_numpy(OWNER)]
    + torch.randint(-9, 10, (203, 6), generator=torch.Generator().manual_seed(1))
)
CLASSES = np.arange(40) % 3


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def test_each_group_gives_its_keys_and_nothing_else() -> None:
    recall = evaluate(RECALL, IMAGES, TEXTS, dot, OWNER)
    labels = evaluate(LABELS, IMAGES, TEXTS, dot, OWNER, CLASSES)
    both = evaluate(BOTH, IMAGES, TEXTS, dot, OWNER, CLASSES)
    sides = ("i2t", "t2i")
    recall_keys = {f"{s}/{m}" for s in sides for m in ("R@1", "R@5", "R@10", "MedR", "MeanR")} | {
        "rsum",
        "sum",
    }
    label_keys = {f"{s}{m}" for s in ("i2t/", "t2i/", "") for m in ("mAP", "mAP@50")}
    assert set(recall.metrics) == recall_keys
    assert set(labels.metrics) == label_keys
    assert both.metrics == recall.metrics | labels.metrics
    assert recall.curves == {} and recall.average_precision == {} and labels.ranks is None
    assert set(labels.curves) == {"i2t/precision_scope", "t2i/precision_scope"}
    assert set(labels.average_precision) == {f"{s}/{m}" for s in sides for m in ("mAP", "mAP@50")}
    assert labels.metrics["mAP"] == pytest.approx((labels.metrics["i2t/mAP"] + labels.metrics["t2i/mAP"]) / 2)
    assert labels.metrics["t2i/mAP"] == pytest.approx(labels.average_precision["t2i/mAP"].mean())


def test_a_text_has_the_labels_of_its_image() -> None:
    # One class per image: an image's own captions are all that is relevant to it.
    found = evaluate(BOTH, IMAGES, TEXTS, dot, OWNER, np.arange(40))
    assert found.ranks is not None
    np.testing.assert_allclose(found.average_precision["t2i/mAP"], 1 / found.ranks.t2i, rtol=1e-6)


def test_folds_have_their_own_galleries_and_global_numbers() -> None:
    found = evaluate(replace(RECALL, folds=4), IMAGES, TEXTS, dot, OWNER)
    rows = []
    assert found.ranks is not None
    for start in range(0, 40, 10):
        columns = np.flatnonzero(np.equal(OWNER // 10, start // 10))
        scores = IMAGES.values[start : start + 10] @ TEXTS.values[columns].T
        alone = retrieval_ranks(scores, OWNER[columns] - start)
        rows.append(recall_metrics(alone.i2t, alone.t2i))
        np.testing.assert_array_equal(found.ranks.i2t[start : start + 10], alone.i2t)
        np.testing.assert_array_equal(found.ranks.t2i[columns], alone.t2i)
        np.testing.assert_array_equal(found.ranks.i2t_top[start : start + 10], columns[alone.i2t_top])
        np.testing.assert_array_equal(found.ranks.t2i_top[columns], alone.t2i_top + start)
        np.testing.assert_array_equal(found.ranks.t2i_top_scores[columns], alone.t2i_top_scores)
    for key, value in found.metrics.items():
        assert value == pytest.approx(np.mean([row[key] for row in rows]))
    whole = evaluate(RECALL, IMAGES, TEXTS, dot, OWNER)
    assert found.metrics["rsum"] > whole.metrics["rsum"]


def test_counts_that_are_not_the_protocols_raise() -> None:
    with pytest.raises(ValueError, match="over 41 images, got 40"):
        evaluate(replace(RECALL, images=41), IMAGES, TEXTS, dot, OWNER)
    with pytest.raises(ValueError, match="over 200 captions, got 203"):
        evaluate(replace(RECALL, captions=200), IMAGES, TEXTS, dot, OWNER)
    with pytest.raises(ValueError, match="needs the images' labels"):
        evaluate(LABELS, IMAGES, TEXTS, dot, OWNER)
    with pytest.raises(ValueError, match="3 equal folds"):
        evaluate(replace(RECALL, folds=3), IMAGES, TEXTS, dot, OWNER)


def test_per_query_results_are_saved_with_and_without_ranks(tmp_path: Path) -> None:
    ids = [f"i{n}" for n in range(40)], [f"c{n}" for n in range(203)]
    both = evaluate(BOTH, IMAGES, TEXTS, dot, OWNER, CLASSES)
    both.save(tmp_path / "both.npz", *ids)
    assert both.ranks is not None
    np.testing.assert_array_equal(Ranks.load(tmp_path / "both.npz").t2i, both.ranks.t2i)
    evaluate(LABELS, IMAGES, TEXTS, dot, OWNER, CLASSES).save(tmp_path / "labels.npz", *ids)
    with np.load(tmp_path / "labels.npz") as stored:
        np.testing.assert_array_equal(stored["ap/t2i/mAP@50"], both.average_precision["t2i/mAP@50"])
    assert Ranks.load_ids(tmp_path / "labels.npz") == ids
    with pytest.raises(BadInput, match="without ranks"):
        Ranks.load(tmp_path / "labels.npz")
