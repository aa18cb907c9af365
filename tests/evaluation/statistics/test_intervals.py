from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import Protocol, QueryResults, evaluate, interval, intervals, model_intervals
from crossmodal_bench.evaluation.query_results import cluster_effects
from crossmodal_bench.evaluation.statistics.intervals import (
    Interval,
    bounded_interval,
    items_variance,
    seeds_variance,
)


def run_of(hits: NDArray[np.float64], cluster: NDArray[np.int64] | None = None) -> QueryResults:
    """A run of image queries alone."""
    clusters = np.arange(len(hits)) if cluster is None else cluster
    return QueryResults({"i2t/R@1": hits.astype(float)}, clusters, clusters, ("ranks",))


def captions_of(hits: NDArray[np.float64]) -> QueryResults:
    """(images, captions) results of text queries."""
    images, captions = hits.shape
    owner = np.repeat(np.arange(images), captions)
    return QueryResults({"t2i/R@1": hits.ravel().astype(float)}, np.arange(images), owner, ("ranks",))


def of(hits: NDArray[np.float64]) -> Interval:
    return interval([run_of(hits)], "i2t/R@1")


@pytest.mark.parametrize(("hits", "queries"), [(20, 20), (0, 20), (19, 20), (7, 243), (500, 1000)])
def test_hits_of_one_model_have_the_binomials_mid_p_interval(hits: int, queries: int) -> None:
    found = of(np.arange(queries) < hits)
    low, high = found.low / 100, found.high / 100
    assert found.value == pytest.approx(100 * hits / queries)
    if hits:
        tail = stats.binom.sf(hits, queries, low) + stats.binom.pmf(hits, queries, low) / 2
        assert tail == pytest.approx(0.025, abs=1e-6)
    else:
        assert low == 0
    if hits < queries:
        tail = stats.binom.cdf(hits - 1, queries, high) + stats.binom.pmf(hits, queries, high) / 2
        assert tail == pytest.approx(0.025, abs=1e-6)
    else:
        assert high == 1


def test_no_number_claims_certainty() -> None:
    for value in (0.0, 1.0):
        run = captions_of(np.full((20, 5), value))
        found = interval([run, run, run], "t2i/R@1")
        assert found.items_error == found.seeds_error == 0
        assert found.half_width == pytest.approx(100 * (1 - 0.05 ** (1 / 20)))
    half = of(np.full(20, 0.5))
    assert half.half_width > 3
    only = of(np.ones(1))
    assert (only.low, only.high) == (pytest.approx(5), 100)


def test_in_the_middle_of_many_images_it_is_the_mean_and_student() -> None:
    hits = np.random.default_rng(0).random((3000, 5)) < np.random.default_rng(1).random((3000, 1))
    found = interval([captions_of(hits)], "t2i/R@1")
    means = 100 * hits.mean(1)
    low, high = stats.t.interval(0.95, 2999, loc=means.mean(), scale=stats.sem(means))
    assert found.items_error == pytest.approx(stats.sem(means))
    assert (found.low, found.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_unbounded_results_have_students_interval() -> None:
    values = np.random.default_rng(0).normal(5, 2, 30)
    low, high = stats.t.interval(0.95, 29, loc=100 * values.mean(), scale=100 * stats.sem(values))
    found = of(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_dependent_queries_widen_the_interval() -> None:
    hits = np.repeat(np.arange(100) % 3 == 0, 5)
    apart, together = run_of(hits), run_of(hits, np.repeat(np.arange(100), 5))
    wide, narrow = interval([together], "i2t/R@1"), interval([apart], "i2t/R@1")
    assert wide.items_error == pytest.approx(narrow.items_error * np.sqrt(5), rel=0.01)
    assert (wide.clusters, narrow.clusters) == (100, 500)


def test_both_variances_are_those_of_the_crossed_analysis() -> None:
    generator = np.random.default_rng(3)
    runs, images = 4, 60
    results = generator.random((runs, images)) + generator.normal(0, 0.05, (runs, 1))
    results -= results.min() - 0.01
    results /= results.max() * 1.01
    measured = cluster_effects([run_of(row) for row in results], "i2t/R@1")
    # The mean squares of a two-way layout without repeats.
    grand, by_run, by_image = results.mean(), results.mean(1), results.mean(0)
    of_images = runs * ((by_image - grand) ** 2).sum() / (images - 1)
    of_runs = images * ((by_run - grand) ** 2).sum() / (runs - 1)
    residual = ((results - by_run[:, None] - by_image + grand) ** 2).sum() / (runs - 1) / (images - 1)
    items = 1e4 * of_images / (runs * images)
    seeds = 1e4 * max(0.0, of_runs - residual) / (runs * images)
    assert items_variance(measured.effects) == pytest.approx(items)
    assert seeds > 0 and seeds_variance(measured.values, measured.effects) == pytest.approx(seeds)
    found = interval([run_of(row) for row in results], "i2t/R@1")
    assert (found.items_error, found.seeds_error) == pytest.approx((items**0.5, seeds**0.5))
    assert (found.n, found.target) == (4, "method")
    alone = of(results[0])
    assert (alone.seeds_error, alone.n, alone.target) == (0, 1, "model")


def test_seeds_that_are_apart_widen_the_interval_by_their_own_t() -> None:
    images = 4000
    shares = np.array([0.48, 0.5, 0.52])
    hits = np.arange(images) / images < shares[:, None]
    found = interval([run_of(row) for row in hits], "i2t/R@1")
    half = np.hypot(
        stats.t.ppf(0.975, images - 1) * found.items_error, stats.t.ppf(0.975, 2) * found.seeds_error
    )
    assert found.seeds_error == pytest.approx(2 / np.sqrt(3), rel=0.01)
    assert found.half_width == pytest.approx(half, rel=0.02)


def test_every_interval_holds_its_value_and_stays_within_what_is_possible() -> None:
    generator = np.random.default_rng(4)
    for share in (0.0, 0.001, 0.03, 0.5, 0.97, 0.999, 1.0):
        hits = generator.random((3, 40, 5)) < share
        for runs in (1, 3):
            found = interval([captions_of(row) for row in hits[:runs]], "t2i/R@1")
            assert 0 <= found.low <= found.value <= found.high <= 100
            assert found.half_width == max(found.high - found.value, found.value - found.low) > 0


def test_the_record_holds_every_mean_over_queries() -> None:
    owner = np.arange(200) // 5
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(40, 8, generator=generator)
    texts = images[torch.from_numpy(owner)] + 1.5 * torch.randn(200, 8, generator=generator)
    protocol = Protocol(
        name="x",
        dataset="x",
        positives="caption",
        families=("ranks", "label_precision"),
        primary="rsum",
    )
    found = evaluate(
        protocol,
        Encoding(images),
        Encoding(texts),
        lambda a, b: a.values @ b.values.T,
        owner,
        np.arange(40) % 4,
    )
    stored = model_intervals(found)
    headline = {key for key in found.metrics if "MedR" not in key and "MeanR" not in key}
    assert set(stored) == headline
    for key in headline:
        low, high = stored[key]
        assert low <= found.metrics[key] <= high and low < high, key
    run = QueryResults(found.per_query, np.arange(40), owner, protocol.families)
    assert stored == {key: [each.low, each.high] for key, each in intervals([run]).items()}
    person = np.arange(40) // 2
    by_person = QueryResults(found.per_query, person, person[owner], protocol.families)
    expected = interval([by_person], "rsum")
    grouped = replace(found, image_cluster=10 * person, text_cluster=10 * person[owner])
    assert model_intervals(grouped)["rsum"] == [expected.low, expected.high]


def test_an_interval_needs_a_run() -> None:
    for make in (lambda: interval([], "rsum"), lambda: intervals([])):
        with pytest.raises(ValueError, match="at least one run"):
            make()


def _crossed(generator: np.random.Generator, repeats: int, runs: int, images: int) -> NDArray[np.bool_]:
    """(repeats, runs, images) hits at 50 %, with seeds as important as images."""
    ease = 0.9 * generator.standard_normal((repeats, 1, images))
    ease = ease + 0.06 * generator.standard_normal((repeats, runs, 1))
    return ease + np.sqrt(1 - 0.81 - 0.0036) * generator.standard_normal((repeats, runs, images)) > 0


def test_it_covers_other_images_and_other_seeds_which_the_seeds_alone_do_not() -> None:
    hits = _crossed(np.random.default_rng(5), 1500, 3, 300).astype(float)
    values = hits.mean(-1)
    low, high = bounded_interval(values, (hits - values[..., None]) / 300)
    covered = ((low <= 0.5) & (high >= 0.5)).mean()
    assert 0.935 < covered < 0.975
    half = stats.t.ppf(0.975, 2) * values.std(-1, ddof=1) / np.sqrt(3)
    assert (np.abs(values.mean(-1) - 0.5) <= half).mean() < 0.9


def test_it_covers_few_images_near_100_percent_which_the_bootstrap_does_not() -> None:
    generator = np.random.default_rng(6)
    hits = (generator.random((1000, 1, 20)) < 0.98).astype(float)
    values = hits.mean(-1)
    low, high = bounded_interval(values, (hits - values[..., None]) / 20)
    assert ((low <= 0.98) & (high >= 0.98)).mean() > 0.95
    draws = np.stack([np.bincount(generator.integers(0, 20, 20), minlength=20) for _ in range(400)]) / 20
    old_low, old_high = np.percentile(hits[:, 0] @ draws.T, [2.5, 97.5], axis=1)
    assert ((old_low <= 0.98) & (old_high >= 0.98)).mean() < 0.5


# ---- draws of the split ------------------------------------------------------------------------------------


def drawn_run(results: NDArray[np.float64], items: NDArray[np.int64]) -> QueryResults:
    """A run on a draw of its own: results of all items there are, of which the draw tests some."""
    return QueryResults({"i2t/R@1": results[items]}, items, items, ("ranks",), redrawn=True)


def test_draws_that_test_the_same_items_are_seeds() -> None:
    runs = [np.random.default_rng(seed).random(80).round() for seed in range(4)]
    items = np.random.default_rng(9).permutation(80)
    drawn = interval([drawn_run(results, items) for results in runs], "i2t/R@1")
    assert drawn == interval([run_of(results) for results in runs], "i2t/R@1")


def test_draws_without_a_common_item_are_independent_tests() -> None:
    generator = np.random.default_rng(0)
    runs, half = [], 50
    for draw in range(3):
        results = np.zeros(150)
        items = np.arange(half) + draw * half
        results[items] = generator.random(half) < 0.4
        runs.append(drawn_run(results, items))
    found = interval(runs, "i2t/R@1")
    variances = [np.var(run.per_query["i2t/R@1"]) / half for run in runs]
    assert found.clusters == 150 and found.n == 3 and found.target == "method"
    assert found.items_error == pytest.approx(100 * np.sqrt(np.sum(variances) / 9 * 150 / 149))
    # What the runs differ by is what other items make of it, and that counts once.
    between = np.var([run.per_query["i2t/R@1"].mean() for run in runs], ddof=1) / 3
    rest = max(0.0, between - np.sum(variances) / 9 * 150 / 149)
    assert found.seeds_error == pytest.approx(100 * np.sqrt(rest), abs=1e-9)


def of_draws(generator: np.random.Generator, draws: int, spread: float) -> list[QueryResults]:
    """Runs on half of 400 items each, as easy in every draw; what is trained on makes ``spread``."""
    ease = generator.normal(0.4, 0.1, 400)
    runs = []
    for _ in range(draws):
        items = np.sort(generator.permutation(400)[:200])
        share = ease + generator.normal(0, spread)
        runs.append(drawn_run((generator.random(400) < share).astype(float), items))
    return runs


def test_the_interval_of_several_draws_has_their_variance_in_it() -> None:
    calm, wild = (of_draws(np.random.default_rng(3), 8, spread) for spread in (0.0, 0.1))
    still, moved = interval(calm, "i2t/R@1"), interval(wild, "i2t/R@1")
    assert moved.seeds_error > 2 and moved.half_width > 1.5 * still.half_width
    # One draw knows nothing of the others.
    assert moved.half_width > interval(wild[:1], "i2t/R@1").half_width / 2
    assert still.half_width < interval(calm[:1], "i2t/R@1").half_width


def test_that_interval_covers_what_all_draws_would_give() -> None:
    generator = np.random.default_rng(2)
    trials = [interval(of_draws(generator, 4, 0.04), "i2t/R@1") for _ in range(200)]
    covered = np.mean([each.low <= 40 <= each.high for each in trials])
    assert 0.91 <= covered <= 1
    # Student's interval over the four numbers alone is longer: it does not know how much other items make.
    runs = of_draws(np.random.default_rng(3), 4, 0.0)
    alone = stats.t.ppf(0.975, 3) * stats.sem([100 * run.per_query["i2t/R@1"].mean() for run in runs])
    assert interval(runs, "i2t/R@1").half_width > 0.5 * alone


def test_runs_on_one_split_and_on_draws_of_their_own_are_not_averaged() -> None:
    results = np.ones(10)
    with pytest.raises(ValueError, match="some runs have their own draws, but others share one"):
        interval([drawn_run(results, np.arange(10)), run_of(results)], "i2t/R@1")
    with pytest.raises(ValueError, match="the runs must answer the same queries"):
        interval([run_of(results), drawn_run(results, np.arange(1, 10))], "i2t/R@1")
