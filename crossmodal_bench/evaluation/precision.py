"""Average precision when an item is relevant because it shares a label with the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.evaluation.streaming import Reduce, all_reduce_sum
from crossmodal_bench.evaluation.tiles import NonFiniteScore, ScoreTiles

Labels = NDArray[Any] | Tensor | Sequence[int]
"""(N,) integer classes, or (N, C) multi-hot: two items share a label where both have a non-zero."""

DEFAULT_SCOPES = (1, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
_BLOCK = 2_000_000  # query x gallery pairs in one block: some 100 MB with all temporaries
_SIDES = ("i2t", "t2i")


@dataclass(frozen=True)
class LabelPrecision:
    """Per-query results under label relevance; the keys of the outer dicts are 'i2t' and 't2i'.

    average_precision[side][cutoff]: (n_queries,) float64 in 0..1, NaN for a query without a relevant item;
        cutoff None is the whole list.
    scopes[side], precision[side]: mean precision of the first ``scope`` items, for each scope.
    dropped[side]: how many queries have no relevant item and count in no mean.
    """

    average_precision: dict[str, dict[int | None, NDArray[np.float64]]]
    scopes: dict[str, list[int]]
    precision: dict[str, list[float]]
    dropped: dict[str, int]

    def mean(self, side: str, cutoff: int | None) -> float:
        """mAP of one direction, over the queries that have a relevant item."""
        return float(np.nanmean(self.average_precision[side][cutoff]))


def label_precision(
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    image_labels: Labels,
    text_labels: Labels,
    *,
    cutoffs: Sequence[int | None] = (50, None),
    scopes: Sequence[int] = DEFAULT_SCOPES,
    block: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> LabelPrecision:
    """Average precision and precision-scope curves of both directions.

    AP over the whole list is the mean, over a query's relevant items, of the precision at their rank. AP at k
    is the mean precision at the hits among the first k, 0 without a hit: what the authors' demo of ACMR (Wang
    et al., ACM MM 2017) computes and calls mAP; it divides by the hits, not by min(k, relevant). Tied items
    are ordered against the query, irrelevant first. Scores are compared in fp32.

    ``block`` queries are ranked at once against the whole gallery (default: by memory). Process ``rank``
    takes each world_size-th block. Scopes and cutoffs beyond the gallery mean the whole gallery.

    Raises ValueError for labels that don't fit, a non-finite score, or a direction in which no query has any
    relevant item.
    """
    for number in (*scopes, *(cutoff for cutoff in cutoffs if cutoff is not None)):
        if number < 1:
            raise ValueError(f"scopes and cutoffs start at 1, got {number}")
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
        cuts = [gallery if cutoff is None else min(cutoff, gallery) for cutoff in cutoffs]
        table = _direction(tiles, side, labels, cuts, kept, rank, world_size, total)
        results.append((kept, table))
    return _summary(results, list(cutoffs))


def _direction(
    tiles: ScoreTiles,
    side: str,
    labels: tuple[Tensor, Tensor],
    cuts: list[int],
    scopes: list[int],
    rank: int,
    world_size: int,
    total: Reduce | None,
) -> NDArray[np.float64]:
    """(n_queries, cutoffs + scopes + 1): AP per cutoff, precision per scope, number of relevant items."""
    forward = side == "i2t"
    blocks = tiles.rows if forward else tiles.columns
    others = range(len(tiles.columns if forward else tiles.rows))
    queries, gallery = labels if forward else labels[::-1]
    columns = len(cuts) + len(scopes) + 1
    table = torch.zeros(len(queries), columns, dtype=torch.float64, device=tiles.device)
    # One more row carries a failure to the other processes, which would otherwise wait in the sum for ever.
    failed = torch.zeros(world_size, 2, dtype=torch.int64, device=tiles.device)
    for number in range(rank, len(blocks), world_size):
        try:
            parts = [tiles(number, other) if forward else tiles(other, number).T for other in others]
        except NonFiniteScore as error:
            failed[rank] = torch.tensor([error.image + 1, error.text])
            break
        start, stop = blocks[number]
        table[start:stop] = _block_results(
            torch.cat(parts, 1), _share(queries[start:stop], gallery), cuts, scopes
        )
    if total is not None:
        failed, table = total(failed), total(table)
    for image, text in failed.tolist():
        if image:
            raise NonFiniteScore(image - 1, text)
    return table.cpu().numpy()


def _block_results(scores: Tensor, relevant: Tensor, cuts: list[int], scopes: list[int]) -> Tensor:
    hit = relevance_in_rank_order(scores, relevant)
    hits = hit.cumsum(1)
    position = torch.arange(1, hit.shape[1] + 1, dtype=torch.float64, device=hit.device)
    at_hits = hit * (hits / position)
    columns = [at_hits[:, :cut].sum(1) / hits[:, cut - 1].clamp(min=1) for cut in cuts]
    columns += [hits[:, scope - 1] / scope for scope in scopes]
    columns.append(hits[:, -1])
    return torch.stack([column.double() for column in columns], 1)


def relevance_in_rank_order(scores: Tensor, relevant: Tensor) -> Tensor:
    """(queries, gallery) fp32 ones and zeros: is the item at this rank relevant? Ties: irrelevant first.

    Score and relevance become one integer, so that a single sort of plain values orders both and no index has
    to be carried: a float's bits, read as an integer, are in the float's order once those of negative numbers
    are flipped.
    """
    bits = (scores.float() + 0.0).contiguous().view(torch.int32)  # adding zero makes -0.0 equal to 0.0
    falling = (bits >> 31).bitwise_and_(0x7FFFFFFF).bitwise_xor_(bits).bitwise_not_()
    keys = falling.long().mul_(2).add_(relevant)
    if keys.device.type == "cpu":
        keys.numpy().sort(axis=1)  # NumPy sorts integers some ten times faster than torch on a CPU
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
            raise ValueError(f"{name}_labels must be whole numbers, got {labels.dtype}")
        pair.append((labels if labels.ndim == 1 else (labels != 0).float()).to(device))
    if pair[0].shape[1:] != pair[1].shape[1:]:
        raise ValueError(
            "image and text labels must be of one kind, "
            f"got {tuple(pair[0].shape)} and {tuple(pair[1].shape)}"
        )
    return pair[0], pair[1]


def _summary(
    results: list[tuple[list[int], NDArray[np.float64]]], cutoffs: list[int | None]
) -> LabelPrecision:
    average: dict[str, dict[int | None, NDArray[np.float64]]] = {}
    scopes: dict[str, list[int]] = {}
    precision: dict[str, list[float]] = {}
    dropped: dict[str, int] = {}
    for side, (kept, table) in zip(_SIDES, results, strict=True):
        answerable = table[:, -1] > 0
        if not answerable.any():
            raise ValueError(f"no {side} query shares a label with any item of its gallery")
        table = np.where(answerable[:, None], table, np.nan)
        average[side] = {cutoff: table[:, column].copy() for column, cutoff in enumerate(cutoffs)}
        scopes[side] = kept
        precision[side] = table[answerable, len(cutoffs) : -1].mean(0).tolist()
        dropped[side] = int((~answerable).sum())
    return LabelPrecision(average, scopes, precision, dropped)
