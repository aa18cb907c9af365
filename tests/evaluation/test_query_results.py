from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from crossmodal_bench.evaluation import QueryResults
from crossmodal_bench.evaluation.query_results import cluster_effects

RECALLS = [f"{side}/R@{k}" for side in ("i2t", "t2i") for k in (1, 5, 10)]


def results(seed: int = 0, clusters: int = 12) -> QueryResults:
    """Of 12 images with one to three texts each."""
    generator = np.random.default_rng(seed)
    owner = np.repeat(np.arange(12), np.arange(12) % 3 + 1)
    per_query = {
        key: generator.integers(0, 2, 12 if key.startswith("i2t") else len(owner)).astype(float)
        for key in RECALLS
    }
    image_cluster = 7 * (np.arange(12) % clusters)
    return QueryResults(per_query, image_cluster, image_cluster[owner], ("ranks",))


def test_effects_are_what_a_loop_over_queries_adds_up() -> None:
    run = results(clusters=5)
    measured = cluster_effects([run], "rsum")
    expected = np.zeros(5)
    value = 0.0
    for key in RECALLS:
        cluster = run.image_cluster if key.startswith("i2t") else run.text_cluster
        mean = np.mean(run.per_query[key])
        value += 100 * mean
        for query, hit in enumerate(run.per_query[key]):
            expected[cluster[query] // 7] += 100 * (hit - mean) / len(cluster)
    assert measured.values == pytest.approx([value])
    assert measured.effects[0] == pytest.approx(expected)
    assert measured.effects.sum() == pytest.approx(0, abs=1e-9)
    assert measured.contributions.sum() == pytest.approx(value)
    assert measured.bounds == pytest.approx((0, 600)) and measured.step == pytest.approx(100)


def test_a_mean_of_directions_is_bounded_as_they_are() -> None:
    owner = np.arange(8) // 2
    run = QueryResults(
        {"i2t/mAP": np.linspace(0, 1, 4), "t2i/mAP": np.linspace(0.2, 0.4, 8)},
        np.arange(4),
        owner,
        ("label_precision",),
    )
    assert run.keys == ["i2t/mAP", "t2i/mAP", "mAP"]
    measured = cluster_effects([run], "mAP")
    assert measured.values == pytest.approx([0.4])
    assert measured.bounds == pytest.approx((0, 1)) and measured.step == pytest.approx(0.5)


def test_queries_that_do_not_count_are_left_out_with_their_clusters() -> None:
    hits = np.array([1.0, np.nan, 0.0, 1.0])
    run = QueryResults({"i2t/R@1": hits}, np.arange(4), np.arange(4), ("ranks",))
    measured = cluster_effects([run], "i2t/R@1")
    assert measured.values == pytest.approx([200 / 3])
    assert measured.effects[0] == pytest.approx(np.array([1 / 3, -2 / 3, 1 / 3]) * 100 / 3)


def test_classes_are_drawn_themselves() -> None:
    run = QueryResults(
        {"t2i/AP@50": np.array([0.5, 1.0, 0.0]), "i2t/R@1": np.array([1.0, 1.0, 0.0, 1.0])},
        np.array([0, 0, 1, 1]),
        np.arange(4),
        ("class_level",),
    )
    assert cluster_effects([run], "t2i/AP@50").effects.shape == (1, 3)
    assert cluster_effects([run], "i2t/R@1").effects.shape == (1, 2)


def test_values_outside_0_to_1_have_no_known_bounds() -> None:
    run = QueryResults({"i2t/R@1": np.array([0.5, 3.0])}, np.arange(2), np.arange(2), ("ranks",))
    assert cluster_effects([run], "i2t/R@1").bounds is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda run: QueryResults(run.per_query, run.image_cluster + 1, run.text_cluster, run.families),
            "same",
        ),
        (
            lambda run: QueryResults(
                {**run.per_query, "t2i/R@5": run.per_query["t2i/R@5"][1:]},
                run.image_cluster,
                run.text_cluster,
                run.families,
            ),
            "t2i/R@5 has",
        ),
        (
            lambda run: QueryResults(
                {**run.per_query, "t2i/R@5": np.r_[np.nan, run.per_query["t2i/R@5"][1:]]},
                run.image_cluster,
                run.text_cluster,
                run.families,
            ),
            "in one run but not in another",
        ),
    ],
)
def test_runs_on_different_queries_are_refused(
    change: Callable[[QueryResults], QueryResults], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cluster_effects([results(0), change(results(1))], "rsum")


def test_a_metric_without_results_of_queries_is_refused() -> None:
    with pytest.raises(ValueError, match="i2t/MedR has no per-query results; metrics that have them:"):
        cluster_effects([results()], "i2t/MedR")
    with pytest.raises(ValueError, match="at least one run"):
        cluster_effects([], "rsum")
