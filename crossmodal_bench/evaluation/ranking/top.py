"""The best k of a gallery, with ties in gallery order however the gallery is split."""

from __future__ import annotations

import torch
from torch import Tensor


def ordered_top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of each row, (rows, min(k, columns)) scores and indices; ties in column order.

    ``torch.topk`` picks any of the tied columns at the cut, which would depend on how a gallery is split.
    """
    k = min(k, scores.shape[1])
    indices = scores.topk(k, dim=1).indices.sort(dim=1).values
    values, order = scores.gather(1, indices).sort(dim=1, descending=True, stable=True)
    indices = indices.gather(1, order)
    ambiguous = (scores >= values[:, -1:]).sum(1, dtype=torch.int32) > k
    if ambiguous.any():
        exact, where = scores[ambiguous].sort(dim=1, descending=True, stable=True)
        values[ambiguous], indices[ambiguous] = exact[:, :k], where[:, :k]
    return values, indices


class RunningTop:
    """The k best gallery items of each query so far; galleries must be offered in ascending order."""

    def __init__(self, queries: int, k: int, like: Tensor) -> None:
        self.scores = like.new_full((queries, k), -torch.inf)
        self.indices = torch.zeros(queries, k, dtype=torch.int64, device=like.device)

    def offer(self, start: int, tile: Tensor, gallery_start: int) -> None:
        """Merge ``tile`` (queries from ``start``, gallery from ``gallery_start``)."""
        stop = start + len(tile)
        # A later item that only equals the k-th best comes after it, so strictly better ones are enough.
        worst = self.scores[start:stop, -1]
        if not (tile.amax(1) > worst).any():
            return
        better = tile > worst[:, None]
        counts = better.sum(1, dtype=torch.int32)
        k = self.scores.shape[1]
        if int(counts.max()) > 4 * k:
            values, indices = ordered_top(tile.contiguous(), k)
            query = torch.arange(len(tile), device=tile.device)
        else:
            query = torch.nonzero(counts).flatten()
            values, indices = _listed(tile, better, counts[query])
        rows = start + query
        scores = torch.cat([self.scores[rows], values], 1)
        gallery = torch.cat([self.indices[rows], indices + gallery_start], 1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        self.scores[rows] = scores[:, :k]
        self.indices[rows] = gallery.gather(1, order)[:, :k]


def _listed(tile: Tensor, better: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The columns marked in ``better``, row by row in column order, -inf where a row has fewer than others.

    Once the first tiles are seen only a handful of columns can still enter a list, and finding those is
    several times faster than ``torch.topk`` over whole rows.
    """
    row, column = torch.nonzero(better, as_tuple=True)
    first = torch.cumsum(counts, 0) - counts
    line = torch.repeat_interleave(torch.arange(len(counts), device=row.device), counts)
    slot = torch.arange(len(row), device=row.device) - first[line]
    values = tile.new_full((len(counts), int(counts.max())), -torch.inf)
    indices = torch.zeros(values.shape, dtype=torch.int64, device=row.device)
    values[line, slot] = tile[row, column]
    indices[line, slot] = column
    return values, indices
