"""Losses over generated pictures against loops, torch.distributions and StackGAN's code (golden arrays)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from crossmodal_bench.losses.generation import (
    condition_kl,
    picture_discriminator_loss,
    picture_generator_loss,
    wrong_pairs,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "stackgan.npz"


def logits(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [2 * torch.randn(n, generator=generator, dtype=torch.float64) for n in sizes]
    return [one.requires_grad_() for one in made]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("betas", [(0.5, 0.5), (0.3, 0.9), (0.0, 1.0)])
def test_the_discriminators_side_is_equation_9_negated(betas: tuple[float, float]) -> None:
    real, fake, wrong = logits(6, 6, 5)
    value = sum(math.log(sigmoid(x)) for x in real.tolist()) / 6
    value += betas[0] * sum(math.log(1 - sigmoid(x)) for x in fake.tolist()) / 6
    value += betas[1] * sum(math.log(1 - sigmoid(x)) for x in wrong.tolist()) / 5
    loss = picture_discriminator_loss(real, fake, wrong, *betas)
    assert loss.item() == pytest.approx(-value, rel=1e-12)
    if betas == (0.5, 0.5):
        assert torch.equal(picture_discriminator_loss(real, fake, wrong), loss)


def test_the_generators_side_is_by_hand() -> None:
    (fake,) = logits(7)
    printed = sum(math.log(1 - sigmoid(x)) for x in fake.tolist()) / 7
    assert picture_generator_loss(fake, "minimax").item() == pytest.approx(printed, rel=1e-12)
    swapped = -sum(math.log(sigmoid(x)) for x in fake.tolist()) / 7
    assert picture_generator_loss(fake).item() == pytest.approx(swapped, rel=1e-12)


def test_only_the_non_saturating_form_pushes_where_the_discriminator_is_sure() -> None:
    sizes = {}
    for form in ("non_saturating", "minimax"):
        sure = torch.tensor([-12.0], requires_grad=True)
        (gradient,) = torch.autograd.grad(picture_generator_loss(sure, form), sure)  # type: ignore[arg-type]
        assert gradient < 0, "downhill, the picture looks more real"
        sizes[form] = -float(gradient)
    assert sizes["non_saturating"] > 0.99
    assert sizes["minimax"] < 1e-4


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(picture_discriminator_loss, logits(4, 4, 3))
    for form in ("non_saturating", "minimax"):
        assert torch.autograd.gradcheck(lambda x, f=form: picture_generator_loss(x, f), logits(4))
    mu, log_variance = (one.reshape(3, 2) for one in logits(6, 6))
    for reduction in ("mean", "sum"):
        assert torch.autograd.gradcheck(lambda m, v, r=reduction: condition_kl(m, v, r), (mu, log_variance))


def test_the_divergence_is_torchs() -> None:
    mu, log_variance = (one.reshape(6, 4) for one in logits(24, 24))
    expected = kl_divergence(Normal(mu, (log_variance / 2).exp()), Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(condition_kl(mu, log_variance), expected.mean())
    torch.testing.assert_close(condition_kl(mu, log_variance, "sum"), expected.sum(1).mean())
    assert condition_kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


def test_the_divergence_is_stackgans() -> None:
    with np.load(GOLDEN) as arrays:
        mu, log_variance = (torch.from_numpy(arrays[name]) for name in ("mu", "logvar"))
        mean, whole = float(arrays["kl_mean"]), float(arrays["kl_sum_over_dims_mean_over_batch"])
    assert float(condition_kl(mu, log_variance)) == pytest.approx(mean, abs=1e-10)
    assert float(condition_kl(mu, log_variance, "sum")) == pytest.approx(whole, abs=1e-10)


def test_without_wrong_pairs_their_term_is_zero() -> None:
    real, fake, wrong = logits(3, 3, 0)
    loss = picture_discriminator_loss(real, fake, wrong, 0.5, 9.0)
    assert torch.equal(loss, picture_discriminator_loss(real, fake, fake, 0.5, 0.0))
    assert all(one.isfinite().all() for one in torch.autograd.grad(loss, (real, fake, wrong)))


def test_extreme_logits_stay_finite() -> None:
    far = torch.tensor([1e4], requires_grad=True)
    loss = picture_discriminator_loss(-far, far, far) + picture_generator_loss(-far)
    assert loss.item() == pytest.approx(3e4)
    assert torch.autograd.grad(loss, far)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_averaged_in_single(dtype: torch.dtype) -> None:
    halves = [one.detach().to(dtype) for one in logits(300, 300, 299)]
    singles = [one.float() for one in halves]
    assert torch.equal(picture_discriminator_loss(*halves), picture_discriminator_loss(*singles))
    for form in ("non_saturating", "minimax"):
        found = picture_generator_loss(halves[1], form)  # type: ignore[arg-type]
        assert torch.equal(found, picture_generator_loss(singles[1], form))  # type: ignore[arg-type]
    matrices = [one[:, None] for one in halves[:2]]
    assert torch.equal(condition_kl(*matrices), condition_kl(*(one.float() for one in matrices)))


@pytest.mark.parametrize(
    ("image_ids", "pictures"),
    [
        ([3, 1, 4, 2], [0, 1, 2]),
        ([3, 3, 4, 3], [1, 2]),
        ([3, 1, 3], [0, 1]),
        ([3, 3, 3], []),
        ([3], []),
        ([], []),
    ],
)
def test_wrong_texts_are_the_next_ones_unless_of_the_same_image(
    image_ids: list[int], pictures: list[int]
) -> None:
    rows, texts = wrong_pairs(torch.tensor(image_ids, dtype=torch.int64))
    assert rows.dtype == texts.dtype == torch.int64
    assert rows.tolist() == pictures and texts.tolist() == [row + 1 for row in pictures]
    assert all(image_ids[a] != image_ids[b] for a, b in zip(rows.tolist(), texts.tolist(), strict=True))


def test_bad_arguments_are_refused() -> None:
    real, fake, wrong = logits(3, 3, 2)
    for some in ((real[:0], fake), (real, fake[:0])):
        with pytest.raises(ValueError, match=r"and fake_logits \(\d,\) must not be empty"):
            picture_discriminator_loss(*some, wrong)
    with pytest.raises(ValueError, match="form is 'printed'; use 'non_saturating' or 'minimax'"):
        picture_generator_loss(fake, "printed")  # type: ignore[arg-type]
    for shape in ((3, 3), (2,)):
        with pytest.raises(ValueError, match=r"log_variance .* must be \(B, D\) and equal"):
            condition_kl(torch.zeros(2, 3) if len(shape) == 2 else torch.zeros(2), torch.zeros(shape))
    with pytest.raises(ValueError, match="reduction is 'none'; use 'mean' or 'sum'"):
        condition_kl(torch.zeros(2, 3), torch.zeros(2, 3), "none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"image_ids \(2, 1\) must be \(B,\)"):
        wrong_pairs(torch.zeros(2, 1))
