from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.similarity import cosine_similarity, order, order_similarity
from crossmodal_bench.similarity.order import Direction

GOLDEN = Path(__file__).parents[1] / "golden" / "matching.npz"
ORDER_EMBEDDINGS = Path(__file__).parents[1] / "golden" / "order_embedding.npz"
DIRECTIONS: tuple[Direction, ...] = ("image_minus_text", "text_minus_image")


def vse_order(images: Tensor, texts: Tensor) -> Tensor:
    return order_similarity(images, texts, "text_minus_image", squared=False)


MEASURES = {"cosine": cosine_similarity, "order": vse_order}


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Tensor]]:
    with np.load(GOLDEN) as arrays:
        yield {
            name[4:]: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files if name[:3] == "vse"
        }


@pytest.mark.parametrize("measure", MEASURES)
def test_rectangles_are_vse_pps(golden: dict[str, Tensor], measure: str) -> None:
    images, texts = golden["im"], golden["s_rect"]
    if measure == "order":
        images, texts = images.abs(), texts.abs()
    found = MEASURES[measure](images, texts)
    torch.testing.assert_close(found, golden[f"{measure}_sim_rect"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("margin", [0.05, 0.2])
@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("measure", MEASURES)
def test_losses_and_gradients_are_vse_pps(
    golden: dict[str, Tensor], measure: str, hardest: bool, margin: float
) -> None:
    images, texts = golden["im"].clone(), golden["s"].clone()
    if measure == "order":
        images, texts = images.abs(), texts.abs()
    images, texts = images.requires_grad_(), texts.requires_grad_()
    # The cosine of VSE++ is the product of vectors that are of unit length already.
    scores = images @ texts.T if measure == "cosine" else vse_order(images, texts)
    loss = triplet_ranking_loss(scores, margin, hardest)
    case = f"{measure}/max_violation={hardest}/margin={margin}"
    torch.testing.assert_close(loss, golden[f"loss/{case}"], rtol=1e-7, atol=0)
    for gradient, name in zip(torch.autograd.grad(loss, (images, texts)), ("grad_im", "grad_s"), strict=True):
        torch.testing.assert_close(gradient, golden[f"{name}/{case}"], rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def original() -> Iterator[dict[str, Tensor]]:
    with np.load(ORDER_EMBEDDINGS) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def test_violations_losses_and_gradients_are_those_of_order_embeddings(original: dict[str, Tensor]) -> None:
    images, texts = original["im"].clone().requires_grad_(), original["s"].clone().requires_grad_()
    scores = order_similarity(images, texts, "text_minus_image")
    torch.testing.assert_close(-scores.T, original["order_errors[caption,image]"], rtol=0, atol=1e-12)
    loss = triplet_ranking_loss(scores, 0.05, hardest=False)
    torch.testing.assert_close(loss, original["order/margin=0.05/loss"], rtol=1e-12, atol=0)
    for gradient, name in zip(torch.autograd.grad(loss, (images, texts)), ("grad_im", "grad_s"), strict=True):
        torch.testing.assert_close(gradient, original[f"order/margin=0.05/{name}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_order_is_a_naive_loop_and_blocks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, direction: Direction, squared: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.rand(5, 7, generator=generator), torch.rand(4, 7, generator=generator)
    sign = 1 if direction == "image_minus_text" else -1
    power = 1.0 if squared else 0.5
    expected = [
        [
            -(sum(max(0.0, sign * float(v - s)) ** 2 for v, s in zip(a, b, strict=True)) ** power)
            for b in texts
        ]
        for a in images
    ]
    for numbers in (order._NUMBERS, 60, 1):
        monkeypatch.setattr(order, "_NUMBERS", numbers)
        torch.testing.assert_close(
            order_similarity(images, texts, direction, squared), torch.tensor(expected)
        )


@pytest.mark.parametrize("numbers", [1, 40, 2**20])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_gradient_that_is_ours(
    monkeypatch: pytest.MonkeyPatch, direction: Direction, numbers: int
) -> None:
    monkeypatch.setattr(order, "_NUMBERS", numbers)
    generator = torch.Generator().manual_seed(1)
    images, texts = (
        torch.rand(n, 5, generator=generator, dtype=torch.float64).requires_grad_() for n in (4, 3)
    )
    assert torch.autograd.gradcheck(lambda a, b: order_similarity(a, b, direction), (images, texts))


def test_nothing_to_compare_with_and_other_directions() -> None:
    assert order_similarity(torch.rand(0, 3), torch.rand(2, 3)).shape == (0, 2)
    assert order_similarity(torch.rand(2, 3), torch.rand(0, 3), "text_minus_image").shape == (2, 0)
    with pytest.raises(ValueError, match="direction is 'up'; use 'image_minus_text' or"):
        order_similarity(torch.rand(1, 3), torch.rand(1, 3), "up")  # type: ignore[arg-type]


@pytest.mark.parametrize("squared", [True, False])
def test_at_equality_the_gradient_is_a_number(squared: bool) -> None:
    images = torch.rand(3, 4, requires_grad=True)
    scores = order_similarity(images, images.detach(), squared=squared)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert gradient.isfinite().all()
