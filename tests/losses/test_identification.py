"""The norm-softmax against a naive loop and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import SampledClasses, norm_softmax_loss, sampled_norm_softmax_loss

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


def sampled(seed: int, others: int = 1) -> SampledClasses:
    torch.manual_seed(seed)
    return SampledClasses.draw(IDENTITIES[1:], 5, others)


def test_some_classes_are_the_batchs_own_and_others() -> None:
    # Two own classes of three items, and two of the three others: as many as there are items and one more.
    drawn = sampled(0)
    assert drawn.index[drawn.target].tolist() == IDENTITIES[1:].tolist()
    assert len(set(drawn.index.tolist())) == 4 and {1, 3} < set(drawn.index.tolist())
    own = torch.isin(drawn.index, torch.tensor([1, 3]))
    assert drawn.correction[own].eq(0).all()
    torch.testing.assert_close(drawn.correction[~own], torch.full((2,), math.log(3 / 2)))


def test_the_sampled_loss_is_the_naive_loop() -> None:
    features, weight, bias = inputs()
    drawn = sampled(1)
    total = 0.0
    for feature, identity in zip(features[1:], IDENTITIES[1:].tolist(), strict=True):
        logits = {k: float(weight[k] @ feature / weight[k].norm() + bias[k]) for k in drawn.index.tolist()}
        factors = {k: 1.0 if k in (1, 3) else 3 / 2 for k in logits}
        total -= logits[identity] - math.log(sum(factors[k] * math.exp(logits[k]) for k in logits))
    loss = sampled_norm_softmax_loss(features[1:], weight, bias, drawn)
    assert float(loss) == pytest.approx(total / 3, rel=1e-6)
    assert torch.autograd.gradcheck(lambda x, *y: sampled_norm_softmax_loss(x[1:], *y, drawn), inputs())


def test_all_classes_drawn_are_the_whole_loss() -> None:
    features, weight, bias = inputs()
    for others in (2, 100):
        drawn = sampled(2, others)
        loss = sampled_norm_softmax_loss(features[1:], weight, bias, drawn)
        torch.testing.assert_close(loss, norm_softmax_loss(features[1:], weight, bias, IDENTITIES[1:]))
        without = sampled_norm_softmax_loss(features[1:], weight, None, drawn)
        torch.testing.assert_close(without, norm_softmax_loss(features[1:], weight, None, IDENTITIES[1:]))


def test_the_sampled_denominator_is_the_whole_one_on_average() -> None:
    logits = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    identities = torch.tensor([4, 4, 9])
    totals = []
    torch.manual_seed(0)
    for _ in range(2000):
        drawn = SampledClasses.draw(identities, 40, 5)
        totals.append((logits[drawn.index] + drawn.correction).exp().sum())
    mean, error = torch.stack(totals).mean(), torch.stack(totals).std() / 2000**0.5
    assert (mean - logits.exp().sum()).abs() < 4 * error
    assert error < 0.05 * mean
