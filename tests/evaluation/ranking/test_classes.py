from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import ClassRetrieval, class_retrieval
from crossmodal_bench.evaluation.ranking.classes import class_means
from crossmodal_bench.evaluation.ranking.precision import precision_at

Threads = Callable[[int, Callable[[int, Callable[[Tensor], Tensor]], ClassRetrieval]], list[ClassRetrieval]]


MEASURES = {"precision": partial(precision_at, cutoff=50)}


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def problem(
    seed: int, n_images: int = 90, n_classes: int = 7
) -> tuple[Encoding, Encoding, NDArray[np.int64], NDArray[np.int64]]:
    """Coarse vectors (many ties), uneven classes with gaps between their numbers, captions in no order."""
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(500, n_classes, replace=False))[rng.integers(0, n_classes, n_images)]
    owner = rng.permutation(np.concatenate([np.arange(n_images), rng.integers(0, n_images, 2 * n_images)]))
    images = torch.from_numpy(rng.integers(-2, 3, (n_images, 4))).float()
    texts = images[torch.from_numpy(owner)] + torch.from_numpy(rng.integers(-1, 2, (len(owner), 4)))
    # The same for all texts of a class: the means are whole numbers, and the scores exact.
    first = [int(np.flatnonzero(np.equal(labels[owner], label))[0]) for label in labels[owner]]
    return Encoding(images), Encoding(texts[first]), owner, labels


def naive(
    scores: NDArray[np.float64], labels: NDArray[np.int64], cutoff: int = 50
) -> tuple[list[float], list[float]]:
    """(n_images, n_classes) scores: precision per class and hit per image, wrong answers first among ties."""
    classes = sorted(set(labels.tolist()))
    precision = []
    for column, label in enumerate(classes):
        ranking = sorted(range(len(labels)), key=lambda i: (-scores[i, column], labels[i] == label))
        best = ranking[:cutoff]
        precision.append(sum(labels[i] == label for i in best) / len(best))
    hits = []
    for row, label in zip(scores, labels, strict=True):
        own = row[classes.index(label)]
        hits.append(
            float(all(own > other for name, other in zip(classes, row, strict=True) if name != label))
        )
    return precision, hits


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [None, 1, 3])
@pytest.mark.parametrize("n_images", [90, 31])
def test_agrees_with_loops_over_queries(seed: int, block: int | None, n_images: int) -> None:
    images, texts, owner, labels = problem(seed, n_images)
    classes = np.unique(labels)
    means = np.stack([texts.values.numpy()[labels[owner] == label].mean(0) for label in classes])
    precision, hits = naive(images.values.numpy() @ means.T, labels)
    found = class_retrieval(images, texts, dot, owner, labels, measures=MEASURES, block=block)
    assert found.classes.tolist() == classes.tolist()
    np.testing.assert_allclose(found.per_class["precision"], precision)
    assert found.first.tolist() == hits


def test_by_hand() -> None:
    # 60 images of class 3 point to the right and 40 of class 8 to the left, but 10 of these point further to
    # the right than any other. The mean texts are (1, 0) and (-1, 0); their single texts are far apart.
    right = torch.stack([torch.linspace(1, 2, 60), torch.zeros(60)], 1)
    left = torch.stack([torch.linspace(-2, -1, 30), torch.zeros(30)], 1)
    astray = torch.tensor([[5.0, 0.0]]).repeat(10, 1)
    images = Encoding(torch.cat([right, left, astray]))
    labels = np.array([3] * 60 + [8] * 40)
    owner = np.concatenate([np.arange(100), np.arange(100)])
    sign = torch.from_numpy(np.where(labels == 3, 1.0, -1.0)).float()
    up, down = torch.stack([sign, sign + 20], 1), torch.stack([sign, -sign - 20], 1)
    texts = Encoding(torch.cat([up, down]))
    found = class_retrieval(images, texts, dot, owner, labels, measures=MEASURES)
    # Class 3: the 10 astray come first, then 40 of its own. Class 8: its 30, then 20 of class 3.
    assert found.per_class["precision"].tolist() == [0.8, 0.6]
    assert found.first.tolist() == [1.0] * 90 + [0.0] * 10


def test_texts_count_each_alike_and_half_precision_is_averaged_in_full() -> None:
    # One image of the class has three texts and the other one: the mean is over texts, not over images.
    values = torch.tensor([[1.0], [4.0], [1.0], [1.0], [512.0]], dtype=torch.bfloat16)
    means = class_means(Encoding(values), torch.tensor([1, 1, 1, 1, 0]), 2)
    assert means.values.tolist() == [[512.0], [1.75]] and means.values.dtype == torch.float32
    many = torch.ones(1001, 1, dtype=torch.bfloat16)
    many[0] = 2.0
    assert class_means(
        Encoding(many), torch.zeros(1001, dtype=torch.int64), 1
    ).values.item() == pytest.approx(1002 / 1001)


def test_a_collapsed_embedding_finds_nothing_that_it_need_not() -> None:
    ones = torch.ones(120, 3)
    labels = np.arange(120) % 2
    found = class_retrieval(Encoding(ones), Encoding(ones), dot, np.arange(120), labels, measures=MEASURES)
    assert found.per_class["precision"].tolist() == [0.0, 0.0] and not found.first.any()
    # 10 images of one class: of the 20 there are, half are right in any order.
    small = class_retrieval(
        Encoding(ones[:20]), Encoding(ones[:20]), dot, np.arange(20), labels[:20], measures=MEASURES
    )
    assert small.per_class["precision"].tolist() == [0.5, 0.5] and not small.first.any()


def test_a_single_class_is_always_right() -> None:
    images, texts, owner, _ = problem(0)
    found = class_retrieval(images, texts, dot, owner, np.full(90, 4), measures=MEASURES)
    assert found.per_class["precision"].tolist() == [1.0] and found.first.all()


@pytest.mark.parametrize("world_size", [2, 3])
def test_world_sizes_give_the_same_digits(world_size: int, in_processes: Threads) -> None:
    images, texts, owner, labels = problem(5, n_images=103)
    images, texts = Encoding(images.values + 0.1), Encoding(texts.values + 0.3)
    alone = class_retrieval(images, texts, dot, owner, labels, measures=MEASURES, block=2)

    def work(rank: int, reduce: Callable[[Tensor], Tensor]) -> ClassRetrieval:
        return class_retrieval(
            images,
            texts,
            dot,
            owner,
            labels,
            measures=MEASURES,
            block=2,
            rank=rank,
            world_size=world_size,
            reduce=reduce,
        )

    for found in in_processes(world_size, work):
        np.testing.assert_array_equal(found.classes, alone.classes)
        np.testing.assert_array_equal(found.per_class["precision"], alone.per_class["precision"])
        np.testing.assert_array_equal(found.first, alone.first)


def test_a_non_finite_score_raises_on_every_process(in_processes: Threads) -> None:
    images, texts, owner, labels = problem(0)
    images.values[41] = float("nan")

    def work(rank: int, reduce: Callable[[Tensor], Tensor]) -> ClassRetrieval:
        return class_retrieval(
            images,
            texts,
            dot,
            owner,
            labels,
            measures=MEASURES,
            block=6,
            rank=rank,
            world_size=3,
            reduce=reduce,
        )

    with pytest.raises(ValueError, match="row 41, column"):
        class_retrieval(images, texts, dot, owner, labels, measures=MEASURES)
    with pytest.raises(ValueError, match="row 41, column"):
        in_processes(3, work)


def test_wrong_calls_raise() -> None:
    images, texts, owner, labels = problem(0)
    ragged = Encoding(texts.values, torch.full((90,), 3))
    with pytest.raises(ValueError, match="each text must be one vector"):
        class_retrieval(images, ragged, dot, np.arange(90), labels, measures=MEASURES)
    with pytest.raises(ValueError, match="each text must be one vector"):
        class_retrieval(images, Encoding(texts.values[:, None]), dot, owner, labels, measures=MEASURES)
    for wrong in (labels[:-1], np.eye(90, 4, dtype=np.int64), labels.astype(np.float32)):
        with pytest.raises(ValueError, match="one integer label for each of 90 images"):
            class_retrieval(images, texts, dot, owner, wrong, measures=MEASURES)
