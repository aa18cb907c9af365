from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossmodal_bench.evaluation import (
    fold_metrics,
    hit_at_k,
    mean_rank,
    median_rank,
    rank_metrics,
    retrieval_ranks,
)
from crossmodal_bench.evaluation.metrics import fold_slices
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks

GOLDEN = Path(__file__).parents[1] / "golden" / "retrieval_eval.npz"
COLUMNS = ("R@1", "R@5", "R@10", "MedR", "MeanR")


def test_recall_counts_hits_in_percent() -> None:
    ranks = QueryRanks.untied([1, 1, 3, 5, 6, 10, 11, 400])
    assert hit_at_k(ranks, 5).tolist() == [1.0] * 4 + [0.0] * 4
    metrics = rank_metrics(ranks, ranks)
    assert [metrics[f"i2t/R@{k}"] for k in (1, 5, 10)] == [25.0, 50.0, 75.0]


@pytest.mark.parametrize(
    ("ranks", "median"), [([1, 2], 1), ([1, 4], 2), ([3], 3), ([2, 2, 9], 2), ([1, 2, 3, 4], 2)]
)
def test_median_rank_floors_the_zero_based_median(ranks: list[int], median: float) -> None:
    assert median_rank(QueryRanks.untied(ranks)) == median


def test_mean_rank_is_one_based() -> None:
    assert mean_rank(QueryRanks.untied([1, 1, 4])) == 2.0


@pytest.mark.parametrize("measure", ["cosine", "order_abs"])
def test_golden_metrics_of_500_images(measure: str) -> None:
    golden = np.load(GOLDEN)
    metrics = rank_metrics(
        QueryRanks.untied(golden[f"{measure}/i2t_ranks"] + 1),
        QueryRanks.untied(golden[f"{measure}/t2i_ranks"] + 1),
    )
    for side in ("i2t", "t2i"):
        found = [metrics[f"{side}/{column}"] for column in COLUMNS]
        np.testing.assert_allclose(found, golden[f"{measure}/{side}"], rtol=1e-12)


def test_golden_five_folds_rows_means_and_rsum() -> None:
    golden = np.load(GOLDEN)
    folds = []
    for number, rows in enumerate(fold_slices(5000, 5)):
        captions = golden["coco_cap"][rows.start * 5 : rows.stop * 5]
        ranks = retrieval_ranks(golden["coco_img"][rows] @ captions.T, np.arange(5000) // 5)
        np.testing.assert_array_equal(ranks.i2t - 1, golden[f"fold{number}/i2t_ranks"])
        np.testing.assert_array_equal(ranks.t2i - 1, golden[f"fold{number}/t2i_ranks"])
        folds.append((ranks.of("i2t"), ranks.of("t2i")))
        metrics = rank_metrics(ranks.of("i2t"), ranks.of("t2i"))
        row = [metrics[f"{side}/{column}"] for side in ("i2t", "t2i") for column in COLUMNS]
        np.testing.assert_allclose(row, golden["fold5_rows"][number][:10], rtol=1e-12)
        assert metrics["rsum"] == pytest.approx(golden["fold5_rows"][number][12])
    mean = fold_metrics(folds)
    row = [mean[f"{side}/{column}"] for side in ("i2t", "t2i") for column in COLUMNS]
    np.testing.assert_allclose(row, golden["fold5_mean"][:10], rtol=1e-12)
    recalls = [mean[f"{side}/R@{k}"] for side in ("i2t", "t2i") for k in (1, 5, 10)]
    # The originals print 6 x the mean i2t recall as "rsum"; it is the sum of the six recalls.
    assert mean["rsum"] == pytest.approx(sum(recalls)) == pytest.approx(golden["fold5_mean"][12])
    assert abs(mean["rsum"] - 6 * golden["fold5_mean"][10]) > 1


def test_sum_of_gxn_leaves_out_recall_at_5() -> None:
    metrics = rank_metrics(QueryRanks.untied([1, 3, 9, 20]), QueryRanks.untied([1, 1, 2, 30]))
    assert metrics["sum"] == 25 + 75 + 50 + 75
    assert metrics["rsum"] == 25 + 50 + 75 + 50 + 75 + 75


def test_folds_that_do_not_divide_and_empty_ranks_raise() -> None:
    with pytest.raises(ValueError, match="5001 images cannot be cut into 5"):
        fold_slices(5001, 5)
    with pytest.raises(ValueError, match="no folds"):
        fold_metrics([])
