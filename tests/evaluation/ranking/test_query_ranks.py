from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks


def of(above: int, tied: int, positives: int) -> QueryRanks:
    """One query with these competitors and positives."""
    return QueryRanks(np.array([1 + above + tied]), np.array([tied]), np.array([positives]))


def whole(values: list[int]) -> NDArray[np.int64]:
    """As the arrays that ranks are made of."""
    return np.array(values, dtype=np.int64)


CASES = [(0, 0, 1), (2, 0, 1), (0, 3, 1), (1, 3, 2), (0, 4, 3), (3, 2, 1), (4, 4, 2), (9, 1, 1), (12, 3, 1)]


@pytest.mark.parametrize(("above", "tied", "positives"), CASES)
@pytest.mark.parametrize("k", [1, 3, 5, 10])
def test_hits_are_those_of_every_order_of_the_ties(above: int, tied: int, positives: int, k: int) -> None:
    orders = list(itertools.permutations([True] * positives + [False] * tied))
    hits = sum(above + order.index(True) < k for order in orders)
    found = of(above, tied, positives).hit_probability(k)
    np.testing.assert_allclose(found, [hits / len(orders)], rtol=1e-12)


def test_the_closed_form_at_the_size_of_a_gallery() -> None:
    above, tied, positives, k = 3, 4990, 5, 10
    places = k - above
    expected = 1 - comb(tied, places) / comb(tied + positives, places)
    np.testing.assert_allclose(of(above, tied, positives).hit_probability(k), [expected], rtol=1e-12)


def test_without_ties_hits_are_exactly_zero_or_one() -> None:
    ranks = QueryRanks.untied([1, 5, 6, 10, 11, 400])
    for k in (1, 5, 10):
        np.testing.assert_array_equal(ranks.hit_probability(k), ranks.strict <= k)
    np.testing.assert_array_equal(ranks.expected, ranks.strict)


@pytest.mark.parametrize(("above", "tied", "positives"), CASES)
def test_the_expected_rank_is_the_mean_over_every_order(above: int, tied: int, positives: int) -> None:
    orders = list(itertools.permutations([True] * positives + [False] * tied))
    mean = np.mean([1 + above + order.index(True) for order in orders])
    np.testing.assert_allclose(of(above, tied, positives).expected, [mean])


def test_a_query_without_a_positive_counts_nowhere() -> None:
    ranks = QueryRanks(np.array([2, 0]), np.array([1, 0]), np.array([1, 0]))
    assert ranks.has_positive.tolist() == [True, False]
    np.testing.assert_array_equal(ranks.expected, [1.5, np.nan])
    np.testing.assert_array_equal(ranks.hit_probability(1), [0.5, np.nan])


@pytest.mark.parametrize(
    ("strict", "tied", "positives", "message"),
    [
        ([], [], [], "non-empty"),
        ([1, 2], [0], [1], "one length"),
        ([-1], [0], [1], "1-based"),
        ([2], [2], [1], "can't be more ties"),
        ([0], [0], [1], "if, and only if"),
        ([1], [0], [0], "if, and only if"),
    ],
)
def test_counts_that_cannot_be_raise(
    strict: list[int], tied: list[int], positives: list[int], message: str
) -> None:
    arrays: list[NDArray[np.int64]] = [
        np.array(values, dtype=np.int64) for values in (strict, tied, positives)
    ]
    with pytest.raises(ValueError, match=message):
        QueryRanks(arrays[0], arrays[1], arrays[2])


def test_ranks_below_one_and_recall_at_nothing_raise() -> None:
    with pytest.raises(ValueError, match="1-based"):
        QueryRanks.untied([0, 1])
    with pytest.raises(ValueError, match="k must be at least 1"):
        QueryRanks.untied([1]).hit_probability(0)
