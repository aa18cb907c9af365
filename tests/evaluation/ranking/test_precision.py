from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import label_precision
from crossmodal_bench.evaluation.ranking.precision import Measure, average_precision

GOLDEN = Path(__file__).parents[2] / "golden" / "acmr_map.npz"


def at(*cutoffs: int | None) -> dict[str, Measure]:
    """Average precision at each cutoff, named by it."""
    return {str(cutoff): partial(average_precision, cutoff=cutoff) for cutoff in cutoffs}


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def minus_euclidean(images: Encoding, texts: Encoding) -> Tensor:
    return -torch.cdist(images.values, texts.values, compute_mode="donot_use_mm_for_euclid_dist")


def naive_ap(scores: NDArray[np.float64], relevant: NDArray[np.bool_], cutoff: int | None) -> float:
    """One query: sort irrelevant first among ties, then the mean precision at the hits within the cutoff."""
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], relevant[item]))
    if not relevant.any():
        return float("nan")
    hits, precisions = 0, []
    for position, item in enumerate(order[:cutoff], start=1):
        if relevant[item]:
            hits += 1
            precisions.append(hits / position)
    return float(np.mean(precisions)) if precisions else 0.0


def problem(seed: int, multi_hot: bool) -> tuple[Encoding, Encoding, NDArray[np.int64], NDArray[np.int64]]:
    """Whole-number scores of both signs with many ties, and labels that leave a query without any."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    images = Encoding(torch.randint(-2, 3, (23, 3), generator=generator).float())
    texts = Encoding(torch.randint(-2, 3, (57, 3), generator=generator).float())
    if multi_hot:
        image_labels = (rng.random((23, 12)) < 0.12).astype(np.int64)
        text_labels = (rng.random((57, 12)) < 0.12).astype(np.int64)
        image_labels[4] = 0
    else:
        image_labels, text_labels = rng.integers(0, 7, 23), rng.integers(0, 7, 57)
        image_labels[4] = 99
    return images, texts, image_labels, text_labels


@pytest.mark.parametrize("multi_hot", [False, True])
@pytest.mark.parametrize("block", [None, 5])
def test_agrees_with_a_loop_over_queries(multi_hot: bool, block: int | None) -> None:
    images, texts, image_labels, text_labels = problem(0, multi_hot)
    found = label_precision(
        images,
        texts,
        dot,
        image_labels,
        text_labels,
        measures=at(1, 5, 50, None),
        scopes=(1, 3, 20),
        block=block,
    )
    scores = dot(images, texts).double().numpy()
    if multi_hot:
        relevant = image_labels @ text_labels.T > 0
    else:
        relevant = image_labels[:, None] == text_labels[None, :]
    for side, rows, share in (("i2t", scores, relevant), ("t2i", scores.T, relevant.T)):
        for cutoff in (1, 5, 50, None):
            expected = [naive_ap(row, hit, cutoff) for row, hit in zip(rows, share, strict=True)]
            np.testing.assert_allclose(found.per_query[side][str(cutoff)], expected, atol=1e-6)
        assert found.dropped[side] == int((~share.any(1)).sum())
        kept = [
            [share[q][sorted(range(len(rows[q])), key=lambda i: (-rows[q][i], share[q][i]))][:scope].mean()
             for scope in (1, 3, 20)]
            for q in range(len(rows)) if share[q].any()
        ]  # fmt: skip
        np.testing.assert_allclose(found.precision[side], np.mean(kept, 0), atol=1e-6)
    assert found.dropped["i2t"] >= 1


def test_golden_map_of_the_demo_at_each_cutoff() -> None:
    golden = np.load(GOLDEN)
    images, texts = Encoding(torch.from_numpy(golden["img"])), Encoding(torch.from_numpy(golden["txt"]))
    found = label_precision(
        images, texts, minus_euclidean, golden["labels"], golden["labels"], measures=at(10, 50, 200, None)
    )
    means = {cutoff: np.nanmean(values) for cutoff, values in found.per_query["t2i"].items()}
    for cutoff in (10, 50, 200):
        assert means[str(cutoff)] == pytest.approx(float(golden[f"txt2img_map@{cutoff}"]), abs=1e-6)
    assert means["None"] == pytest.approx(float(golden["txt2img_map@200"]), abs=1e-6)
    assert means["50"] > means["None"] + 0.04, "mAP@50 and mAP must not be confused"


def test_ties_put_the_irrelevant_first() -> None:
    images, texts = Encoding(torch.zeros(2, 4)), Encoding(torch.zeros(5, 4))
    found = label_precision(images, texts, dot, [0, 1], [0, 1, 1, 1, 1], measures=at(1, None))
    assert found.per_query["i2t"]["None"][0] == pytest.approx(1 / 5)
    assert found.per_query["i2t"]["1"].tolist() == [0, 0]


def test_negative_zero_ties_with_zero() -> None:
    images = Encoding(torch.tensor([[1.0], [1.0]]))
    texts = Encoding(torch.tensor([[0.0], [-0.0]]))
    found = label_precision(images, texts, dot, [0, 0], [0, 1], measures=at(None))
    np.testing.assert_allclose(found.per_query["i2t"]["None"], 0.5)
    np.testing.assert_allclose(
        label_precision(images, texts, dot, [0, 0], [1, 0], measures=at(None)).per_query["i2t"]["None"], 0.5
    )


def test_dropped_queries_count_in_no_mean_but_are_counted() -> None:
    images, texts = Encoding(torch.eye(3)), Encoding(torch.eye(3))
    found = label_precision(images, texts, dot, [0, 1, 7], [0, 1, 8], measures=at(None), scopes=(1,))
    assert found.dropped == {"i2t": 1, "t2i": 1}
    assert np.nanmean(found.per_query["i2t"]["None"]) == found.precision["i2t"][0] == 1.0
    assert np.isnan(found.per_query["i2t"]["None"][2])


def test_scopes_end_at_the_gallery() -> None:
    images, texts, image_labels, text_labels = problem(1, False)
    found = label_precision(images, texts, dot, image_labels, text_labels, measures=at(None))
    assert found.scopes == {"i2t": [1, 10, 20, 50, 57], "t2i": [1, 10, 20, 23]}
    assert len(found.precision["i2t"]) == 5


def test_bad_labels_and_scores_raise() -> None:
    images, texts, image_labels, text_labels = problem(2, False)
    with pytest.raises(ValueError, match="image_labels must be"):
        label_precision(images, texts, dot, image_labels[:-1], text_labels, measures=at(None))
    with pytest.raises(ValueError, match="must be integers"):
        label_precision(images, texts, dot, image_labels.astype(np.float32), text_labels, measures=at(None))
    with pytest.raises(ValueError, match="of the same kind"):
        label_precision(images, texts, dot, image_labels, np.eye(57), measures=at(None))
    with pytest.raises(ValueError, match="no i2t query shares"):
        label_precision(images, texts, dot, image_labels, text_labels + 1000, measures=at(None))
    with pytest.raises(ValueError, match="start at 1"):
        label_precision(images, texts, dot, image_labels, text_labels, measures=at(None), scopes=(0,))
    texts.values[11] = float("nan")
    with pytest.raises(ValueError, match="column 11"):
        label_precision(images, texts, dot, image_labels, text_labels, measures=at(None))
