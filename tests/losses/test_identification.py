"""The norm-softmax against a naive loop and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import norm_softmax_loss

IDENTITIES = torch.tensor([0, 3, 3, 1])


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 6), (5, 6), (5,))
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return made[0].requires_grad_(), made[1].requires_grad_(), made[2].requires_grad_()


def test_it_is_the_naive_loop() -> None:
    features, weight, bias = inputs()
    total = 0.0
    for feature, identity in zip(features, IDENTITIES.tolist(), strict=True):
        logits = [float(w @ feature / w.norm() + b) for w, b in zip(weight, bias, strict=True)]
        total -= logits[identity] - math.log(sum(math.exp(x) for x in logits))
    assert float(norm_softmax_loss(features, weight, bias, IDENTITIES)) == pytest.approx(total / 4)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda *x: norm_softmax_loss(*x, IDENTITIES), inputs())


def test_class_weights_stay_on_the_unit_sphere_in_effect() -> None:
    features, weight, bias = inputs()
    scaled = weight * torch.tensor([0.01, 1, 2, 300, 5], dtype=torch.float64)[:, None]
    same = norm_softmax_loss(features, scaled, bias, IDENTITIES)
    torch.testing.assert_close(same, norm_softmax_loss(features, weight, bias, IDENTITIES))
    # The gradient has no part along a weight vector: steps turn it and never need to shrink it.
    (gradient,) = torch.autograd.grad(norm_softmax_loss(features, weight, bias, IDENTITIES), weight)
    assert gradient.norm() > 0.1
    torch.testing.assert_close((gradient * weight).sum(1), torch.zeros(5, dtype=torch.float64))


def test_features_keep_their_length() -> None:
    features, weight, bias = inputs()
    longer = norm_softmax_loss(3 * features, weight, bias, IDENTITIES)
    assert not torch.isclose(longer, norm_softmax_loss(features, weight, bias, IDENTITIES))


@pytest.mark.parametrize(("features", "weight", "n"), [((4, 6), (5, 7), 4), ((4, 6), (5, 6), 3)])
def test_shapes_that_disagree_are_refused(features: tuple[int, int], weight: tuple[int, int], n: int) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, D\), \(C, D\) and \(B,\)"):
        norm_softmax_loss(torch.zeros(features), torch.zeros(weight), None, torch.zeros(n, dtype=torch.int64))
