"""Precision of rankings in which an item is relevant because it shares a label with the query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.evaluation.ranking.streaming import Reduce, all_reduce_sum
from crossmodal_bench.evaluation.ranking.tiles import NonFiniteScore, ScoreTiles

Labels = NDArray[Any] | Tensor | Sequence[int]
"""(N,) integer classes, or (N, C) multi-hot: two items share a label if both have a non-zero in a column."""

DEFAULT_SCOPES = (1, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
_BLOCK = 2_000_000  # query x gallery pairs per block: about 100 MB with all temporaries
_SIDES = ("i2t", "t2i")


@dataclass(frozen=True)
class RankedRelevance:
    """Which items are relevant, rank by rank, for a block of queries: the input of ranking measures.

    relevant: (queries, gallery) fp32, 1 if the item at this rank is relevant to the query, else 0.
    """

    relevant: Tensor

    @cached_property
    def hits(self) -> Tensor:
        """(queries, gallery) number of relevant items down to each rank."""
        return self.relevant.cumsum(1)

    @cached_property
    def precision_at_hits(self) -> Tensor:
        """(queries, gallery) float64 precision down to each rank with a relevant item, 0 at other ranks."""
        ranks = torch.arange(1, self.relevant.shape[1] + 1, dtype=torch.float64, device=self.relevant.device)
        return self.relevant * (self.hits / ranks)


Measure = Callable[[RankedRelevance], Tensor]
"""(queries,) a number for each query of a block."""


def average_precision(ranking: RankedRelevance, cutoff: int | None = None) -> Tensor:
    """(queries,) AP of the first ``cutoff`` items, of the whole list by default.

    AP over the whole list is the mean, over a query's relevant items, of the precision at their rank. AP at k
    is the mean precision at the hits among the first k, 0 without a hit, as ACMR's demo code (Wang et al.,
    ACM MM 2017) computes it and calls it mAP; it divides by the number of hits, not by min(k, relevant). A
    cutoff beyond the gallery means the whole gallery.
    """
    gallery = ranking.relevant.shape[1]
    last = gallery if cutoff is None else min(cutoff, gallery)
    return ranking.precision_at_hits[:, :last].sum(1) / ranking.hits[:, last - 1].clamp(min=1)


def precision_at(ranking: RankedRelevance, cutoff: int) -> Tensor:
    """(queries,) float64 share of relevant items in the top ``cutoff``, or in all of a smaller gallery."""
    return ranking.relevant[:, :cutoff].double().mean(1)


@dataclass(frozen=True)
class LabelPrecision:
    """Per-query results under label relevance; the keys of the outer dicts are 'i2t' and 't2i'.

    per_query[side][measure]: (n_queries,) float64, NaN for a query without a relevant item.
    scopes[side], precision[side]: mean precision of the first ``scope`` items, for each scope.
    dropped[side]: number of queries without any relevant item, which count in no mean.
    """

    per_query: dict[str, dict[str, NDArray[np.float64]]]
    scopes: dict[str, list[int]]
    precision: dict[str, list[float]]
    dropped: dict[str, int]


def label_precision(
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    image_labels: Labels,
    text_labels: Labels,
    *,
    measures: Mapping[str, Measure],
    scopes: Sequence[int] = DEFAULT_SCOPES,
    block: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> LabelPrecision:
    """Measures of each query's ranking, and precision-scope curves, in both directions.

    Tied items are ordered against the query, irrelevant first. Scores are compared in fp32.

    ``measures`` by name, such as ``average_precision``. ``block`` queries at a time are ranked against the
    whole gallery (default: by memory). Process ``rank`` takes each world_size-th block. Scopes beyond the
    gallery mean the whole gallery.

    Raises ValueError for labels that don't fit, a non-finite score, or a direction in which no query has any
    relevant item.
    """
    for scope in scopes:
        if scope < 1:
            raise ValueError(f"scopes start at 1, got {scope}")
    total = reduce if reduce is not None else (all_reduce_sum if world_size > 1 else None)
    labels = _label_pair(image_labels, text_labels, len(images), len(texts), device or images.values.device)
    results = []
    for side, gallery in zip(_SIDES, (len(texts), len(images)), strict=True):
        size = block if block is not None else max(1, min(512, _BLOCK // gallery))
        tiles = ScoreTiles(
            images,
            texts,
            score,
            image_tile=size if side == "i2t" else None,
            text_tile=size if side == "t2i" else None,
            device=device,
        )
        kept = sorted({min(scope, gallery) for scope in scopes})
        table = _direction(tiles, side, labels, list(measures.values()), kept, rank, world_size, total)
        results.append((kept, table))
    return _summary(results, list(measures))


def _direction(
    tiles: ScoreTiles,
    side: str,
    labels: tuple[Tensor, Tensor],
    measures: list[Measure],
    scopes: list[int],
    rank: int,
    world_size: int,
    total: Reduce | None,
) -> NDArray[np.float64]:
    """(n_queries, measures + scopes + 1): each measure, precision per scope, number of relevant items."""
    forward = side == "i2t"
    blocks = tiles.rows if forward else tiles.columns
    others = range(len(tiles.columns if forward else tiles.rows))
    queries, gallery = labels if forward else labels[::-1]
    columns = len(measures) + len(scopes) + 1
    table = torch.zeros(len(queries), columns, dtype=torch.float64, device=tiles.device)
    # One more row reports a failure to the other processes, which would otherwise wait in the sum forever.
    failed = torch.zeros(world_size, 2, dtype=torch.int64, device=tiles.device)
    for number in range(rank, len(blocks), world_size):
        try:
            parts = [tiles(number, other) if forward else tiles(other, number).T for other in others]
        except NonFiniteScore as error:
            failed[rank] = torch.tensor([error.image + 1, error.text])
            break
        start, stop = blocks[number]
        table[start:stop] = _block_results(
            torch.cat(parts, 1), _share(queries[start:stop], gallery), measures, scopes
        )
    if total is not None:
        failed, table = total(failed), total(table)
    for image, text in failed.tolist():
        if image:
            raise NonFiniteScore(image - 1, text)
    return table.cpu().numpy()


def _block_results(scores: Tensor, relevant: Tensor, measures: list[Measure], scopes: list[int]) -> Tensor:
    ranking = RankedRelevance(relevance_in_rank_order(scores, relevant))
    columns = [measure(ranking) for measure in measures]
    columns += [ranking.hits[:, scope - 1] / scope for scope in scopes]
    columns.append(ranking.hits[:, -1])
    return torch.stack([column.double() for column in columns], 1)


def relevance_in_rank_order(scores: Tensor, relevant: Tensor) -> Tensor:
    """(queries, gallery) fp32 ones and zeros: is the item at this rank relevant? Ties: irrelevant first.

    Score and relevance become one integer, so that a single sort of plain values orders both and no index
    needs to be carried: a float's bits, read as an integer, sort like the float once those of negative
    numbers are flipped.
    """
    bits = (scores.float() + 0.0).contiguous().view(torch.int32)  # adding zero makes -0.0 equal to 0.0
    falling = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits).bitwise_not_()
    keys = falling.long().mul_(2).add_(relevant)
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)  # NumPy sorts integers about ten times faster than torch on a CPU
    else:
        keys = keys.sort(dim=1).values
    return keys.bitwise_and_(1).float()


def _share(queries: Tensor, gallery: Tensor) -> Tensor:
    if queries.ndim == 1:
        return queries[:, None] == gallery[None, :]
    return queries @ gallery.T > 0


def _label_pair(
    image_labels: Labels, text_labels: Labels, n_images: int, n_texts: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    pair = []
    for name, given, count in (("image", image_labels, n_images), ("text", text_labels, n_texts)):
        labels = torch.as_tensor(given)
        if len(labels) != count or labels.ndim not in (1, 2):
            raise ValueError(
                f"{name}_labels must be ({count},) classes or ({count}, C) multi-hot, "
                f"got {tuple(labels.shape)}"
            )
        if labels.ndim == 1 and (labels.is_floating_point() or labels.dtype == torch.bool):
            raise ValueError(f"{name}_labels must be integers, got {labels.dtype}")
        pair.append((labels if labels.ndim == 1 else (labels != 0).float()).to(device))
    if pair[0].shape[1:] != pair[1].shape[1:]:
        raise ValueError(
            "image and text labels must be of the same kind, "
            f"got {tuple(pair[0].shape)} and {tuple(pair[1].shape)}"
        )
    return pair[0], pair[1]


def _summary(results: list[tuple[list[int], NDArray[np.float64]]], measures: list[str]) -> LabelPrecision:
    per_query: dict[str, dict[str, NDArray[np.float64]]] = {}
    scopes: dict[str, list[int]] = {}
    precision: dict[str, list[float]] = {}
    dropped: dict[str, int] = {}
    for side, (kept, table) in zip(_SIDES, results, strict=True):
        answerable = table[:, -1] > 0
        if not answerable.any():
            raise ValueError(f"no {side} query shares a label with any item of its gallery")
        table = np.where(answerable[:, None], table, np.nan)
        per_query[side] = {name: table[:, column].copy() for column, name in enumerate(measures)}
        scopes[side] = kept
        precision[side] = table[answerable, len(measures) : -1].mean(0).tolist()
        dropped[side] = int((~answerable).sum())
    return LabelPrecision(per_query, scopes, precision, dropped)
