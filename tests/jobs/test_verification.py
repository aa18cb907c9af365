from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from answered import write_ranks
from finished import IMAGES, finished

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import rank_metrics
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.evaluation.ranking.ranks import Ranks, write_results
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.jobs.verification import check_record, recomputed_metrics

Make = Callable[..., Record]


def test_every_metric_of_ranks_is_computed_again(make_record: Make) -> None:
    record = finished(make_record)
    metrics = recomputed_metrics(record)
    assert metrics == record.metrics and {"i2t/MedR", "t2i/MeanR", "rsum", "sum"} <= metrics.keys()
    assert check_record(record) == []


def test_a_wrong_metric_is_named(make_record: Make) -> None:
    record = finished(make_record)
    record.metrics["rsum"] += 0.1
    (fault,) = check_record(record)
    assert str(record.ranks) in fault and "gives rsum" in fault


def test_a_metric_that_does_not_follow_from_the_ranks_is_named(make_record: Make) -> None:
    record = finished(make_record)
    record.metrics.update({"mAP": 0.5, "BLEU-1": 50.0})
    (fault,) = check_record(record)
    assert "does not give the record's mAP" in fault


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda stated: stated.update({"rsum": (0.0, 600.0)}), "gives rsum the interval "),
        (lambda stated: stated.pop("t2i/R@5"), "and the record has none; run its job again"),
        (lambda stated: stated.update({"i2t/MedR": (1.0, 2.0)}), "does not give the record's interval of"),
    ],
)
def test_a_wrong_interval_is_named(
    make_record: Make, change: Callable[[dict[str, tuple[float, float]]], object], sentence: str
) -> None:
    record = finished(make_record)
    change(record.intervals)
    (fault,) = check_record(record)
    assert str(record.ranks) in fault and sentence in fault


def test_other_queries_other_versions_and_broken_files_are_named(make_record: Make) -> None:
    record = finished(make_record)
    assert "is current" in check_record(record.model_copy(update={"protocol_version": 0}))[0]
    other = record.data.model_copy(update={"split_hash": "0" * 16})
    assert "is not of the record's split" in check_record(record.model_copy(update={"data": other}))[0]
    more = record.data.model_copy(update={"counts": {"test": {"images": IMAGES + 1, "captions": 200}}})
    assert (
        f"has {IMAGES} images, but the record {IMAGES + 1}"
        in check_record(record.model_copy(update={"data": more}))[0]
    )
    named = finished(make_record, dataset="flickr8k", protocol="flickr8k-1k")
    assert "is not of the split of flickr8k-1k@1" in check_record(named)[0]
    whole = record.ranks.read_bytes()
    record.ranks.write_bytes(whole[:2000])
    assert "is not an .npz" in check_record(record)[0]
    record.ranks.unlink()
    assert "is missing" in check_record(record)[0]


def test_expected_ranks_that_are_not_those_of_the_ties_are_refused(make_record: Make) -> None:
    record = finished(make_record)
    ranks = Ranks.load(record.ranks)
    write_ranks(record, ranks.i2t, ranks.t2i, i2t_expected=ranks.i2t_expected + 1)
    with pytest.raises(BadInput, match="has inconsistent per-query results"):
        recomputed_metrics(record)


def test_folds_are_averaged_as_the_evaluator_does(make_record: Make) -> None:
    record = finished(make_record)
    ranks = Ranks.load(record.ranks)
    blocks = [(slice(at, at + 8), slice(5 * at, 5 * at + 40)) for at in range(0, IMAGES, 8)]
    folds = [
        rank_metrics(QueryRanks.untied(ranks.i2t[images]), QueryRanks.untied(ranks.t2i[texts]))
        for images, texts in blocks
    ]
    again = recomputed_metrics(record.model_copy(update={"resembles": "coco-1k-5fold"}))
    assert again["i2t/MedR"] == pytest.approx(np.mean([fold["i2t/MedR"] for fold in folds]))
    assert again["t2i/MeanR"] == pytest.approx(np.mean([fold["t2i/MeanR"] for fold in folds]))


def test_average_precision_is_computed_again(make_record: Make) -> None:
    record = finished(make_record)
    random = np.random.default_rng(0).random
    stored = {
        "image_cluster": np.arange(IMAGES),
        "text_cluster": np.repeat(np.arange(IMAGES), 5),
        **{f"ap/i2t/{name}": random(IMAGES) for name in ("mAP", "mAP@50")},
        **{f"ap/t2i/{name}": random(5 * IMAGES) for name in ("mAP", "mAP@50")},
    }
    ids = [f"image {row}" for row in range(IMAGES)], [f"caption {row}" for row in range(5 * IMAGES)]
    write_results(record.ranks, stored, *ids, (IMAGES, 5 * IMAGES))
    metrics = recomputed_metrics(record)
    assert metrics["i2t/mAP"] == pytest.approx(stored["ap/i2t/mAP"].mean())
    assert metrics["mAP"] == pytest.approx((metrics["i2t/mAP"] + metrics["t2i/mAP"]) / 2)
