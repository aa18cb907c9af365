"""CCA against the textbook: singular values of the whitened cross-covariance, by NumPy and SciPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.methods import CCA

N, IMAGE_DIM, TEXT_DIM = 60, 7, 5


def correlated(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two views of three shared causes, full rank, neither centred nor of one scale."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(N, 3))
    images = causes @ rng.normal(size=(3, IMAGE_DIM)) + 0.7 * rng.normal(size=(N, IMAGE_DIM))
    texts = causes @ rng.normal(size=(3, TEXT_DIM)) + 0.7 * rng.normal(size=(N, TEXT_DIM))
    return images * rng.uniform(0.1, 10, IMAGE_DIM) + 3, texts * rng.uniform(0.1, 10, TEXT_DIM) - 1


def naive_correlations(images: NDArray[np.float64], texts: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = images - images.mean(0), texts - texts.mean(0)
    whitened = (
        scipy.linalg.inv(scipy.linalg.sqrtm(x.T @ x))
        @ x.T
        @ y
        @ scipy.linalg.inv(scipy.linalg.sqrtm(y.T @ y))
    )
    return np.linalg.svd(whitened)[1]


def solved(images: NDArray[Any], texts: NDArray[Any], **settings: Any) -> CCA:
    model = CCA(**settings)
    model.prepare(DataSpec(len(images), len(texts), feature_dim=images.shape[1], bow_dim=texts.shape[1]))
    model.fit(images, texts, None)
    return model


def encoded(model: CCA, images: NDArray[Any], texts: NDArray[Any]) -> tuple[Encoding, Encoding]:
    index = torch.arange(len(images))
    return (
        model.encode_images(ImageBatch(index, features=torch.from_numpy(images).float())),
        model.encode_texts(TextBatch(index, index, bow=torch.from_numpy(texts).float())),
    )


@pytest.mark.parametrize("dim", [TEXT_DIM, 2])
def test_variates_correlate_as_the_textbook_says(dim: int) -> None:
    data = correlated()
    images, texts = encoded(solved(*data, dim=dim, image_ridge=0.0, text_ridge=0.0), *data)
    assert images.values.shape == texts.values.shape == (N, dim)
    both = np.corrcoef(images.values.T, texts.values.T)
    expected = naive_correlations(*data)[:dim]
    assert expected[0] > 0.8
    np.testing.assert_allclose(np.diag(both[:dim, dim:]), expected, atol=1e-4)
    # Each variate is correlated with its partner and with no other, of either side.
    np.testing.assert_allclose(
        both - np.diag(np.diag(both)),
        np.block([[np.zeros((dim, dim)), np.diag(expected)], [np.diag(expected), np.zeros((dim, dim))]]),
        atol=1e-3,
    )


def test_scores_do_not_change_with_the_units_of_the_features() -> None:
    images, texts = correlated()
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(IMAGE_DIM, IMAGE_DIM))
    mixed = images @ mixing + 5
    plain = solved(images, texts, dim=4, image_ridge=0.0, text_ridge=0.0)
    other = solved(mixed, texts, dim=4, image_ridge=0.0, text_ridge=0.0)
    torch.testing.assert_close(
        plain.score(*encoded(plain, images, texts)),
        other.score(*encoded(other, mixed, texts)),
        rtol=1e-3,
        atol=1e-3,
    )


def test_score_is_the_cosine_of_the_variates() -> None:
    data = correlated()
    model = solved(*data)
    images, texts = encoded(model, *data)
    i, j = images.values[3].double(), texts.values[8].double()
    assert float(model.score(images, texts)[3, 8]) == pytest.approx(
        float(i @ j / i.norm() / j.norm()), abs=1e-5
    )


def test_pairs_that_were_not_seen_find_each_other() -> None:
    images, texts = correlated()
    model = solved(images[:40], texts[:40], dim=3)
    scores = model.score(*encoded(model, images[40:], texts[40:]))
    ranks = (scores >= scores.diagonal()[:, None]).sum(1)
    assert float(ranks.float().mean()) < 5.5, "chance is 10.5"


@pytest.mark.parametrize("settings", [{}, {"image_ridge": 0.1, "text_ridge": 0.1}])
def test_histograms_without_full_rank_do_not_blow_up(settings: dict[str, float]) -> None:
    images, texts = correlated()
    images, texts = np.abs(images), np.abs(texts)
    images, texts = images / images.sum(1, keepdims=True), texts / texts.sum(1, keepdims=True)
    # Bags hold words that never occur in training, and constant and repeated columns.
    images = np.column_stack([images, np.zeros(N), np.full(N, 0.1), images[:, 0]])
    model = solved(images, texts, **settings)
    found = encoded(model, images, texts)
    for side in found:
        assert side.values.isfinite().all()
        assert side.values.abs().max() < 100, "variates have about unit variance"
    scores = model.score(*found)
    assert (scores.diagonal()[:, None] >= scores).float().mean() > 0.7


def test_fewer_pairs_than_dimensions_leave_the_rest_empty() -> None:
    images, texts = correlated()
    model = solved(images[:4], texts[:4], dim=20)
    found = encoded(model, images, texts)
    assert found[0].values.shape == (N, 20)
    assert found[0].values[:, 5:].abs().max() == 0
    assert model.score(*found).isfinite().all()


@pytest.mark.parametrize(("side", "what"), [(0, "image features"), (1, "text features")])
@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_data_that_do_not_vary_are_a_sentence(side: int, what: str, value: float, noise: float) -> None:
    views = list(correlated())
    constant = np.full_like(views[side], value)
    views[side] = constant * (1 + noise * np.random.default_rng(0).normal(size=constant.shape))
    with pytest.raises(
        BadInput, match=f"CCA cannot be solved: the {what} of all 60 training pairs are equal"
    ):
        solved(*views)
