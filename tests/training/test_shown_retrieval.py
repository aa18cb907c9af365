"""Which queries are shown, what they retrieve, and what is right: against a naive ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation.items import EvaluatedItems
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS, Protocol
from crossmodal_bench.evaluation.ranking.streaming import streamed_ranks
from crossmodal_bench.training.shown_retrieval import RetrievedItems, shown_retrieval

IMAGES, PER_IMAGE = 30, 2
OWNER = np.repeat(np.arange(IMAGES), PER_IMAGE)
IDENTITIES = np.arange(IMAGES) // 3
CLASSES = np.eye(5, dtype=np.int64)[np.arange(IMAGES) % 5]
CLASSES[::4, 1] = 1


class Cosine:
    """The part of a method that is asked."""

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        return images.values @ texts.values.T


def items(**changes: Any) -> EvaluatedItems:
    names = [f"image {row}" for row in range(IMAGES)]
    captions = [f"caption {row}" for row in range(len(OWNER))]
    return replace(EvaluatedItems(names, captions, OWNER, captions), **changes)


def vectors(noise: float) -> tuple[Encoding, Encoding]:
    source = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 8, generator=source)
    texts = images[OWNER] + noise * torch.randn(len(OWNER), 8, generator=source)
    return Encoding(F.normalize(images)), Encoding(F.normalize(texts))


def shown(
    noise: float, of_items: EvaluatedItems, protocol: Protocol, ranked: bool
) -> dict[Any, RetrievedItems]:
    images, texts = vectors(noise)
    identities = of_items.identities if protocol.positives == "identity" else None
    ranks = streamed_ranks(images, texts, Cosine().score, OWNER, identities) if ranked else None
    return shown_retrieval(Cosine(), images, texts, of_items, protocol, ranks)  # type: ignore[arg-type]


def naive(scores: NDArray[np.float32], right: Sequence[bool] | NDArray[np.bool_]) -> tuple[list[int], int]:
    """The best five, and the rank of the best right item among it and the wrong ones."""
    order = sorted(range(len(scores)), key=lambda item: -scores[item])
    first = next(item for item in order if right[item])
    wrong_before = [item for item in order[: order.index(first)] if not right[item]]
    return order[:5], 1 + len(wrong_before)


CASES = [
    ("flickr8k-1k", items(), True),
    ("cuhk-pedes", items(identities=IDENTITIES), True),
    ("cub-ap50", items(labels=IDENTITIES), False),
    ("cub-ap50", items(labels=CLASSES), False),
]


@pytest.mark.parametrize(("protocol", "of_items", "ranked"), CASES)
def test_what_is_shown_is_what_a_naive_ranking_finds(
    protocol: str, of_items: EvaluatedItems, ranked: bool
) -> None:
    images, texts = vectors(1.5)
    scores = (images.values @ texts.values.T).numpy()
    if protocol == "flickr8k-1k":
        related = np.eye(IMAGES, dtype=bool)
    elif of_items.labels is not None and of_items.labels.ndim == 2:
        related = of_items.labels @ of_items.labels.T > 0
    else:
        related = IDENTITIES[:, None] == IDENTITIES
    found = shown(1.5, of_items, PROTOCOLS[protocol], ranked)
    for side, matrix, right in (
        ("i2t", scores, related[:, OWNER]),
        ("t2i", scores.T, related[:, OWNER].T),
    ):
        part = found[side]
        assert len(part.queries) == 4
        for index, query in enumerate(part.queries):
            top, rank = naive(matrix[query], right[query])
            assert part.top[index].tolist() == top
            assert part.right[index].tolist() == [bool(right[query][item]) for item in top]
            assert part.best[index] == rank


@pytest.mark.parametrize("ranked", [True, False])
def test_successes_come_first_and_failures_are_shown_where_there_are_any(ranked: bool) -> None:
    protocol = PROTOCOLS["flickr8k-1k"]
    mixed = shown(1.5, items(), protocol, ranked)["t2i"].best
    assert (mixed[:2] == 1).all() and (mixed[2:] > 1).all()
    perfect = shown(0.0, items(), protocol, ranked)["i2t"]
    assert (perfect.best == 1).all() and len(set(perfect.queries)) == 4
    hopeless = shown(1e4, items(), protocol, ranked)["i2t"].best
    assert len(hopeless) == 4 and (hopeless > 1).sum() >= 2


def test_a_query_without_anything_right_is_not_shown() -> None:
    labels = np.eye(IMAGES, dtype=np.int64)
    labels[5:] = 0
    found = shown(1.5, items(labels=labels), PROTOCOLS["cub-ap50"], ranked=False)
    assert set(found["i2t"].queries) <= set(range(5))
    assert set(OWNER[found["t2i"].queries]) <= set(range(5))
