"""Both sides of the modality game against naive loops, and which way their gradients point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import modality_discriminator_loss, modality_fooling_loss


def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pair = [2 * torch.randn(6, 1, generator=generator, dtype=torch.float64) for _ in range(2)]
    return pair[0].requires_grad_(), pair[1].requires_grad_()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_discriminators_side_is_the_naive_loop(smoothing: float) -> None:
    images, texts = logits()
    total = 0.0
    for x in images.flatten().tolist():
        total -= (1 - smoothing) * math.log(sigmoid(x)) + smoothing * math.log(1 - sigmoid(x))
    for x in texts.flatten().tolist():
        total -= math.log(1 - sigmoid(x))
    assert float(modality_discriminator_loss(images, texts, smoothing)) == pytest.approx(total / 6)


def test_the_encoders_side_is_the_naive_loop() -> None:
    images, texts = logits()
    swapped = sum(-math.log(1 - sigmoid(x)) for x in images.flatten().tolist())
    swapped += sum(-math.log(sigmoid(x)) for x in texts.flatten().tolist())
    assert float(modality_fooling_loss(images, texts)) == pytest.approx(swapped / 6)
    minimax = modality_fooling_loss(images, texts, "minimax")
    torch.testing.assert_close(minimax, -modality_discriminator_loss(images, texts))


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda v, t: modality_discriminator_loss(v, t, 0.1), logits())
    for form in ("non_saturating", "minimax"):
        assert torch.autograd.gradcheck(lambda v, t, f=form: modality_fooling_loss(v, t, f), logits())


def test_chance_costs_twice_log_two_on_both_sides() -> None:
    unsure = torch.zeros(3)
    assert float(modality_discriminator_loss(unsure, unsure)) == pytest.approx(2 * math.log(2))
    assert float(modality_fooling_loss(unsure, unsure)) == pytest.approx(2 * math.log(2))


def test_only_the_non_saturating_form_pushes_where_the_discriminator_is_sure() -> None:
    sizes = {}
    for form in ("non_saturating", "minimax"):
        images, texts = (
            torch.full((1,), 12.0, requires_grad=True),
            torch.full((1,), -12.0, requires_grad=True),
        )
        (gradient,) = torch.autograd.grad(modality_fooling_loss(images, texts, form), images)
        assert gradient > 0, "downhill, an image looks less like one"
        sizes[form] = float(gradient)
    assert sizes["non_saturating"] > 0.99
    assert sizes["minimax"] < 1e-4


def test_extreme_logits_stay_finite() -> None:
    far = torch.tensor([1e4], requires_grad=True)
    loss = modality_discriminator_loss(-far, far) + modality_fooling_loss(far, -far)
    assert loss.item() == pytest.approx(4e4)
    assert torch.isfinite(torch.autograd.grad(loss, far)[0]).all()


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="form is 'cooperative'; use 'non_saturating' or 'minimax'"):
        modality_fooling_loss(*logits(), "cooperative")  # type: ignore[arg-type]
