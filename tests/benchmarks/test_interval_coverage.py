"""The simulation judges tables as the package does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from crossmodal_bench.evaluation import QueryResults, compare_all
from crossmodal_bench.evaluation.statistics.comparisons import SIGNIFICANT

IMAGES, EACH, CUTS = 120, 5, (1, 5, 10)


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"
    spec = importlib.util.spec_from_file_location("benchmark_interval_coverage", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def hits(shares: list[float], runs: int) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Of each method the hits at three cuts: (runs, 3, images), and (runs, 3, images, captions)."""
    rng = np.random.default_rng(0)
    ease, text_ease = rng.random(IMAGES), rng.random((IMAGES, EACH))
    factors = np.array([0.5, 0.8, 1.0])
    methods = []
    for share in shares:
        own = 0.6 * ease + 0.4 * rng.random((runs, IMAGES))
        own_texts = 0.6 * text_ease + 0.4 * rng.random((runs, IMAGES, EACH))
        limits = share * factors
        methods.append(
            (
                (own[:, None] < limits[:, None]).astype(np.float64),
                (own_texts[:, None] < limits[:, None, None]).astype(np.float64),
            )
        )
    return methods


def as_results(images: NDArray[np.float64], texts: NDArray[np.float64]) -> QueryResults:
    """One run's, as the package keeps them."""
    per_query = {f"i2t/R@{k}": images[at] for at, k in enumerate(CUTS)}
    per_query |= {f"t2i/R@{k}": texts[at].ravel() for at, k in enumerate(CUTS)}
    return QueryResults(per_query, np.arange(IMAGES), np.arange(IMAGES).repeat(EACH), ("ranks",))


@pytest.mark.parametrize("runs", [1, 3])
def test_it_tells_rows_apart_as_the_package_does(simulation: ModuleType, runs: int) -> None:
    methods = hits([0.5, 0.5, 0.54, 0.8], runs)
    # What the simulation takes: one table, of each method the mean of its six recalls by image.
    rows = [(images.sum(1) + texts.mean(-1).sum(1))[None] / 6 for images, texts in methods]
    apart = simulation.told_apart(rows, 1 / 6)[0]
    table = [[as_results(*run) for run in zip(*method, strict=True)] for method in methods]
    expected = np.zeros((4, 4), dtype=np.bool_)
    for pair in compare_all(table, "rsum"):
        significant = pair.adjusted_p < SIGNIFICANT
        expected[pair.first, pair.second] = expected[pair.second, pair.first] = significant
    np.testing.assert_array_equal(apart, expected)
    assert apart[0, 3] and not apart[0, 1], "the case needs both"
