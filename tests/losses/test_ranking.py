"""Triplet ranking against a naive loop (the golden values are tested with the similarities) and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import hardest_negatives, triplet_ranking_loss

IMAGES = torch.tensor([4, 1, 4, 2, 7])


def scores(n: int = 5) -> Tensor:
    return torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()


def naive(s: Tensor, margin: float, hardest: bool, images: Tensor | None) -> Tensor:
    total = s.new_zeros(())
    for side in (s, s.T):
        for i in range(len(s)):
            costs = [
                (margin + side[i, j] - s[i, i]).clamp(min=0)
                for j in range(len(s))
                if (i != j if images is None else images[i] != images[j])
            ]
            if costs:
                total = total + (torch.stack(costs).max() if hardest else torch.stack(costs).sum())
    return total


@pytest.mark.parametrize("images", [None, IMAGES])
@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.2, 3.0])
def test_it_is_a_naive_loop(margin: float, hardest: bool, images: Tensor | None) -> None:
    s = scores()
    found, expected = triplet_ranking_loss(s, margin, hardest, images), naive(s, margin, hardest, images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, s)[0] for one in (found, expected)))


def test_a_batch_that_is_ahead_costs_nothing() -> None:
    assert triplet_ranking_loss(torch.eye(4), 0.2) == 0
    assert float(triplet_ranking_loss(torch.eye(4), 1.5)) == pytest.approx(8 * 0.5)


def test_a_single_pair_has_no_negatives() -> None:
    s = scores(1)
    loss = triplet_ranking_loss(s)
    assert loss == 0 and torch.autograd.grad(loss, s)[0] == 0
    assert [one.tolist() for one in hardest_negatives(s)] == [[0], [0]]


def test_hardest_negatives_are_those_of_the_loss() -> None:
    s = torch.tensor([[9.0, 1.0, 5.0], [2.0, 9.0, 3.0], [8.0, 7.0, 0.0]])
    q, r = hardest_negatives(s)
    assert q.tolist() == [2, 2, 0], "for each image the caption"
    assert r.tolist() == [2, 2, 0], "for each caption the image"
    q, r = hardest_negatives(s, torch.tensor([5, 6, 5]))
    assert q.tolist() == [1, 2, 1] and r.tolist() == [1, 2, 1]


def test_an_image_without_rivals_is_its_own_negative() -> None:
    q, r = hardest_negatives(scores(3), torch.tensor([1, 1, 1]))
    assert q.tolist() == r.tolist() == [0, 1, 2]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="must be"):
        triplet_ranking_loss(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="must be"):
        hardest_negatives(torch.zeros(3, 3), torch.zeros(2))
