from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from crossmodal_bench.evaluation import (
    Difference,
    PairedDifference,
    QueryResults,
    compare,
    compare_all,
    holm,
    tied_with_first,
)
from crossmodal_bench.evaluation.query_results import cluster_effects
from crossmodal_bench.evaluation.statistics.comparisons import TableSummary, paired_randomisation, paired_t

KEYS = [f"{side}/R@{k}" for side in ("i2t", "t2i") for k in (1, 5, 10)]


def run_of(values: NDArray[np.float64], cluster: NDArray[np.int64] | None = None) -> QueryResults:
    """A run of image queries alone."""
    clusters = np.arange(len(values)) if cluster is None else cluster
    return QueryResults({"i2t/R@1": values.astype(float)}, clusters, clusters, ("ranks",))


def both_ways(seed: int, share: float, images: int = 50) -> QueryResults:
    """Recalls of both directions, the images as easy in every run."""
    ease = np.random.default_rng(99).normal(0, 0.15, images)
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(images), 5)
    per_query = {}
    for key in KEYS:
        of_query = ease if key.startswith("i2t") else ease[owner]
        per_query[key] = (generator.random(len(of_query)) < share + of_query).astype(float)
    return QueryResults(per_query, np.arange(images), owner, ("ranks",))


def test_swaps_are_the_exact_test_over_all_of_them() -> None:
    generator = np.random.default_rng(6)
    differences = generator.normal(0.4, 1, (2, 9))
    for sums, p in zip(differences, paired_randomisation(differences, n=40_000), strict=True):
        extreme = [
            abs(np.dot(s, sums)) >= abs(sums.sum()) - 1e-9 for s in itertools.product((-1, 1), repeat=9)
        ]
        assert p == pytest.approx(np.mean(extreme), abs=0.01)
    scipys = stats.permutation_test(
        (differences[0], np.zeros(9)),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert paired_randomisation(differences, n=40_000)[0] == pytest.approx(scipys.pvalue, abs=0.01)


def test_swaps_do_not_depend_on_the_size_of_their_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(4).normal(0.2, 1, (3, 40))
    whole = paired_randomisation(differences, n=640)
    monkeypatch.setattr("crossmodal_bench.evaluation.statistics.comparisons._CELLS", 40 * 64)
    assert (paired_randomisation(differences, n=640) == whole).all()


def test_two_models_are_compared_by_swaps() -> None:
    same = np.arange(10.0) / 10
    assert compare([run_of(same)], [run_of(same)], "i2t/R@1").p == 1
    clear = compare([run_of(np.ones(50))], [run_of(np.zeros(50))], "i2t/R@1")
    assert clear.p == pytest.approx(1 / 10_001)
    assert clear.value == clear.high == 100 and clear.low > 80
    assert clear.targets == ("model", "model") and clear.n == (1, 1) and clear.seeds_error == 0
    # All queries of one image: one swap, so nothing can be claimed.
    one_image = np.zeros(50, dtype=np.int64)
    assert compare([run_of(np.ones(50), one_image)], [run_of(np.zeros(50), one_image)], "i2t/R@1").p == 1
    gap = np.array([np.nan, 1.0, 0.0])
    assert compare([run_of(gap)], [run_of(np.array([np.nan, 0.0, 0.0]))], "i2t/R@1").value == 50


def test_queries_that_nobody_tells_apart_leave_a_width() -> None:
    hits = (np.arange(20) < 19).astype(float)
    found = compare([run_of(hits)], [run_of(hits)], "i2t/R@1")
    assert found.value == 0 and found.low == pytest.approx(-found.high) and 10 < found.high < 20


def test_with_many_images_it_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(7)
    a, b = generator.random(2000), generator.random(2000)
    found = compare([run_of(a)], [run_of(b)], "i2t/R@1")
    scipys = stats.ttest_rel(a, b)
    low, high = scipys.confidence_interval()
    assert (found.low, found.high) == (
        pytest.approx(100 * low, abs=0.05),
        pytest.approx(100 * high, abs=0.05),
    )
    table = TableSummary.of(
        [100 * a.mean(keepdims=True), 100 * b.mean(keepdims=True)],
        [100 * (values - values.mean())[None] / 2000 for values in (a, b)],
    )
    assert paired_t(table, np.array([0]), np.array([1]), 100.0).p()[0] == pytest.approx(
        scipys.pvalue, abs=0.005
    )


def test_seeds_enter_where_they_are_apart() -> None:
    images = 1000
    place = np.arange(images) / images
    spread = [run_of((place < share).astype(float)) for share in (0.5, 0.6, 0.7)]
    steady = [run_of((place < 0.5).astype(float))] * 2
    found = compare(spread, steady, "i2t/R@1")
    model = compare(spread[1:2], steady[:1], "i2t/R@1")
    assert (found.value, model.value) == (pytest.approx(10), pytest.approx(10))
    assert model.p < 0.001 and found.p > 0.1
    assert found.n == (3, 2) and found.targets == ("method", "method")
    # Of the spread side's three runs; the steady one's two count with the average over both sides.
    own = 100 * np.std([0.5, 0.6, 0.7], ddof=1) / np.sqrt(3)
    pooled = 2 * 3 * own**2 / (2 + 1)
    assert found.seeds_error == pytest.approx(np.sqrt(own**2 + pooled / 2), rel=0.02)
    deterministic = compare(spread, steady[:1], "i2t/R@1")
    assert deterministic.targets == ("method", "model")
    assert deterministic.seeds_error == pytest.approx(own, rel=0.02)


def test_sums_are_compared_with_their_directions_drawn_together() -> None:
    a, b = both_ways(0, 0.6), both_ways(1, 0.5)
    found = compare([a], [b], "rsum")
    values = [cluster_effects([run], "rsum") for run in (a, b)]
    per_image = 50 * (values[0].contributions - values[1].contributions)[0]
    assert found.value == pytest.approx(per_image.mean())
    enlarged = np.r_[per_image, 100, -100]
    assert found.items_error == pytest.approx(enlarged.std(ddof=1) / np.sqrt(52), rel=1e-3)


def test_all_pairs_are_adjusted_together_and_every_run_gives_the_same() -> None:
    rows = [
        [both_ways(10 * row + seed, share) for seed in range(3)] for row, share in enumerate((0.7, 0.68, 0.3))
    ]
    pairs = compare_all(rows, "rsum")
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert [pair.adjusted_p for pair in pairs] == holm([pair.difference.p for pair in pairs])
    assert pairs == compare_all(rows, "rsum")
    for pair in pairs:
        assert (pair.difference.p < 0.05) <= (pair.difference.low > 0 or pair.difference.high < 0)
    assert tied_with_first(0, pairs) == {0, 1}
    assert compare_all(rows[:1], "rsum") == []
    assert tied_with_first(0, []) == {0}


def test_the_set_is_of_those_that_are_not_told_from_the_first() -> None:
    difference = Difference(1.0, 0.5, 1.5, 0.01, 0.2, 0.1, ("model", "model"), (1, 1))
    pairs = [
        PairedDifference(0, 1, difference, 0.04),
        PairedDifference(0, 2, difference, 0.01),
        PairedDifference(1, 2, difference, 0.05),
    ]
    assert tied_with_first(2, pairs) == {1, 2}
    assert tied_with_first(0, pairs) == {0}


def test_different_queries_and_rows_without_a_run_are_refused() -> None:
    with pytest.raises(ValueError, match="same queries"):
        compare([run_of(np.zeros(3))], [run_of(np.zeros(4))], "i2t/R@1")
    with pytest.raises(ValueError, match="in one run but not in another"):
        compare([run_of(np.array([np.nan, 1.0, 0.0]))], [run_of(np.zeros(3))], "i2t/R@1")
    with pytest.raises(ValueError, match="without any run"):
        compare([run_of(np.zeros(3))], [], "i2t/R@1")


def test_equal_methods_with_seeds_are_rarely_told_apart() -> None:
    generator = np.random.default_rng(8)
    repeats, runs, images = 600, 3, 300
    ease = 0.9 * generator.standard_normal((repeats, 1, images))
    rows = []
    for _ in range(5):
        seeds = 0.06 * generator.standard_normal((repeats, runs, 1))
        rest = np.sqrt(1 - 0.81 - 0.0036) * generator.standard_normal((repeats, runs, images))
        rows.append((ease + seeds + rest > 0).astype(float))
    values = [row.mean(-1) for row in rows]
    effects = [(row - row.mean(-1, keepdims=True)) / images for row in rows]
    first, second = np.array(list(itertools.combinations(range(5), 2))).T
    tests = paired_t(TableSummary.of(values, effects), first, second, 1.0)
    apart = np.abs(tests.centre) >= tests.half_width(0.05 / len(first))
    assert apart.any(1).mean() < 0.06
    # As models, whose seeds nobody asks about, they are told apart in far more tables than that.
    alone = paired_t(
        TableSummary.of([v[:, :1] for v in values], [e[:, :1] for e in effects]), first, second, 1.0
    )
    assert (np.abs(alone.centre) >= alone.half_width(0.05 / len(first))).any(1).mean() > 0.2


def test_holm_is_the_step_down_loop() -> None:
    pvalues = [0.01, 0.04, 0.03, 0.005, 0.9]
    remaining, largest, expected = sorted(pvalues), 0.0, {}
    for step, p in enumerate(remaining):
        largest = max(largest, min(1.0, p * (len(pvalues) - step)))
        expected[p] = largest
    assert holm(pvalues) == pytest.approx([expected[p] for p in pvalues])
    assert holm(pvalues) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])
    assert holm([]) == []
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.2, 1.2])


def test_rows_of_the_same_draws_are_compared_and_of_others_are_not() -> None:
    ease = np.random.default_rng(0).normal(0.4, 0.1, 300)

    def row(better: float, draws: tuple[int, ...]) -> list[QueryResults]:
        runs = []
        for draw in draws:
            generator = np.random.default_rng(draw)
            items = np.sort(generator.permutation(300)[:200])
            values = (generator.random(300) < ease + better)[items].astype(float)
            runs.append(QueryResults({"i2t/R@1": values}, items, items, ("ranks",), redrawn=True))
        return runs

    found = compare(row(0.2, (0, 1, 2)), row(0.0, (0, 1, 2)), "i2t/R@1")
    assert found.p < 1e-3 and 10 < found.low < found.value < found.high and found.n == (3, 3)
    nothing = compare(row(0.0, (0, 1, 2)), row(0.0, (0, 1, 2)), "i2t/R@1")
    assert nothing.value == 0 and nothing.p == 1
    for other in ((0, 1), (0, 1, 3)):
        with pytest.raises(ValueError, match=r"numbers of seeds|must answer the same queries"):
            compare(row(0.2, (0, 1, 2)), row(0.0, other), "i2t/R@1")
