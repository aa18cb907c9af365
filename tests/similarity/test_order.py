from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.similarity import cosine_similarity, order, order_similarity

GOLDEN = Path(__file__).parents[1] / "golden" / "matching.npz"
MEASURES = {"cosine": cosine_similarity, "order": order_similarity}


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
    scores = images @ texts.T if measure == "cosine" else order_similarity(images, texts)
    loss = triplet_ranking_loss(scores, margin, hardest)
    case = f"{measure}/max_violation={hardest}/margin={margin}"
    torch.testing.assert_close(loss, golden[f"loss/{case}"], rtol=1e-7, atol=0)
    for gradient, name in zip(torch.autograd.grad(loss, (images, texts)), ("grad_im", "grad_s"), strict=True):
        torch.testing.assert_close(gradient, golden[f"{name}/{case}"], rtol=1e-6, atol=1e-9)


def test_order_is_a_naive_loop_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.rand(5, 7, generator=generator), torch.rand(4, 7, generator=generator)
    expected = [
        [-(sum(max(0.0, float(s - v)) ** 2 for v, s in zip(a, b, strict=True)) ** 0.5) for b in texts]
        for a in images
    ]
    torch.testing.assert_close(order_similarity(images, texts), torch.tensor(expected))
    monkeypatch.setattr(order, "_NUMBERS", 1)
    torch.testing.assert_close(order_similarity(images, texts), torch.tensor(expected))


def test_at_equality_the_gradient_is_a_number() -> None:
    images = torch.rand(3, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(order_similarity(images, images.detach()).sum(), images)
    assert gradient.isfinite().all()
