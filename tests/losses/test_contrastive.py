"""InfoNCE and SigLIP's loss against naive loops, finite differences, and what they are by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import infonce_loss, siglip_loss
from crossmodal_bench.similarity import cosine_similarity

IDENTITIES = torch.tensor([4, 1, 4, 2, 7, 4])
BIAS = torch.tensor(-1.5, dtype=torch.float64)


def scale(value: float = 3.0) -> Tensor:
    return torch.tensor(math.log(value), dtype=torch.float64)


def vectors(seed: int = 0, n: int = 6, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images, texts = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    return images.requires_grad_(), texts.requires_grad_()


def cosines(seed: int = 0, n: int = 6) -> Tensor:
    return cosine_similarity(*vectors(seed, n)).detach().requires_grad_()


def rivals(i: int, n: int, identities: Tensor | None) -> list[int]:
    """The pairs that a pair is told from, itself among them."""
    return [j for j in range(n) if j == i or identities is None or identities[j] != identities[i]]


def naive_infonce(found: Tensor, log_scale: float, identities: Tensor | None) -> float:
    total, n = 0.0, len(found)
    for side in (found, found.T):
        for i in range(n):
            powers = {j: math.exp(math.exp(log_scale) * float(side[i, j])) for j in rivals(i, n, identities)}
            total -= math.log(powers[i] / sum(powers.values())) / (2 * n)
    return total


def naive_siglip(found: Tensor, log_scale: float, bias: float, identities: Tensor | None) -> float:
    total, n = 0.0, len(found)
    for i in range(n):
        for j in rivals(i, n, identities):
            sign = 1 if i == j else -1
            logit = math.exp(log_scale) * float(found[i, j]) + bias
            total += math.log(1 + math.exp(-sign * logit)) / n
    return total


@pytest.mark.parametrize("identities", [None, IDENTITIES])
@pytest.mark.parametrize("value", [1.0, 14.3, 100.0])
def test_both_are_naive_loops(value: float, identities: Tensor | None) -> None:
    found, t = cosines().detach(), scale(value)
    expected = naive_infonce(found, float(t), identities)
    assert float(infonce_loss(found, t, identities)) == pytest.approx(expected, rel=1e-12)
    expected = naive_siglip(found, float(t), float(BIAS), identities)
    assert float(siglip_loss(found, t, BIAS, identities)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("identities", [None, IDENTITIES])
def test_gradients_are_those_of_finite_differences(identities: Tensor | None) -> None:
    images, texts = vectors(1)
    t, bias = scale().requires_grad_(), BIAS.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, w, s: infonce_loss(cosine_similarity(v, w), s, identities), (images, texts, t)
    )
    assert torch.autograd.gradcheck(
        lambda v, w, s, b: siglip_loss(cosine_similarity(v, w), s, b, identities), (images, texts, t, bias)
    )


@pytest.mark.parametrize("n", [1, 2, 7])
def test_orthogonal_pairs_have_closed_forms(n: int) -> None:
    """Pairs that coincide, at right angles to all others: cosines of 1 and of 0."""
    basis = torch.eye(8, dtype=torch.float64)[:n] * torch.arange(1.0, n + 1, dtype=torch.float64)[:, None]
    found, value, bias = cosine_similarity(basis, 3 * basis), 5.0, float(BIAS)
    expected = math.log(1 + (n - 1) * math.exp(-value))
    assert float(infonce_loss(found, scale(value))) == pytest.approx(expected, abs=1e-12)
    expected = math.log(1 + math.exp(-value - bias)) + (n - 1) * math.log(1 + math.exp(bias))
    assert float(siglip_loss(found, scale(value), BIAS)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_what_has_collapsed_guesses(n: int) -> None:
    found = torch.full((n, n), 0.4, dtype=torch.float64)
    assert float(infonce_loss(found, scale())) == pytest.approx(math.log(n), abs=1e-12)
    zero = torch.zeros((), dtype=torch.float64)
    assert float(siglip_loss(0 * found, scale(), zero)) == pytest.approx(n * math.log(2))


def test_the_initial_bias_of_siglip_expects_negatives() -> None:
    """With b = -10 and t = log 10, pairs alone cost anything at first (3.2)."""
    found, n = torch.zeros(64, 64, dtype=torch.float64), 64
    loss = float(siglip_loss(found, scale(10.0), torch.tensor(-10.0, dtype=torch.float64)))
    assert loss == pytest.approx(math.log(1 + math.exp(10)) + (n - 1) * math.log(1 + math.exp(-10)))
    assert loss < 10.01


def test_captions_of_one_image_are_no_negatives_of_each_other() -> None:
    found = cosines(2)
    for loss in (
        infonce_loss(found, scale(), IDENTITIES),
        siglip_loss(found, scale(), BIAS, IDENTITIES),
    ):
        (gradient,) = torch.autograd.grad(loss, found)
        same = (IDENTITIES[:, None] == IDENTITIES) & ~torch.eye(6, dtype=torch.bool)
        assert same.sum() == 6 and not gradient[same].any()
        assert gradient[~same].all()


def test_distinct_identities_change_nothing() -> None:
    found, distinct = cosines(3), torch.arange(6)
    assert torch.equal(infonce_loss(found, scale(), distinct), infonce_loss(found, scale()))
    assert torch.equal(siglip_loss(found, scale(), BIAS, distinct), siglip_loss(found, scale(), BIAS))


def test_a_batch_of_one_identity_has_no_negatives() -> None:
    found, alike = cosines(4), torch.zeros(6, dtype=torch.int64)
    assert float(infonce_loss(found, scale(), alike)) == 0
    pairs = torch.nn.functional.logsigmoid(3 * found.diagonal() + BIAS)
    torch.testing.assert_close(siglip_loss(found, scale(), BIAS, alike), -pairs.mean())


def test_infonce_has_no_direction_and_siglip_none_either() -> None:
    found = cosines(5)
    torch.testing.assert_close(infonce_loss(found, scale()), infonce_loss(found.T, scale()))
    torch.testing.assert_close(siglip_loss(found, scale(), BIAS), siglip_loss(found.T, scale(), BIAS))


def test_the_largest_scale_overflows_nothing() -> None:
    found, largest = cosines(6).float(), scale(100.0).float()
    assert infonce_loss(found, largest).isfinite()
    assert siglip_loss(found, largest, BIAS.float()).isfinite()


@pytest.mark.parametrize(("shape", "n"), [((3, 4), None), ((3, 3), 2), ((3,), None)])
def test_shapes_are_checked(shape: tuple[int, ...], n: int | None) -> None:
    identities = None if n is None else torch.zeros(n, dtype=torch.int64)
    with pytest.raises(ValueError, match="must be"):
        infonce_loss(torch.zeros(shape), scale(), identities)
    with pytest.raises(ValueError, match="must be"):
        siglip_loss(torch.zeros(shape), scale(), BIAS, identities)
