from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation import (
    Protocol,
    Ranks,
    class_retrieval,
    evaluate,
    rank_metrics,
    retrieval_ranks,
)
from crossmodal_bench.evaluation.metric_table import computed, of_family
from crossmodal_bench.evaluation.ranking.precision import precision_at

BOTH = Protocol(
    name="x-test",
    dataset="x",
    positives="caption",
    families=("ranks", "label_precision"),
    primary="rsum",
)
RECALL = replace(BOTH, families=("ranks",))
LABELS = replace(BOTH, families=("label_precision",), primary="mAP")
PERSONS = replace(RECALL, positives="identity", primary="t2i/R@1")
SPECIES = replace(LABELS, families=("class_level",), primary="t2i/AP@50")
OWNER = np.random.default_rng(0).permutation(np.concatenate([np.arange(200) // 5, [3, 17, 17]]))
IMAGES = Encoding(torch.randint(-9, 10, (40, 6), generator=torch.Generator().manual_seed(0)).float())
TEXTS = Encoding(
    IMAGES.values[torch.from_numpy(OWNER)]
    + torch.randint(-9, 10, (203, 6), generator=torch.Generator().manual_seed(1))
)
CLASSES = np.arange(40) % 3


def dot(images: Encoding, texts: Encoding) -> Tensor:
    return images.values @ texts.values.T


def test_each_group_gives_its_keys_and_nothing_else() -> None:
    recall = evaluate(RECALL, IMAGES, TEXTS, dot, OWNER)
    labels = evaluate(LABELS, IMAGES, TEXTS, dot, OWNER, CLASSES)
    both = evaluate(BOTH, IMAGES, TEXTS, dot, OWNER, CLASSES)
    sides = ("i2t", "t2i")
    recall_keys = {f"{s}/{m}" for s in sides for m in ("R@1", "R@5", "R@10", "MedR", "MeanR")} | {
        "rsum",
        "sum",
    }
    label_keys = {f"{s}{m}" for s in ("i2t/", "t2i/", "") for m in ("mAP", "mAP@50")}
    assert recall_keys <= set(recall.metrics) == {metric.key for metric in of_family("ranks")}
    assert label_keys <= set(labels.metrics) == {metric.key for metric in of_family("label_precision")}
    assert both.metrics == recall.metrics | labels.metrics
    assert recall.curves == {} and labels.ranks is None
    assert {f"{s}/R@{k}" for s in sides for k in (1, 5, 10)} <= set(recall.per_query)
    assert set(recall.per_query) == {metric.key for metric in computed("ranks") if metric.per_query}
    assert set(labels.curves) == {"i2t/precision_scope", "t2i/precision_scope"}
    assert {f"{s}/{m}" for s in sides for m in ("mAP", "mAP@50")} <= set(labels.per_query)
    assert set(labels.per_query) == {metric.key for metric in computed("label_precision")}
    assert labels.metrics["mAP"] == pytest.approx((labels.metrics["i2t/mAP"] + labels.metrics["t2i/mAP"]) / 2)
    assert labels.metrics["t2i/mAP"] == pytest.approx(labels.per_query["t2i/mAP"].mean())


def test_a_text_has_the_labels_of_its_image() -> None:
    # One class per image: an image's own captions are all that is relevant to it.
    found = evaluate(BOTH, IMAGES, TEXTS, dot, OWNER, np.arange(40))
    assert found.ranks is not None
    np.testing.assert_allclose(found.per_query["t2i/mAP"], 1 / found.ranks.t2i, rtol=1e-6)


def test_positives_by_identity_and_classes_reach_their_evaluation() -> None:
    persons = evaluate(PERSONS, IMAGES, TEXTS, dot, OWNER, image_identities=CLASSES)
    expected = retrieval_ranks(dot(IMAGES, TEXTS), OWNER, image_identity=CLASSES)
    assert persons.metrics == rank_metrics(expected.of("i2t"), expected.of("t2i"))
    assert persons.classes is None
    species = evaluate(SPECIES, IMAGES, TEXTS, dot, OWNER, CLASSES)
    measures = {"AP@50": partial(precision_at, cutoff=50)}
    found = class_retrieval(IMAGES, TEXTS, dot, OWNER, CLASSES, measures=measures)
    assert species.metrics == {
        "t2i/AP@50": 100 * found.per_class["AP@50"].mean(),
        "i2t/R@1": 100 * found.first.mean(),
    }
    assert species.ranks is None and species.classes is not None
    assert species.classes.tolist() == found.classes.tolist() == [0, 1, 2]
    # Identities of a protocol by caption change nothing.
    plain = evaluate(RECALL, IMAGES, TEXTS, dot, OWNER, image_identities=CLASSES)
    assert plain.metrics == evaluate(RECALL, IMAGES, TEXTS, dot, OWNER).metrics


def test_folds_take_the_identities_of_their_images() -> None:
    found = evaluate(replace(PERSONS, folds=4), IMAGES, TEXTS, dot, OWNER, image_identities=CLASSES)
    assert found.ranks is not None
    columns = np.flatnonzero(np.equal(OWNER // 10, 2))
    scores = IMAGES.values[20:30] @ TEXTS.values[columns].T
    alone = retrieval_ranks(scores, OWNER[columns] - 20, image_identity=CLASSES[20:30])
    np.testing.assert_array_equal(found.ranks.i2t[20:30], alone.i2t)
    np.testing.assert_array_equal(found.ranks.t2i[columns], alone.t2i)


def test_folds_have_their_own_galleries_and_global_numbers() -> None:
    found = evaluate(replace(RECALL, folds=4), IMAGES, TEXTS, dot, OWNER)
    rows = []
    assert found.ranks is not None
    for start in range(0, 40, 10):
        columns = np.flatnonzero(np.equal(OWNER // 10, start // 10))
        scores = IMAGES.values[start : start + 10] @ TEXTS.values[columns].T
        alone = retrieval_ranks(scores, OWNER[columns] - start)
        rows.append(rank_metrics(alone.of("i2t"), alone.of("t2i")))
        np.testing.assert_array_equal(found.ranks.i2t[start : start + 10], alone.i2t)
        np.testing.assert_array_equal(found.ranks.t2i[columns], alone.t2i)
        np.testing.assert_array_equal(found.ranks.i2t_top[start : start + 10], columns[alone.i2t_top])
        np.testing.assert_array_equal(found.ranks.t2i_top[columns], alone.t2i_top + start)
        np.testing.assert_array_equal(found.ranks.t2i_top_scores[columns], alone.t2i_top_scores)
    for key, value in found.metrics.items():
        assert value == pytest.approx(np.mean([row[key] for row in rows]))
    whole = evaluate(RECALL, IMAGES, TEXTS, dot, OWNER)
    assert found.metrics["rsum"] > whole.metrics["rsum"]


def test_counts_that_are_not_the_protocols_raise() -> None:
    with pytest.raises(ValueError, match="needs 41 images, got 40"):
        evaluate(replace(RECALL, images=41), IMAGES, TEXTS, dot, OWNER)
    with pytest.raises(ValueError, match="needs 200 captions, got 203"):
        evaluate(replace(RECALL, captions=(200,)), IMAGES, TEXTS, dot, OWNER)
    with pytest.raises(ValueError, match="needs 200 or 205 captions, got 203"):
        evaluate(replace(RECALL, captions=(200, 205)), IMAGES, TEXTS, dot, OWNER)
    assert evaluate(replace(RECALL, captions=(200, 203)), IMAGES, TEXTS, dot, OWNER).metrics
    with pytest.raises(ValueError, match="needs the images' labels"):
        evaluate(LABELS, IMAGES, TEXTS, dot, OWNER)
    with pytest.raises(ValueError, match="needs the images' labels"):
        evaluate(SPECIES, IMAGES, TEXTS, dot, OWNER)
    with pytest.raises(ValueError, match="needs the images' identities"):
        evaluate(PERSONS, IMAGES, TEXTS, dot, OWNER, CLASSES)
    with pytest.raises(ValueError, match="3 equal folds"):
        evaluate(replace(RECALL, folds=3), IMAGES, TEXTS, dot, OWNER)


def test_per_query_results_are_saved_with_and_without_ranks(tmp_path: Path) -> None:
    ids = [f"i{n}" for n in range(40)], [f"c{n}" for n in range(203)]
    both = evaluate(BOTH, IMAGES, TEXTS, dot, OWNER, CLASSES)
    both.save(tmp_path / "both.npz", *ids)
    assert both.ranks is not None
    np.testing.assert_array_equal(Ranks.load(tmp_path / "both.npz").t2i, both.ranks.t2i)
    evaluate(LABELS, IMAGES, TEXTS, dot, OWNER, CLASSES).save(tmp_path / "labels.npz", *ids)
    with np.load(tmp_path / "labels.npz") as stored:
        np.testing.assert_array_equal(stored["ap/t2i/mAP@50"], both.per_query["t2i/mAP@50"])
    assert Ranks.load_ids(tmp_path / "labels.npz") == ids
    with pytest.raises(BadInput, match="without ranks"):
        Ranks.load(tmp_path / "labels.npz")


def test_per_query_results_of_classes_are_saved(tmp_path: Path) -> None:
    ids = [f"i{n}" for n in range(40)], [f"c{n}" for n in range(203)]
    found = evaluate(SPECIES, IMAGES, TEXTS, dot, OWNER, CLASSES)
    found.save(tmp_path / "classes.npz", *ids)
    with np.load(tmp_path / "classes.npz") as stored:
        assert stored["class/labels"].tolist() == [0, 1, 2]
        assert 100 * stored["class/t2i/AP@50"].mean() == pytest.approx(found.metrics["t2i/AP@50"])
        assert 100 * stored["class/i2t/R@1"].mean() == pytest.approx(found.metrics["i2t/R@1"])
        assert stored["class/i2t/R@1"].shape == (40,)
    assert Ranks.load_ids(tmp_path / "classes.npz") == ids
