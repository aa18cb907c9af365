"""Intervals of records whose single queries are not known."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from crossmodal_bench.reporting.rows.stored_intervals import from_records

NORMAL = float(stats.norm.ppf(0.975))


def test_images_count_once_and_seeds_by_their_number() -> None:
    found = from_records([50.0, 52.0, 54.0], [(48.0, 52.0), (49.0, 55.0)])
    images = math.sqrt(((2 / NORMAL) ** 2 + (3 / NORMAL) ** 2) / 2)
    seeds = 2.0 / math.sqrt(3)
    assert found.items_error == pytest.approx(images) and found.seeds_error == pytest.approx(seeds)
    error = math.hypot(images, seeds)
    half_width = float(stats.t.ppf(0.975, 2 * (error / seeds) ** 4)) * error
    assert (found.low, found.high) == pytest.approx((52 - half_width, 52 + half_width))
    assert found.target == "method"


def test_the_largest_numbers_that_a_record_may_hold_have_an_interval() -> None:
    found = from_records([0.5], [(0.1, 1e308)])
    assert found.items_error == pytest.approx(1e308 / 2 / NORMAL)
