"""The ranks of all positives of a query, not just of the best one: their counting, and their metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class PositiveRanks:
    """The ranks of all positives of the queries of one direction; ties count against the query.

    A positive's rank counts all items above it, including other positives. Competitors with the same score
    are placed above it, and positives that share a score get successive ranks.

    Attributes:
        query: (n,) int64, the query of each positive, ascending.
        rank: (n,) int64, its 1-based rank, ascending within a query.
        relevant: (n_queries,) int64, R: the number of correct items, including those missing from the
            gallery; 0 for an item that is not a query, which counts in no metric.

    Raises:
        ValueError: mismatched arrays, or impossible ranks.
    """

    query: NDArray[np.int64]
    rank: NDArray[np.int64]
    relevant: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.query.ndim != 1 or self.query.shape != self.rank.shape:
            raise ValueError("each positive must have a query and a rank")
        if (self.rank < self.place).any():
            raise ValueError("a positive's rank must not be smaller than its place among the positives")

    @property
    def place(self) -> NDArray[np.int64]:
        """(n,) each positive's place among its query's positives, from 1."""
        first = np.searchsorted(self.query, self.query)
        return np.arange(len(self.query)) - first + 1

    def per_query(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n_queries,) the sum of ``values`` (n,) over the positives at rank R or above, divided by R.

        NaN for an item that is not a query.
        """
        found = self.rank <= self.relevant[self.query]
        sums = np.bincount(self.query[found], values[found], len(self.relevant))
        asked = self.relevant > 0
        return np.where(asked, sums / np.where(asked, self.relevant, 1), np.nan)


def r_precision(ranks: PositiveRanks) -> NDArray[np.float64]:
    """(n_queries,) share of positives in the top R for a query with R correct items; NaN without any.

    Chun et al., "ECCV Caption: Correcting False Negatives by Collecting Machine-and-Human-verified
    Image-Caption Associations for MS-COCO", ECCV 2022.
    """
    return ranks.per_query(np.ones(len(ranks.rank)))


def average_precision_at_r(ranks: PositiveRanks) -> NDArray[np.float64]:
    """(n_queries,) AP@R: 1/R times the sum, over the positives in the top R, of the precision there.

    Musgrave et al., "A Metric Learning Reality Check", ECCV 2020; NaN for a query without any. It divides by
    R, whereas ``precision.average_precision`` at a cutoff divides by the number of hits.
    """
    return ranks.per_query(ranks.place / ranks.rank)


class PositiveCounts:
    """Counts, tile by tile, the items that score at least as high as each positive in one direction.

    Each item in a query's row is sorted into its place among the scores of the query's positives, and the
    places are counted: this is exact for any number of positives, and no list of items is kept.
    """

    def __init__(self, query: Tensor, scores: Tensor) -> None:
        """For (n_pairs,) positives in any order: their queries, and their scores from the tiles."""
        order = torch.argsort(scores, stable=True)
        order = order[torch.argsort(query[order], stable=True)]
        self._queries, self._sizes = torch.unique_consecutive(query[order], return_counts=True)
        # The queries in a tile are looked up on the host.
        self._on_host = self._queries.cpu().numpy()
        width = int(self._sizes.max()) if len(self._sizes) else 0
        lines = torch.arange(len(self._sizes), device=query.device).repeat_interleave(self._sizes)
        firsts = (self._sizes.cumsum(0) - self._sizes).repeat_interleave(self._sizes)
        places = torch.arange(len(query), device=query.device) - firsts
        # (queries, most positives), ascending; no score reaches the padding after a query's last positive.
        self._thresholds = scores.new_full((len(self._sizes), width), torch.inf)
        self._thresholds[lines, places] = scores[order]
        self._counts = torch.zeros(len(self._sizes), width + 1, dtype=torch.int64, device=query.device)

    def count(self, start: int, tile: Tensor) -> None:
        """Count a tile (queries, gallery) whose first query is ``start``."""
        first, last = np.searchsorted(self._on_host, (start, start + len(tile)))
        if first == last:
            return
        scores = tile.index_select(0, self._queries[first:last] - start).contiguous()
        reached = torch.searchsorted(self._thresholds[first:last], scores, right=True)
        size = self._counts.shape[1]
        reached += size * torch.arange(len(scores), device=tile.device)[:, None]
        counts = torch.bincount(reached.flatten(), minlength=size * len(scores))
        self._counts[first:last] += counts.view(-1, size)

    def ranks(self, total: Callable[[Tensor], Tensor]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n_pairs,) queries, ascending, and ranks, ascending within a query; on every process.

        Args:
            total: sums a tensor over all processes.
        """
        counts = total(self._counts)
        if not len(counts):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        # An item that has reached a place scores at least as high as the positives below that place.
        at_least = counts.flip(1).cumsum(1).flip(1)[:, 1:]
        thresholds, sizes = self._thresholds, self._sizes[:, None]
        place = torch.arange(thresholds.shape[1], device=thresholds.device)
        positives_at_least = sizes - torch.searchsorted(thresholds, thresholds)
        # Competitors first, then the positives, starting with the best one.
        ranks = at_least - positives_at_least + sizes - place
        known = (place < sizes).flip(1)
        queries = self._queries[:, None].expand_as(ranks)
        return queries[known].cpu().numpy(), ranks.flip(1)[known].cpu().numpy()
