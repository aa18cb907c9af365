"""What a tested model retrieves for a few queries in each direction, for display: successes and failures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import Ranks
from crossmodal_bench.evaluation.items import EvaluatedItems
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.evaluation.ranking.query_ranks import Side
from crossmodal_bench.methods import RetrievalMethod

SHOWN = 4
"""Queries shown per direction: as many successes as failures if there are enough of both."""
TOP = 5
"""Retrieved items shown per query."""
TRIED = 32
"""Queries to choose from if a protocol ranks classes rather than single queries."""


@dataclass(frozen=True)
class RetrievedItems:
    """What n queries in one direction retrieve: captions for images, or images for captions.

    Attributes:
        queries: (n,) their positions in the split; successes first.
        top: (n, <= 5) positions of the top-ranked gallery items, best first.
        right: (n, <= 5) which of these are correct.
        best: (n,) strict 1-based rank of the best correct item; 1 is a success.
    """

    queries: NDArray[np.int64]
    top: NDArray[np.int64]
    right: NDArray[np.bool_]
    best: NDArray[np.int64]


def shown_retrieval(
    model: RetrievalMethod,
    images: Encoding,
    texts: Encoding,
    items: EvaluatedItems,
    protocol: Protocol,
    ranks: Ranks | None,
) -> dict[Side, RetrievedItems]:
    """What is retrieved for the queries that are shown.

    Args:
        model: scores the pairs.
        images, texts: the encodings of ``items``.
        items: what was searched; every caption belongs to one image.
        protocol: decides what is correct.
        ranks: of every query; None if the protocol does not rank queries: then a few are scored here.
    """
    assert items.owner is not None
    kinds = _kinds(items, protocol)
    of_texts = kinds[items.owner]
    found: dict[Side, RetrievedItems] = {}
    if ranks is not None:
        found["i2t"] = _of_ranks(ranks.i2t, ranks.i2t_top, kinds, of_texts)
        found["t2i"] = _of_ranks(ranks.t2i, ranks.t2i_top, of_texts, kinds)
        return found
    tried_images = _spread(np.arange(len(images)), TRIED)
    tried_texts = _spread(np.arange(len(texts)), TRIED)
    with torch.no_grad():
        scores = model.score(images.take(_rows(tried_images, images)), texts).float().cpu().numpy()
        found["i2t"] = _of_scores(scores, tried_images, kinds, of_texts)
        scores = model.score(images, texts.take(_rows(tried_texts, texts))).float().cpu().numpy().T
        found["t2i"] = _of_scores(scores, tried_texts, of_texts, kinds)
    return found


def _kinds(items: EvaluatedItems, protocol: Protocol) -> NDArray[np.int64]:
    """(n_images,) or (n_images, C): what an image shares with all items that are correct for it."""
    if protocol.positives == "identity" and items.identities is not None:
        return items.identities
    if protocol.positives == "label" and items.labels is not None:
        return np.asarray(items.labels, dtype=np.int64)
    return np.arange(len(items.image_ids))


def _right(query: NDArray[np.int64], gallery: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which items of a gallery are correct for a query, by what they share with it."""
    if query.ndim:
        return gallery @ query > 0
    return gallery == query


def _of_ranks(
    best: NDArray[np.int64],
    top: NDArray[np.int64],
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
) -> RetrievedItems:
    chosen = _successes_and_failures(best)
    shown = top[chosen][:, :TOP]
    right = [_right(queries[query], gallery[row]) for query, row in zip(chosen, shown, strict=True)]
    return RetrievedItems(chosen, shown, np.array(right, dtype=bool).reshape(shown.shape), best[chosen])


def _of_scores(
    scores: NDArray[np.float32],
    tried: NDArray[np.int64],
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
) -> RetrievedItems:
    right = np.array([_right(queries[query], gallery) for query in tried])
    ceiling = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    # As ranks are computed elsewhere: other positives do not count against the best one, tied negatives do.
    best = np.where(right.any(axis=1), 1 + ((scores >= ceiling) & ~right).sum(axis=1), 0)
    chosen = _successes_and_failures(best)
    top = np.argsort(-scores[chosen], axis=1, kind="stable")[:, :TOP]
    return RetrievedItems(tried[chosen], top, np.take_along_axis(right[chosen], top, axis=1), best[chosen])


def _successes_and_failures(best: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of SHOWN queries, evenly spread over the successes, then over the failures."""
    hits, misses = np.flatnonzero(best == 1), np.flatnonzero(best > 1)
    half = SHOWN // 2
    first = min(len(hits), max(half, SHOWN - len(misses)))
    return np.concatenate([_spread(hits, first), _spread(misses, SHOWN - first)])


def _spread(positions: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most ``count`` of the positions, evenly spread."""
    steps = np.linspace(0, len(positions) - 1, min(count, len(positions)))
    return positions[np.unique(steps.round().astype(np.int64))]


def _rows(positions: NDArray[np.int64], encoding: Encoding) -> torch.Tensor:
    return torch.as_tensor(positions, device=encoding.values.device)
