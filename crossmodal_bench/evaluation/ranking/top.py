"""The best k of a gallery, with ties in gallery order however the gallery is split."""

from __future__ import annotations

import torch
from torch import Tensor

_GROUP = 16  # columns that share a maximum


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


class GroupedScores:
    """Scores (queries, gallery), searched by way of the maxima of groups of columns.

    Few of a tile's scores stand above a threshold that matters, and finding them by a comparison of all is
    slow: the maxima cost one pass at the speed of memory, and only groups whose maximum is above the
    threshold are looked into. Columns g, g + n, g + 2n, ... form group g of n, so that each pass runs along
    the memory of a tile as well as of its transpose.
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        width = scores.shape[1]
        self.groups = -(-width // _GROUP)
        self.maxima = scores[:, : self.groups].clone()
        for start in range(self.groups, width, self.groups):
            part = scores[:, start : start + self.groups]
            held = self.maxima[:, : part.shape[1]]
            torch.maximum(held, part, out=held)

    def above(self, threshold: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor] | None:
        """All scores above their row's ``threshold`` (queries,), by row, and within a row in no order.

        Returns:
            Their rows, columns and values, each (n,); None where more than ``most`` groups hold one.
        """
        row, group = torch.nonzero(self.maxima > threshold[:, None], as_tuple=True)
        if len(row) > most:
            return None
        width = self.scores.shape[1]
        columns = group[:, None] + torch.arange(0, width, self.groups, device=group.device)
        values = self.scores[row[:, None], columns.clamp(max=width - 1)]
        above = (values > threshold[row][:, None]) & (columns < width)
        where = torch.nonzero(above.flatten()).flatten()
        row = row[torch.div(where, columns.shape[1], rounding_mode="floor")]
        return row, columns.flatten()[where], values.flatten()[where]


class RunningTop:
    """The k best gallery items of each query so far; galleries must be offered in ascending order."""

    def __init__(self, queries: int, k: int, like: Tensor) -> None:
        self.scores = like.new_full((queries, k), -torch.inf)
        self.indices = torch.zeros(queries, k, dtype=torch.int64, device=like.device)

    def offer(self, start: int, tile: GroupedScores, gallery_start: int) -> None:
        """Merge ``tile`` (queries from ``start``, gallery from ``gallery_start``)."""
        queries, k = len(tile.scores), self.scores.shape[1]
        # A later item that only equals the k-th best comes after it, so strictly better ones are enough.
        threshold = self.scores[start : start + queries, -1]
        if tile.groups >= k and threshold.min() == -torch.inf:
            # As many scores as there are groups at or above the k-th best maximum are at least that.
            least = tile.maxima.topk(k, dim=1).values[:, -1]
            threshold = torch.maximum(threshold, torch.nextafter(least, least.new_tensor(-torch.inf)))
        listed = tile.above(threshold, 4 * k * queries)
        counts = None if listed is None else torch.bincount(listed[0], minlength=queries)
        if listed is None or counts is None or int(counts.max()) > 4 * k:
            values, indices = ordered_top(tile.scores.contiguous(), k)
            query = torch.arange(queries, device=values.device)
        elif not len(listed[0]):
            return
        else:
            query = torch.nonzero(counts).flatten()
            row, column, value = listed
            order = torch.argsort(row * tile.scores.shape[1] + column)
            values, indices = _padded(row[order], column[order], value[order], counts[query])
        rows = start + query
        scores = torch.cat([self.scores[rows], values], 1)
        gallery = torch.cat([self.indices[rows], indices + gallery_start], 1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        self.scores[rows] = scores[:, :k]
        self.indices[rows] = gallery.gather(1, order)[:, :k]


def _padded(row: Tensor, column: Tensor, value: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Values and columns as a line for each row that has any, -inf where a line is shorter than others.

    Args:
        row, column, value: (n,) each, by row and then by column.
        counts: (lines,) how many each of the rows has, none without.
    """
    first = torch.cumsum(counts, 0) - counts
    line = torch.repeat_interleave(torch.arange(len(counts), device=row.device), counts)
    slot = torch.arange(len(row), device=row.device) - first[line]
    values = value.new_full((len(counts), int(counts.max())), -torch.inf)
    indices = torch.zeros(values.shape, dtype=torch.int64, device=row.device)
    values[line, slot] = value
    indices[line, slot] = column
    return values, indices
