from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmodal_bench.similarity import cosine_similarity, negative_euclidean
from crossmodal_bench.similarity.vectors import centred

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(4, 6, generator=GENERATOR)
TEXTS = torch.randn(5, 6, generator=GENERATOR)


def test_cosine_is_the_loop() -> None:
    found = cosine_similarity(IMAGES, TEXTS)
    assert found.shape == (4, 5)
    for i, image in enumerate(IMAGES.double()):
        for j, text in enumerate(TEXTS.double()):
            expected = float(image @ text) / float(image.norm() * text.norm())
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-6)


def test_cosine_of_nothing_is_zero() -> None:
    assert cosine_similarity(torch.zeros(1, 6), TEXTS).tolist() == [[0.0] * 5]


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_negative_euclidean_is_the_loop(scale: float) -> None:
    found = negative_euclidean(IMAGES * scale, TEXTS * scale)
    assert found.shape == (4, 5)
    for i, image in enumerate(IMAGES.double()):
        for j, text in enumerate(TEXTS.double()):
            assert float(found[i, j]) == pytest.approx(-scale * float((image - text).norm()), rel=1e-5)


def test_rounding_never_makes_a_distance_not_a_number() -> None:
    x = torch.randn(50, 200, generator=GENERATOR) * 1e3
    found = negative_euclidean(x, x)
    assert found.isfinite().all() and (found <= 0).all()
    assert found.argmax(1).tolist() == list(range(50))


def test_cosine_of_centred_rows_is_pearsons_correlation() -> None:
    expected = np.corrcoef(IMAGES.numpy(), TEXTS.numpy())[:4, 4:]
    np.testing.assert_allclose(
        cosine_similarity(centred(IMAGES), centred(TEXTS)).numpy(), expected, atol=1e-6
    )
