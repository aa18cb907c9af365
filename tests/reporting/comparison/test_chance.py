from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crossmodal_bench.evaluation.metric_table import SIDES, lookup
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.comparison.chance import below_chance, searched

Maker = Callable[..., Record]


def with_counts(
    make: Maker, images: int, captions: int, more: dict[str, int] | None = None, **changes: Any
) -> Record:
    data = {
        "fingerprint": "d",
        "split_hash": "5",
        "counts": {"test": {"images": images, "captions": captions, **(more or {})}},
        "labels": {"kind": "real", "count": 10, "rule": "classes"},
        "features": None,
    }
    return make(data=data, **changes)


def chance_recall(record: Record) -> dict[str, float | None]:
    return {side: lookup(f"{side}/R@10").chance_level(searched(record, side)) for side in SIDES}


def test_chance_recall_is_what_random_scores_reach(make_recall_record: Maker) -> None:
    record = with_counts(make_recall_record, 30, 90)
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), 3)
    texts = np.array([rng.permutation(owner)[:10] for _ in range(20000)])
    images = np.array([rng.permutation(30)[:10] for _ in range(20000)])
    expected = {"i2t": 100 * (texts == 0).any(1).mean(), "t2i": 100 * (images == 0).any(1).mean()}
    assert chance_recall(record) == pytest.approx(expected, abs=1.5)


def test_chance_recall_is_all_in_a_gallery_of_ten(make_recall_record: Maker) -> None:
    assert chance_recall(with_counts(make_recall_record, 8, 10)) == {"i2t": 100.0, "t2i": 100.0}


def test_chance_recall_counts_every_image_and_caption_of_an_identity(make_recall_record: Maker) -> None:
    record = with_counts(make_recall_record, 60, 120, {"identities": 20})
    rng = np.random.default_rng(0)
    texts = np.array([rng.permutation(np.repeat(np.arange(20), 6))[:10] for _ in range(20000)])
    images = np.array([rng.permutation(np.repeat(np.arange(20), 3))[:10] for _ in range(20000)])
    expected = {"i2t": 100 * (texts == 0).any(1).mean(), "t2i": 100 * (images == 0).any(1).mean()}
    assert chance_recall(record) == pytest.approx(expected, abs=1.5)


def test_chance_of_classes_is_what_random_scores_reach(make_record: Maker) -> None:
    record = with_counts(make_record, 100, 100, {"classes": 4})
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), [55, 25, 15, 5])
    drawn = np.array([rng.permutation(labels)[:50] for _ in range(2000)])
    precision = np.mean([(drawn == label).mean() for label in range(4)])
    chance = lookup("t2i/AP@50").chance_level(searched(record, "t2i"))
    assert chance == pytest.approx(100 * precision, abs=1.5) == 25.0


def test_classes_are_judged_by_their_own_metrics(make_record: Maker) -> None:
    reached = {"t2i/AP@50": 37.0, "i2t/R@1": 38.0}
    record = with_counts(make_record, 100, 100, {"classes": 4}, metrics=reached, curves={})
    assert below_chance(record) == ["acmr seed 0: t2i/AP@50 is 37.0, chance is 25.0"]
    better = with_counts(make_record, 100, 100, {"classes": 5}, metrics=reached, curves={})
    assert below_chance(better) == []


def test_a_direction_that_is_no_better_than_chance_is_named(make_recall_record: Maker) -> None:
    good = {"i2t/R@10": 40.0, "t2i/R@10": 40.0}
    assert below_chance(with_counts(make_recall_record, 100, 100, metrics=good)) == []
    (sentence,) = below_chance(with_counts(make_recall_record, 100, 100, metrics={**good, "t2i/R@10": 12.0}))
    assert sentence == "acmr seed 0: t2i/R@10 is 12.0, chance is 10.0"


def test_without_recall_map_is_judged(make_record: Maker) -> None:
    curves = {
        "i2t/precision_scope": {"scope": [50, 100], "precision": [0.3, 0.2]},
        "t2i/precision_scope": {"scope": [50], "precision": [0.3]},
    }
    record = with_counts(make_record, 100, 100, curves=curves, metrics={"i2t/mAP": 0.29, "t2i/mAP": 0.16})
    assert lookup("i2t/mAP").chance_level(searched(record, "i2t")) == 0.2
    assert lookup("t2i/mAP").chance_level(searched(record, "t2i")) == 0.1
    assert below_chance(record) == ["acmr seed 0: i2t/mAP is 0.290, chance is 0.200"]


def test_a_number_that_is_missing_is_not_above_chance(make_record: Maker) -> None:
    record = with_counts(make_record, 100, 100, curves={}, metrics={"i2t/mAP": 0.9})
    assert below_chance(record) == ["acmr seed 0: t2i/mAP is not a number, chance is 0.100"]
