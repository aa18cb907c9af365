"""Every positive's rank, counted in the sweep, against sorted lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import retrieval_ranks
from crossmodal_bench.evaluation.ranking.positive_ranks import (
    PositiveRanks,
    average_precision_at_r,
    r_precision,
)
from crossmodal_bench.evaluation.ranking.positives import PositivePairs
from crossmodal_bench.evaluation.ranking.streaming import Question, Sweep, streamed_sweeps

N_IMAGES, N_TEXTS = 50, 130


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def encodings(seed: int, *, tied: bool) -> tuple[Encoding, Encoding]:
    """Vectors of whole numbers, whose products are exact; of few ones where scores are to be tied."""
    generator = np.random.default_rng(seed)
    largest = 1 if tied else 10**6
    images, texts = (
        torch.from_numpy(generator.integers(-largest, largest + 1, (count, 3)).astype(np.float64))
        for count in (N_IMAGES, N_TEXTS)
    )
    return Encoding(images), Encoding(texts)


def drawn_pairs(seed: int) -> PositivePairs:
    """Up to twenty right texts for each image; two thirds of all items are asked."""
    generator = np.random.default_rng(seed)
    pairs = PositivePairs.of(generator.integers(0, (N_IMAGES, N_TEXTS), (500, 2)), N_IMAGES, N_TEXTS)
    images, texts = np.zeros(N_IMAGES, bool), np.zeros(N_TEXTS, bool)
    images[pairs.image[pairs.image % 3 > 0]] = True
    texts[pairs.text[pairs.text % 3 > 0]] = True
    return pairs.asking(images, texts, absent=np.arange(N_IMAGES) % 4)


def by_sorting(
    scores: NDArray[np.float64], pairs: PositivePairs, side: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(R-Precision, AP@R) of each query from its whole list, the wrong one of tied items first."""
    rows, items, asked = pairs.image, pairs.text, pairs.asked_images
    if side == "t2i":
        scores, rows, items, asked = scores.T, pairs.text, pairs.image, pairs.asked_texts
    assert asked is not None and pairs.absent is not None
    precision, average = np.full(len(scores), np.nan), np.full(len(scores), np.nan)
    for query in np.flatnonzero(asked):
        right = np.zeros(scores.shape[1], bool)
        right[items[rows == query]] = True
        total = int(right.sum()) + (int(pairs.absent[query]) if side == "i2t" else 0)
        order = np.lexsort((right, -scores[query]))
        hits = right[order][:total]
        precision[query] = hits.sum() / total
        average[query] = sum(hits[: r + 1].mean() for r in range(len(hits)) if hits[r]) / total
    return precision, average


def swept(seed: int, *, tied: bool, **how: Any) -> Sweep:
    images, texts = encodings(seed, tied=tied)
    (found,) = streamed_sweeps(
        images,
        texts,
        dot,
        None,
        [Question(positives=drawn_pairs(seed), every_positive=True)],
        image_tile=16,
        text_tile=32,
        **how,
    )
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_all_positives_are_ranked_as_in_sorted_lists(seed: int, tied: bool) -> None:
    images, texts = encodings(seed, tied=tied)
    scores, pairs = dot(images, texts).numpy(), drawn_pairs(seed)
    found = swept(seed, tied=tied)
    for side in ("i2t", "t2i"):
        precision, average = by_sorting(scores, pairs, side)
        np.testing.assert_allclose(r_precision(found.positives[side]), precision, atol=1e-12)
        np.testing.assert_allclose(average_precision_at_r(found.positives[side]), average, atol=1e-12)
    whole = retrieval_ranks(scores, None, positives=pairs)
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(found.ranks.arrays()[name], values, err_msg=name)
    assert (whole.i2t[~np.isin(np.arange(N_IMAGES), np.flatnonzero(pairs.asked_images))] == 0).all()


InProcesses = Callable[[int, Callable[[int, Callable[[Tensor], Tensor]], Sweep]], list[Sweep]]


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_world_size_gives_the_same(in_processes: InProcesses, world_size: int) -> None:
    alone = swept(7, tied=True)

    def work(rank: int, reduce: Callable[[Tensor], Tensor]) -> Sweep:
        return swept(7, tied=True, rank=rank, world_size=world_size, reduce=reduce)

    for found in in_processes(world_size, work):
        for side, expected in alone.positives.items():
            for name, values in vars(expected).items():
                np.testing.assert_array_equal(getattr(found.positives[side], name), values, err_msg=name)


def test_texts_that_are_left_out_are_no_answers() -> None:
    images, texts = encodings(3, tied=True)
    scores = dot(images, texts).numpy()
    plain = drawn_pairs(3)
    left_out = np.ones(N_TEXTS, bool)
    left_out[plain.text] = False
    pairs = plain.asking(
        np.isin(np.arange(N_IMAGES), plain.image), np.zeros(N_TEXTS, bool), left_out=left_out
    )
    assert left_out.any()
    question = Question(positives=pairs, every_positive=True)
    (found,) = streamed_sweeps(images, texts, dot, None, [question], image_tile=16, text_tile=32)
    kept = np.flatnonzero(~left_out)
    alone = PositivePairs.of(
        np.stack([pairs.image, np.searchsorted(kept, pairs.text)], 1), N_IMAGES, len(kept)
    )
    ranks = retrieval_ranks(scores[:, kept], None, positives=alone)
    np.testing.assert_array_equal(found.ranks.i2t, ranks.i2t)
    np.testing.assert_array_equal(found.ranks.i2t_top, kept[ranks.i2t_top])
    whole = retrieval_ranks(scores, None, positives=pairs)
    np.testing.assert_array_equal(found.ranks.i2t_top, whole.i2t_top)
    np.testing.assert_array_equal(found.ranks.i2t, whole.i2t)
    assert (found.ranks.t2i == 0).all()


def test_questions_of_one_sweep_are_answered_as_alone() -> None:
    images, texts = encodings(5, tied=True)
    owner = np.arange(N_TEXTS) % N_IMAGES
    pairs = drawn_pairs(5)
    questions = [Question(), Question(positives=pairs), Question(positives=pairs, every_positive=True)]
    together = streamed_sweeps(images, texts, dot, owner, questions, image_tile=16, text_tile=32)
    for question, found in zip(questions, together, strict=True):
        (alone,) = streamed_sweeps(images, texts, dot, owner, [question], image_tile=16, text_tile=32)
        for name, values in alone.ranks.arrays().items():
            np.testing.assert_array_equal(found.ranks.arrays()[name], values, err_msg=name)
        assert found.positives.keys() == alone.positives.keys()
        for side, expected in alone.positives.items():
            np.testing.assert_array_equal(found.positives[side].rank, expected.rank)
    persons = Question(image_identity=np.arange(N_IMAGES)[::-1] // 2)
    with pytest.raises(ValueError, match="in the same order"):
        streamed_sweeps(images, texts, dot, owner, [Question(), persons])


def test_a_direction_in_which_nothing_is_asked_has_no_positives() -> None:
    images, texts = encodings(0, tied=False)
    pairs = PositivePairs.of(np.array([[0, 0], [3, 5]]), N_IMAGES, N_TEXTS)
    asked = np.zeros(N_IMAGES, bool)
    asked[3] = True
    pairs = pairs.asking(asked, np.zeros(N_TEXTS, bool))
    question = Question(positives=pairs, every_positive=True)
    (found,) = streamed_sweeps(images, texts, dot, None, [question])
    assert found.positives["i2t"].query.tolist() == [3] and found.positives["t2i"].query.tolist() == []
    assert np.isnan(r_precision(found.positives["t2i"])).all()


def test_precision_at_r_of_hand_made_lists() -> None:
    # Of query 0 three are right, at ranks 1, 3 and 9; of query 2 two, one of them nowhere in the gallery.
    ranks = PositiveRanks(np.array([0, 0, 0, 2]), np.array([1, 3, 9, 2]), np.array([3, 0, 2]))
    np.testing.assert_allclose(r_precision(ranks), [2 / 3, np.nan, 1 / 2])
    np.testing.assert_allclose(average_precision_at_r(ranks), [(1 + 2 / 3) / 3, np.nan, 1 / 4])


@pytest.mark.parametrize(
    ("query", "rank", "message"),
    [
        ([0, 0], [1], "each positive"),
        ([0, 0], [1, 1], "must not be smaller than its place"),
        ([1], [0], "must not be smaller than its place"),
    ],
)
def test_ranks_that_cannot_be_raise(query: list[int], rank: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PositiveRanks(np.array(query), np.array(rank), np.array([2, 2]))


def test_queries_must_have_an_answer_in_the_gallery() -> None:
    pairs = PositivePairs.of(np.array([[0, 0], [1, 2]]), 2, 3)
    nobody = np.zeros(2, bool)
    with pytest.raises(ValueError, match="text 1 is a query but is in no positive pair"):
        pairs.asking(nobody, np.array([True, True, False]))
    with pytest.raises(ValueError, match="text 2 is correct for an image but excluded from the gallery"):
        pairs.asking(nobody, np.zeros(3, bool), left_out=np.array([False, False, True]))
