"""Semantic matching against scikit-learn's own predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.methods import SemanticMatching

N = 60


def views(classes: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, N)
    images = rng.normal(size=(classes, 6))[labels] + rng.normal(size=(N, 6))
    texts = rng.normal(size=(classes, 4))[labels] + rng.normal(size=(N, 4))
    return images * 5 + 2, texts * 0.1, labels


def solved(
    images: NDArray[Any], texts: NDArray[Any], labels: NDArray[Any], n_labels: int, **settings: float
) -> Any:
    model = SemanticMatching(**settings)
    model.prepare(
        DataSpec(
            N,
            N,
            n_labels=n_labels,
            multi_label=labels.ndim == 2,
            feature_dim=images.shape[1],
            bow_dim=texts.shape[1],
        )
    )
    model.fit(images, texts, labels)
    return model


def probabilities(model: Any, images: NDArray[Any], texts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    index = torch.arange(len(images))
    return (
        model.encode_images(ImageBatch(index, features=torch.from_numpy(images).float())).values.numpy(),
        model.encode_texts(TextBatch(index, index, bow=torch.from_numpy(texts).float())).values.numpy(),
    )


def by_sklearn(x: NDArray[Any], labels: NDArray[Any], c: float = 1.0) -> NDArray[Any]:
    regression = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))
    return regression.fit(x, labels).predict_proba(x)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_probabilities_are_sklearns(classes: int) -> None:
    images, texts, labels = views(classes)
    model = solved(images, texts, labels, classes, image_c=0.3, text_c=2.0)
    of_images, of_texts = probabilities(model, images, texts)
    np.testing.assert_allclose(of_images, by_sklearn(images, labels, 0.3), atol=2e-3)
    np.testing.assert_allclose(of_texts, by_sklearn(texts, labels, 2.0), atol=2e-3)


def test_a_class_without_training_pairs_has_no_probability() -> None:
    images, texts, labels = views(4)
    labels = np.where(labels == 1, 3, labels)
    of_images, _ = probabilities(solved(images, texts, labels, 4), images, texts)
    assert of_images[:, 1].max() == 0
    np.testing.assert_allclose(of_images[:, [0, 2, 3]], by_sklearn(images, labels), atol=2e-3)


def test_two_classes_that_are_not_the_first_two() -> None:
    images, texts, labels = views(2)
    labels = np.array([1, 3])[labels]
    of_images, _ = probabilities(solved(images, texts, labels, 4), images, texts)
    assert of_images[:, [0, 2]].max() == 0
    np.testing.assert_allclose(of_images[:, [1, 3]], by_sklearn(images, labels), atol=2e-3)


def test_one_class_is_refused() -> None:
    images, texts, _ = views(2)
    with pytest.raises(
        BadInput, match="all training pairs have class 1; semantic matching needs at least two"
    ):
        solved(images, texts, np.ones(N, dtype=np.int64), 2)


def test_multi_hot_labels_get_a_regression_each_and_constant_ones_a_constant() -> None:
    images, texts, classes = views(3)
    labels = np.stack([classes == 0, classes != 1, np.zeros(N), np.ones(N)], axis=1).astype(np.int64)
    of_images, of_texts = probabilities(solved(images, texts, labels, 4), images, texts)
    for found, x in ((of_images, images), (of_texts, texts)):
        for label in (0, 1):
            np.testing.assert_allclose(found[:, label], by_sklearn(x, labels[:, label])[:, 1], atol=2e-3)
        assert found[:, 2].max() == 0
        assert found[:, 3].min() == 1


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e5 / 3])
def test_constant_columns_change_nothing(constant: float) -> None:
    images, texts, labels = views(3)
    expected, _ = probabilities(solved(images, texts, labels, 3), images, texts)
    with_constant = np.column_stack([images, np.full(N, constant)])
    found, _ = probabilities(solved(with_constant, texts, labels, 3), with_constant, texts)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_score_is_the_correlation_of_probabilities() -> None:
    images, texts, labels = views(4)
    model = solved(images, texts, labels, 4)
    index = torch.arange(N)
    encoded = (
        model.encode_images(ImageBatch(index, features=torch.from_numpy(images).float())),
        model.encode_texts(TextBatch(index, index, bow=torch.from_numpy(texts).float())),
    )
    scores = model.score(*encoded)
    expected = np.corrcoef(encoded[0].values.numpy(), encoded[1].values.numpy())[:N, N:]
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-4)
    same = torch.from_numpy(labels[:, None] == labels[None, :])
    assert scores[same].mean() > scores[~same].mean() + 0.3
