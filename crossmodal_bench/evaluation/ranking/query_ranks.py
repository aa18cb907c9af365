"""The rank of each query's best positive, and the items tied with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Side = Literal["i2t", "t2i"]
"""A direction: images are the queries and texts the gallery, or vice versa."""


@dataclass(frozen=True)
class QueryRanks:
    """The best positive of each query of one direction; all arrays are (n_queries,) int64.

    A query may have several positives, and its best one may be tied with competitors, with other positives,
    or with both. How often the query is answered then depends on the order of the ties, and these three
    numbers determine the outcome completely. Positives never count as competitors of each other.

    Attributes:
        strict: 1-based rank of the best positive with all ties against the query; 0 for a query without a
            positive, which counts in no metric.
        tied: number of competitors with the best positive's score.
        tied_positives: number of positives with that score, including the best one; 0 for a query without a
            positive.

    Raises:
        ValueError: arrays that are empty or differ in shape, or impossible counts.
    """

    strict: NDArray[np.int64]
    tied: NDArray[np.int64]
    tied_positives: NDArray[np.int64]

    def __post_init__(self) -> None:
        shape = self.strict.shape
        if len(shape) != 1 or not shape[0] or self.tied.shape != shape or self.tied_positives.shape != shape:
            raise ValueError("ranks and tie counts must be non-empty (n,) arrays of one length")
        if self.strict.min() < 0 or self.tied.min() < 0 or (self.strict <= self.tied)[self.strict > 0].any():
            raise ValueError("ranks must be 1-based, and there can't be more ties than places above them")
        if ((self.strict > 0) != (self.tied_positives > 0)).any():
            raise ValueError("a query must have a rank if, and only if, it has a positive")

    @classmethod
    def untied(cls, ranks: ArrayLike) -> QueryRanks:
        """From (n,) 1-based ranks, with no competitor tied with the best positive."""
        strict = np.asarray(ranks)
        if strict.ndim != 1 or not len(strict) or strict.min() < 1:
            raise ValueError("ranks must be a non-empty (n,) array of 1-based ranks")
        return cls(strict.astype(np.int64), np.zeros(len(strict), np.int64), np.ones(len(strict), np.int64))

    def __len__(self) -> int:
        return len(self.strict)

    @property
    def has_positive(self) -> NDArray[np.bool_]:
        """(n,) whether the query counts."""
        return self.tied_positives > 0

    @property
    def above(self) -> NDArray[np.int64]:
        """(n,) competitors that score strictly higher; -1 for a query without a positive."""
        return self.strict - 1 - self.tied

    @property
    def expected(self) -> NDArray[np.float64]:
        """(n,) mean rank of the best positive over all orders of the ties; NaN without a positive.

        With t competitors and p positives in random order, on average t / (p + 1) competitors precede the
        first positive.
        """
        ranks = 1 + self.above + self.tied / (self.tied_positives + 1)
        return np.where(self.has_positive, ranks, np.nan)

    def hit_probability(self, k: int) -> NDArray[np.float64]:
        """(n,) probability that a positive is among the first k items when ties are broken at random.

        With a competitors above, t tied ones and p tied positives, s = k - a places are left for the tied
        items. The probability is 0 for s <= 0, 1 for s > t, and otherwise 1 - C(t, s) / C(t + p, s), one
        minus the probability that competitors take all of these places. NaN for a query without a positive.
        Exactly 0 or 1 if nothing is tied; K / gallery for one positive if everything is.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        places = k - self.above
        missed = np.ones(len(self))
        for taken in range(k):
            # C(t, s) / C(t + p, s) is the product of (t - j) / (t + p - j) over j < s; it is 0 for s > t.
            remaining = (self.tied - taken).clip(0)
            share = remaining / np.maximum(remaining + self.tied_positives, 1)
            missed = np.where(taken < places, missed * share, missed)
        return np.where(self.has_positive, 1 - missed, np.nan)
