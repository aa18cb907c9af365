"""The best k of a gallery, with ties in gallery order however the gallery is split."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_GROUP = 16  # columns per maximum


def ordered_top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best columns of each row, (rows, min(k, columns)) scores and indices; ties in column order.

    ``torch.topk`` picks any of the columns tied at the cut, which would depend on how a gallery is split.
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


class Places:
    """The places in a tile (queries, gallery) with a score of at least its query's ``floor`` (queries,).

    Attributes:
        query, item: (n,) rows and columns, by row and then by column.
        score: (n,) the scores there.
    """

    def __init__(self, tile: Tensor, query: Tensor, item: Tensor) -> None:
        self.query, self.item = query, item
        # Gathering by flat indices is several times faster than by pairs of them.
        down, along = tile.stride()
        extent = (tile.shape[0] - 1) * down + (tile.shape[1] - 1) * along + 1
        self.score = tile.as_strided((extent,), (1,)).index_select(0, query * down + item * along)

    @classmethod
    def find(cls, tile: Tensor, floor: Tensor, most: int) -> Places | None:
        """Search a tile; None if it has more than ``most``."""
        if tile.device.type != "cpu":
            query, item = torch.nonzero(tile >= floor[:, None], as_tuple=True)
            return None if len(query) > most else cls(tile, query, item)
        # On a CPU, NumPy compares several times faster than torch, and finds the hits ten times faster.
        lies_across = tile.stride(0) < tile.stride(1)
        in_memory, floors = (tile.T, floor) if lies_across else (tile, floor[:, None])
        flags = in_memory.numpy() >= floors.numpy()
        if np.count_nonzero(flags) > most:
            return None
        place = np.flatnonzero(flags)
        if lies_across:
            column, row = np.divmod(place, tile.shape[0])
            place = np.sort(row * tile.shape[1] + column)
        rows, columns = np.divmod(place, tile.shape[1])
        return cls(tile, torch.from_numpy(rows), torch.from_numpy(columns))

    def of_at_least(self, floor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, items and scores of those that reach a higher floor."""
        kept = torch.nonzero(self.score >= floor.index_select(0, self.query))[:, 0]
        query, item, score = (part.index_select(0, kept) for part in (self.query, self.item, self.score))
        return query, item, score


class RunningTop:
    """The k best gallery items of each query so far; galleries must be offered in ascending order."""

    def __init__(self, queries: int, k: int, like: Tensor) -> None:
        self.scores = like.new_full((queries, k), -torch.inf)
        self.indices = torch.zeros(queries, k, dtype=torch.int64, device=like.device)

    def floor(self, start: int, tile: Tensor) -> Tensor:
        """(queries,) the lowest score with which an item of ``tile`` (queries from ``start``) may enter."""
        k = self.scores.shape[1]
        # A later item that only equals the k-th best ranks after it, so strictly better ones are enough.
        worst = self.scores[start : start + len(tile), -1]
        floor = torch.nextafter(worst, worst.new_tensor(torch.inf))
        groups = tile.shape[1] // _GROUP
        if groups >= k and worst.min() == -torch.inf:
            # Of the maxima over groups of items, the k largest are k of the scores. The members of a group
            # are spread out, so that each pass runs along the memory of a tile, and of its transpose.
            members = tile[:, : groups * _GROUP].unflatten(1, (_GROUP, groups))
            floor = torch.maximum(floor, members.amax(1).topk(k, dim=1).values[:, -1])
        return floor

    def offer(
        self, start: int, tile: Tensor, gallery_start: int, floor: Tensor, places: Places | None
    ) -> None:
        """Merge a tile.

        Args:
            start: its first query.
            tile: (queries, gallery) scores.
            gallery_start: its first item.
            floor: the result of ``floor`` for it.
            places: where it holds scores of at least that, and perhaps lower ones; None if unknown.
        """
        queries, k = len(tile), self.scores.shape[1]
        if places is None:
            places = Places.find(tile, floor, most=4 * k * queries)
        counts = torch.full((), -1)
        if places is not None:
            query, item, score = places.of_at_least(floor)
            if not len(query):
                return
            counts = torch.bincount(query, minlength=queries)
        if places is None or int(counts.max()) > 4 * k:
            values, indices = ordered_top(tile.contiguous(), k)
            lines = torch.arange(queries, device=tile.device)
        else:
            lines = torch.nonzero(counts)[:, 0]
            values, indices = _padded(query, item, score, counts)
            values, indices = values.index_select(0, lines), indices.index_select(0, lines)
        rows = start + lines
        scores = torch.cat([self.scores.index_select(0, rows), values], 1)
        gallery = torch.cat([self.indices.index_select(0, rows), indices + gallery_start], 1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        self.scores.index_copy_(0, rows, scores[:, :k])
        self.indices.index_copy_(0, rows, gallery.gather(1, order)[:, :k])


def _padded(query: Tensor, item: Tensor, score: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and items as one row per query, (queries, most); -inf where a row is shorter than others.

    Args:
        query, item, score: (n,) each, by query.
        counts: (queries,) how many each has.
    """
    width = int(counts.max())
    first = torch.cumsum(counts, 0) - counts
    slot = torch.arange(len(query), device=query.device) - first.index_select(0, query)
    slot += query * width
    values = score.new_full((len(counts) * width,), -torch.inf).scatter_(0, slot, score)
    indices = item.new_zeros(len(counts) * width).scatter_(0, slot, item)
    return values.view(-1, width), indices.view(-1, width)
