from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import (
    Protocol,
    bootstrap_interval,
    bootstrap_metrics,
    evaluate,
    holm,
    paired_randomisation,
    t_interval,
)


def test_t_interval_is_scipys() -> None:
    values = [51.2, 49.8, 50.5, 52.9]
    mean, half, n = t_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (mean - half, mean + half, n) == (pytest.approx(low), pytest.approx(high), 4)


def test_t_interval_of_one_seed_has_no_width() -> None:
    mean, half, n = t_interval([3.5])
    assert (mean, n) == (3.5, 1) and np.isnan(half)
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])
    with pytest.raises(ValueError, match="finite"):
        t_interval([1.0, float("nan")])


def test_bootstrap_is_a_loop_that_draws_images_with_all_their_queries() -> None:
    generator = np.random.default_rng(1)
    image = generator.integers(0, 12, 60)
    image[:12] = np.arange(12)
    values = generator.normal(size=60) + image
    values[7] = np.nan
    # The same draws as the vectorised form: 200 x 12 picks from one stream.
    picks = np.random.default_rng(5).integers(0, 12, size=(200, 12))
    replicates = []
    for drawn in picks:
        sample = [values[q] for i in drawn for q in range(60) if image[q] == i and not np.isnan(values[q])]
        replicates.append(np.mean(sample))
    expected = tuple(np.percentile(replicates, [2.5, 97.5]))
    assert bootstrap_interval(values, image, n=200, seed=5) == pytest.approx(expected)
    weighted = bootstrap_interval(
        values,
        image * 10,
        lambda v, w: float(np.nansum(v * w) / w[~np.isnan(v)].sum()),
        n=200,
        seed=5,
    )
    assert weighted == pytest.approx(expected)


def test_bootstrap_of_unclustered_means_is_scipys() -> None:
    values = np.random.default_rng(2).exponential(size=300)
    low, high = bootstrap_interval(values, np.arange(300), n=4000)
    scipys = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=0)
    assert low == pytest.approx(scipys.confidence_interval.low, abs=0.02)
    assert high == pytest.approx(scipys.confidence_interval.high, abs=0.02)


def test_clustering_widens_the_interval_of_dependent_queries() -> None:
    values = np.repeat(np.random.default_rng(3).normal(size=100), 5)
    clustered = bootstrap_interval(values, np.repeat(np.arange(100), 5))
    apart = bootstrap_interval(values, np.arange(500))
    assert clustered[1] - clustered[0] > 1.8 * (apart[1] - apart[0])


def test_bootstrap_does_not_depend_on_the_size_of_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).normal(size=40)
    whole = bootstrap_interval(values, np.arange(40), n=64)
    monkeypatch.setattr("crossmodal_bench.evaluation.statistics._CELLS", 40 * 16)
    assert bootstrap_interval(values, np.arange(40), n=64) == whole


def test_bootstrap_metrics_cover_every_headline_number() -> None:
    owner = np.arange(200) // 5
    images = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    texts = images[torch.from_numpy(owner)] + 1.5 * torch.randn(
        200, 8, generator=torch.Generator().manual_seed(1)
    )
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
    intervals = bootstrap_metrics(found, owner)
    headline = {
        key: value for key, value in found.metrics.items() if "MedR" not in key and "MeanR" not in key
    }
    assert set(intervals) == set(headline)
    for key, value in headline.items():
        low, high = intervals[key]
        assert low <= value <= high and low < high, key
    assert found.ranks is not None
    hits = 100.0 * (found.ranks.t2i <= 5)
    assert intervals["t2i/R@5"] == pytest.approx(list(bootstrap_interval(hits, owner)))
    only_recall = replace(found, protocol=replace(protocol, families=("ranks",)))
    assert bootstrap_metrics(only_recall, owner)["rsum"] == intervals["rsum"]
    only_labels = replace(found, protocol=replace(protocol, families=("label_precision",), primary="mAP"))
    assert set(bootstrap_metrics(only_labels, owner)) == {key for key in headline if "mAP" in key}


def test_bootstrap_metrics_draw_identities_and_classes() -> None:
    rng = np.random.default_rng(0)
    owner, identity = np.arange(120) // 3, rng.integers(10, 19, 40) * 5
    images = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    texts = images[torch.from_numpy(owner)] + torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    pair = Encoding(images), Encoding(texts)
    dot = lambda a, b: a.values @ b.values.T  # noqa: E731
    persons = Protocol(name="x", dataset="x", positives="identity", families=("ranks",), primary="t2i/R@1")
    found = evaluate(persons, *pair, dot, owner, image_identities=identity)
    intervals = bootstrap_metrics(found, owner, identity)
    assert found.ranks is not None
    for key, hits, clusters in (
        ("i2t/R@1", found.ranks.i2t <= 1, identity),
        ("t2i/R@5", found.ranks.t2i <= 5, identity[owner]),
    ):
        assert intervals[key] == pytest.approx(list(bootstrap_interval(100.0 * hits, clusters))), key
    assert intervals["t2i/R@5"] != bootstrap_metrics(found, owner)["t2i/R@5"]

    species = Protocol(
        name="x", dataset="x", positives="label", families=("class_level",), primary="t2i/AP@50"
    )
    by_class = evaluate(species, *pair, dot, owner, identity)
    precision, right = by_class.per_query["t2i/AP@50"], by_class.per_query["i2t/R@1"]
    intervals = bootstrap_metrics(by_class, owner)
    assert set(intervals) == {"t2i/AP@50", "i2t/R@1"}
    expected = bootstrap_interval(100 * precision, np.arange(len(precision)))
    assert intervals["t2i/AP@50"] == pytest.approx(list(expected))
    assert intervals["i2t/R@1"] == pytest.approx(list(bootstrap_interval(100 * right, np.arange(40))))


def test_paired_randomisation_is_the_exact_test_over_all_swaps() -> None:
    generator = np.random.default_rng(6)
    clusters = np.repeat(np.arange(9), 2)
    a = generator.normal(0.4, 1, 18)
    b = generator.normal(0.0, 1, 18)
    sums = np.array([(a - b)[clusters == c].sum() for c in range(9)])
    extreme = [abs(np.dot(s, sums)) >= abs(sums.sum()) - 1e-9 for s in itertools.product((-1, 1), repeat=9)]
    assert paired_randomisation(a, b, clusters, n=40_000) == pytest.approx(np.mean(extreme), abs=0.01)
    scipys = stats.permutation_test(
        (
            np.array([a[clusters == c].sum() for c in range(9)]),
            np.array([b[clusters == c].sum() for c in range(9)]),
        ),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert paired_randomisation(a, b, clusters, n=40_000) == pytest.approx(scipys.pvalue, abs=0.01)


def test_paired_randomisation_at_the_ends() -> None:
    same = np.arange(10.0)
    assert paired_randomisation(same, same, np.arange(10)) == 1.0
    clear = paired_randomisation(np.ones(50), np.zeros(50), np.arange(50), n=999)
    assert clear == pytest.approx(1 / 1000)
    # All queries of one image: one swap, so nothing can be claimed.
    assert paired_randomisation(np.ones(50), np.zeros(50), np.zeros(50, dtype=int)) == 1.0
    with_gap = np.array([np.nan, 1.0, 0.0])
    assert 0 < paired_randomisation(with_gap, np.array([np.nan, 0.0, 0.0]), np.arange(3)) <= 1
    with pytest.raises(ValueError, match="one method"):
        paired_randomisation(with_gap, np.zeros(3), np.arange(3))
    with pytest.raises(ValueError, match="same queries"):
        paired_randomisation(np.zeros(3), np.zeros(4), np.arange(3))


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
