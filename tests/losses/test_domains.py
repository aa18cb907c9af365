"""ADDR's losses against loops over pairs, and by gradient check."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import (
    domain_regularisation,
    domain_risks,
    domains,
    negatives_risks,
)

B, R, D = 5, 3, 4
LENGTHS = torch.tensor([2, 6, 1, 3, 4])
Q = torch.tensor([1, 0, 0, 0, 2])
RR = torch.tensor([3, 2, 4, 3, 0])
"""The fourth pair is its own r: it has none."""


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = ((B, R, D), (int(LENGTHS.sum()), D), (B, D), (B,))
    made = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return (
        made[0].requires_grad_(),
        made[1].requires_grad_(),
        made[2].requires_grad_(),
        made[3].requires_grad_(),
    )


def risk(regions: Tensor, words: Tensor, weight: Tensor, bias: Tensor, reduction: str = "mean") -> Tensor:
    """One pair and one discriminator."""
    right = [torch.sigmoid(v @ weight + bias).log() for v in regions]
    wrong = [(1 - torch.sigmoid(w @ weight + bias)).log() for w in words]
    if reduction == "sum":
        return -(sum(right) + sum(wrong))  # type: ignore[return-value]
    return -(sum(right) / len(right) + sum(wrong) / len(wrong))  # type: ignore[return-value]


def table(reduction: str = "mean") -> Tensor:
    v, w, weight, bias = parts()
    words = w.split(LENGTHS.tolist())
    return torch.stack(
        [
            torch.stack([risk(v[i], words[i], weight[j], bias[j], reduction) for j in range(B)])
            for i in range(B)
        ]
    )


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_risks_are_a_loop_over_pairs(reduction: Any) -> None:
    v, w, weight, bias = parts()
    found = domain_risks(v, w, LENGTHS, weight.expand(B, B, D), bias.expand(B, B), reduction)
    torch.testing.assert_close(found, table(reduction))


def test_nothing_known_costs_two_bits() -> None:
    v, w, weight, bias = parts()
    found = domain_risks(v, w, LENGTHS, 0 * weight[:, None], 0 * bias[:, None])
    torch.testing.assert_close(found, torch.full_like(found, 2 * math.log(2)))


def test_large_logits_stay_finite() -> None:
    v, w, weight, bias = parts()
    found = domain_risks(v, w, LENGTHS, 1e4 * weight[:, None], bias[:, None])
    assert found.isfinite().all() and (found >= 0).all()


@pytest.mark.parametrize("many", [0, 32])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_risks_of_hard_negatives_are_entries_of_the_table(
    reduction: Any, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domains, "_MANY", many)
    found = negatives_risks(*parts()[:2], LENGTHS, *parts()[2:], Q, RR, reduction)
    expected = table(reduction)
    p = torch.arange(B)
    for i, j in ((p, p), (p, Q), (Q, p), (p, RR), (RR, p)):
        torch.testing.assert_close(found[i, j], expected[i, j])


@pytest.mark.parametrize("margin", [0.0, 0.05, 2.0])
def test_regularisation_is_a_loop_over_equations_8_and_9(margin: float) -> None:
    risks = table()
    found = domain_regularisation(risks, Q, RR, margin)

    def hinge(x: Tensor) -> Tensor:
        return torch.clamp(margin + x, min=0)

    for p in range(B):
        q, r = int(Q[p]), int(RR[p])
        first = hinge(risks[p, p] - risks[p, q]) + hinge(risks[q, q] - risks[q, p])
        second = hinge(risks[r, r] - risks[r, p]) + hinge(risks[p, p] - risks[p, r])
        torch.testing.assert_close(found[p], first + (second if r != p else 0 * second))
    assert (found > 0).any()


def test_a_pair_without_negatives_is_not_regularised() -> None:
    own = torch.arange(B)
    assert torch.equal(domain_regularisation(table(), own, own), torch.zeros(B, dtype=torch.float64))


@pytest.mark.parametrize("many", [0, 32])
def test_gradients_are_finite_differences(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "_MANY", many)

    def loss(v: Tensor, w: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        risks = negatives_risks(v, w, LENGTHS, weight, bias, Q, RR)
        return risks.diagonal().sum() + 0.4 * domain_regularisation(risks, Q, RR).sum()

    assert torch.autograd.gradcheck(loss, parts())


def test_what_a_pairs_discriminator_gains_from_is_its_own_pairs_and_its_negatives() -> None:
    v, w, weight, bias = parts()
    risks = negatives_risks(v, w, LENGTHS, weight, bias, Q, RR)
    only_first = risks.diagonal()[0] + domain_regularisation(risks, Q, RR, 9.0)[0]
    (gradient,) = torch.autograd.grad(only_first, weight)
    assert (gradient.abs().sum(1) > 0).tolist() == [True, True, False, True, False]


def test_shapes_and_reductions_are_checked() -> None:
    v, w, weight, bias = parts()
    with pytest.raises(ValueError, match="must be"):
        domain_risks(v, w[1:], LENGTHS, weight[:, None], bias[:, None])
    with pytest.raises(ValueError, match="reduction is 'max'"):
        domain_risks(v, w, LENGTHS, weight[:, None], bias[:, None], "max")  # type: ignore[arg-type]
