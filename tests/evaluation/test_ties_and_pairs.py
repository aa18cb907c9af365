"""Ties and arbitrary positive pairs, through every way of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import Protocol, Ranks, evaluate, retrieval_ranks, streamed_ranks
from crossmodal_bench.evaluation.ranking.positives import PositivePairs
from crossmodal_bench.evaluation.stored_results import load_query_results

RECALL = Protocol(name="x", dataset="x", positives="caption", families=("ranks",), primary="rsum")
PAIRS = replace(RECALL, positives="pairs")
BY_LABEL = replace(RECALL, families=("ranks", "label_precision"))


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def coarse(seed: int, n_images: int = 30, n_texts: int = 90) -> tuple[Encoding, Encoding, NDArray[np.int64]]:
    """Encodings of few small numbers, so that scores tie all the time; three captions an image, shuffled."""
    generator = np.random.default_rng(seed)
    owner = generator.permutation(np.arange(n_texts) * n_images // n_texts)
    images = generator.integers(-1, 2, (n_images, 3))
    texts = images[owner] + generator.integers(-1, 2, (n_texts, 3))
    return Encoding(torch.tensor(images).float()), Encoding(torch.tensor(texts).float()), owner


Drawn = NDArray[np.int64]
"""(orders, n_queries) ranks of the first positive."""

ORDERS = 500


def by_sorting(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> Drawn:
    """The ranks of the first positive, the ties put in random order again and again."""
    generator = np.random.default_rng(0)
    ranks = []
    for _ in range(ORDERS):
        shuffled = generator.permutation(scores.shape[1])
        order = shuffled[np.argsort(-scores[:, shuffled], axis=1, kind="stable")]
        sorted_positive = np.take_along_axis(positive, order, 1)
        # Another positive above the best one there is cannot be: they are the best ones.
        wrong_above = np.cumsum(~sorted_positive, 1)
        first = sorted_positive.argmax(1)
        ranks.append(1 + wrong_above[np.arange(len(scores)), first])
    return np.stack(ranks)


def assert_metrics(metrics: dict[str, float], folds: list[Drawn], side: str) -> None:
    """Within five standard errors of what the orders give; recalls and ranks are means over the folds."""
    of_orders = {f"R@{k}": [100 * (drawn <= k).mean(1) for drawn in folds] for k in (1, 5, 10)}
    of_orders["MeanR"] = [drawn.mean(1) for drawn in folds]
    for name, values in of_orders.items():
        drawn = np.mean(values, axis=0)
        error = drawn.std(ddof=1) / np.sqrt(ORDERS)
        assert metrics[f"{side}/{name}"] == pytest.approx(drawn.mean(), abs=5 * error + 1e-9), (side, name)
    # An expected rank is known up to its own error, and MedR is rounded down.
    bounds = []
    for sign in (-1, 1):
        ranks = [
            drawn.mean(0) + sign * (5 * drawn.std(0, ddof=1) / np.sqrt(ORDERS) + 1e-9) for drawn in folds
        ]
        bounds.append(np.mean([np.floor(np.median(each)) for each in ranks]))
    assert bounds[0] <= metrics[f"{side}/MedR"] <= bounds[1], (side, "MedR", bounds)


@pytest.mark.parametrize("seed", range(3))
def test_ties_and_several_positives_agree_with_random_orders(seed: int) -> None:
    images, texts, owner = coarse(seed)
    scores = dot(images, texts).numpy()
    generator = np.random.default_rng(seed)
    own = owner[None] == np.arange(30)[:, None]
    positive = own | (generator.random((30, 90)) < 0.03)
    pairs = PositivePairs.of(np.argwhere(positive), 30, 90)
    for relevant, found in (
        (own, [evaluate(RECALL, images, texts, dot, owner)]),
        (positive, [evaluate(PAIRS, images, texts, dot, each, positives=pairs) for each in (owner, None)]),
    ):
        for side, drawn in (("i2t", by_sorting(scores, relevant)), ("t2i", by_sorting(scores.T, relevant.T))):
            for evaluation in found:
                assert_metrics(evaluation.metrics, [drawn], side)


def test_five_folds_with_ties_agree_with_random_orders() -> None:
    images, texts, owner = coarse(5)
    scores = dot(images, texts).numpy()
    own = owner[None] == np.arange(30)[:, None]
    same_fold = owner[None] // 6 == np.arange(30)[:, None] // 6
    positive = own | (same_fold & (np.random.default_rng(5).random((30, 90)) < 0.1))
    pairs = PositivePairs.of(np.argwhere(positive), 30, 90)
    for relevant, found in (
        (own, evaluate(replace(RECALL, folds=5), images, texts, dot, owner)),
        (positive, evaluate(replace(PAIRS, folds=5), images, texts, dot, owner, positives=pairs)),
    ):
        of_images, of_texts = [], []
        for start in range(0, 30, 6):
            rows = np.arange(start, start + 6)
            block = np.ix_(rows, np.flatnonzero((owner >= start) & (owner < start + 6)))
            of_images.append(by_sorting(scores[block], relevant[block]))
            of_texts.append(by_sorting(scores[block].T, relevant[block].T))
        assert_metrics(found.metrics, of_images, "i2t")
        assert_metrics(found.metrics, of_texts, "t2i")


def test_folds_take_the_pairs_of_their_galleries() -> None:
    images, texts, owner = coarse(7)
    own = PositivePairs.of(np.stack([owner, np.arange(90)], 1), 30, 90)
    plain = evaluate(replace(RECALL, folds=3), images, texts, dot, owner)
    by_pairs = evaluate(replace(PAIRS, folds=3), images, texts, dot, owner, positives=own)
    assert plain.metrics == by_pairs.metrics


def test_a_collapsed_model_scores_chance() -> None:
    flat = Encoding(torch.ones(40, 4)), Encoding(torch.ones(200, 4))
    owner = np.arange(200) // 5
    metrics = evaluate(RECALL, flat[0], flat[1], dot, owner).metrics
    assert metrics["t2i/R@1"] == pytest.approx(100 / 40)
    assert metrics["t2i/R@10"] == pytest.approx(1000 / 40)
    assert metrics["i2t/R@1"] == pytest.approx(100 * 5 / 200)
    assert metrics["t2i/MeanR"] == metrics["t2i/MedR"] + 0.5 == pytest.approx(20.5)


def test_without_ties_it_is_an_argsort() -> None:
    generator = np.random.default_rng(3)
    scores = generator.permutation(40 * 120).reshape(40, 120).astype(np.float64)
    owner = np.arange(120) // 3
    ranks = retrieval_ranks(scores, owner)
    order = np.argsort(-scores.T, axis=1)
    np.testing.assert_array_equal(ranks.t2i, 1 + np.argmax(order == owner[:, None], axis=1))
    for k in (1, 5, 10):
        np.testing.assert_array_equal(ranks.of("t2i").hit_probability(k), ranks.t2i <= k)


Threads = Callable[[int, Callable[[int, Callable[[Tensor], Tensor]], Ranks]], list[Ranks]]


@pytest.mark.parametrize("world_size", [2, 3])
def test_pairs_give_the_same_for_every_world_size(in_processes: Threads, world_size: int) -> None:
    images, texts, owner = coarse(11, 50, 130)
    drawn = np.random.default_rng(0).integers(0, (50, 130), (200, 2))
    pairs = PositivePairs.of(drawn, 50, 130)
    alone = streamed_ranks(images, texts, dot, owner, positives=pairs, image_tile=16, text_tile=32)

    def work(rank: int, reduce: Callable[[Tensor], Tensor]) -> Ranks:
        return streamed_ranks(
            images,
            texts,
            dot,
            owner,
            positives=pairs,
            image_tile=16,
            text_tile=32,
            rank=rank,
            world_size=world_size,
            reduce=reduce,
        )

    whole = retrieval_ranks(dot(images, texts), owner, positives=pairs)
    for ranks in (*in_processes(world_size, work), whole):
        for name, values in alone.arrays().items():
            np.testing.assert_array_equal(ranks.arrays()[name], values, err_msg=name)
    assert (alone.t2i == 0).any(), "the case needs a text without a positive"


def test_queries_without_a_positive_do_not_count() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.7, 0.6]])
    pairs = PositivePairs.of(np.array([[1, 1], [1, 2], [1, 1]]), 2, 3)
    assert len(pairs) == 2
    ranks = retrieval_ranks(scores, None, positives=pairs)
    assert ranks.i2t.tolist() == [0, 2] and ranks.t2i.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(ranks.t2i_expected, [np.nan, 1, 1])
    images, texts = Encoding(torch.eye(2)), Encoding(torch.tensor(scores.T).float())
    found = evaluate(PAIRS, images, texts, dot, None, positives=pairs)
    assert found.metrics["t2i/R@1"] == 100.0 and found.metrics["i2t/R@1"] == 0.0
    assert found.metrics["i2t/MeanR"] == 2.0


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (np.zeros((0, 2), np.int64), "must be"),
        (np.zeros((3, 3), np.int64), "must be"),
        (np.ones((2, 2)), "integers"),
        (np.array([[0, 0], [2, 0]]), "pair 1 names row 2 of 2 images"),
        (np.array([[0, 0], [1, -1]]), "pair 1 names row -1 of 3 texts"),
    ],
)
def test_pairs_that_do_not_fit_raise(pairs: NDArray[np.int64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PositivePairs.of(pairs, 2, 3)


def test_protocols_get_what_they_go_by_and_nothing_else() -> None:
    images, texts, owner = coarse(1)
    pairs = PositivePairs.of(np.array([[0, 0]]), 30, 90)
    with pytest.raises(ValueError, match="needs positive pairs"):
        evaluate(PAIRS, images, texts, dot, owner)
    with pytest.raises(ValueError, match="defines positives by caption"):
        evaluate(RECALL, images, texts, dot, owner, positives=pairs)
    with pytest.raises(ValueError, match="needs the image of each caption"):
        evaluate(RECALL, images, texts, dot, None)
    with pytest.raises(ValueError, match="needs the image of each caption"):
        evaluate(replace(PAIRS, folds=3), images, texts, dot, None, positives=pairs)
    with pytest.raises(ValueError, match="form a positive pair"):
        evaluate(replace(PAIRS, folds=3), images, texts, dot, owner, positives=pairs)
    with pytest.raises(ValueError, match="not both"):
        streamed_ranks(images, texts, dot, owner, np.arange(30), positives=pairs)


@pytest.mark.parametrize("protocol", [RECALL, BY_LABEL, replace(RECALL, folds=5)])
def test_per_query_results_can_be_read_back(protocol: Protocol, tmp_path: Path) -> None:
    images, texts, owner = coarse(2)
    found = evaluate(protocol, images, texts, dot, owner, np.arange(30) % 4)
    path = tmp_path / "ranks.npz"
    found.save(path, [f"i{row}" for row in range(30)], [f"c{row}" for row in range(90)])
    back = load_query_results(path)
    assert back.families == protocol.families
    assert set(back.per_query) == set(found.per_query)
    for key, values in found.per_query.items():
        np.testing.assert_array_equal(back.per_query[key], values, err_msg=key)
    np.testing.assert_array_equal(back.text_cluster, owner)
    np.testing.assert_array_equal(back.image_cluster, np.arange(30))


def test_results_without_clusters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ranks.npz"
    np.savez(path, i2t=np.ones(3, np.int64))
    with pytest.raises(BadInput, match="earlier version"):
        load_query_results(path)
