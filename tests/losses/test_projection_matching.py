"""CMPM and CMPC against their authors' code (golden arrays), naive loops, and finite differences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal_bench.losses import cmpc_loss, cmpm_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "cmpm.npz"
IDENTITIES = torch.tensor([4, 0, 4, 2, 4, 2, 1])


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Tensor]]:
    with np.load(GOLDEN) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def features(seed: int = 0, dim: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(IDENTITIES), dim)
    pair = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    return pair[0].requires_grad_(), pair[1].requires_grad_()


@pytest.mark.parametrize("case", ["unique", "dup"])
def test_both_are_the_authors_codes(golden: dict[str, Tensor], case: str) -> None:
    images, texts = golden["image"].clone().requires_grad_(), golden["text"].clone().requires_grad_()
    weight = golden["W"].T.clone().requires_grad_()
    labels = golden[f"labels_{case}"]
    matching = cmpm_loss(images, texts, labels)
    expected = golden[f"{case}/i2t"].double() + golden[f"{case}/t2i"].double()
    torch.testing.assert_close(matching, expected, rtol=1e-6, atol=0)
    classification = cmpc_loss(images, texts, weight, labels)
    expected = golden[f"{case}/ipt"].double() + golden[f"{case}/tpi"].double()
    torch.testing.assert_close(classification, expected, rtol=1e-6, atol=0)
    found = torch.autograd.grad(matching + classification, (images, texts, weight))
    for one, name in zip(found, ("grad_image", "grad_text", "grad_W"), strict=True):
        wanted = golden[f"{case}/{name}"].double()
        wanted = wanted.T if name == "grad_W" else wanted
        torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


def naive_cmpm(images: Tensor, texts: Tensor, identities: Tensor) -> float:
    total, n = 0.0, len(images)
    for rows, columns in ((images, texts), (texts, images)):
        for i in range(n):
            powers = [math.exp(float(rows[i] @ columns[j]) / float(columns[j].norm())) for j in range(n)]
            positives = sum(int(identities[i] == identities[k]) for k in range(n))
            for j in range(n):
                p = powers[j] / sum(powers)
                q = int(identities[i] == identities[j]) / positives
                total += p * math.log(p / (q + 1e-8)) / n
    return total


def test_cmpm_is_the_naive_loop() -> None:
    images, texts = features()
    assert float(cmpm_loss(images, texts, IDENTITIES)) == pytest.approx(naive_cmpm(images, texts, IDENTITIES))


def test_cmpc_is_the_naive_loop() -> None:
    images, texts = features(1)
    weight = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for a, b in ((images, texts), (texts, images)):
        for i, identity in enumerate(IDENTITIES.tolist()):
            unit = b[i] / b[i].norm()
            logits = [float((a[i] @ unit) * unit @ w / w.norm()) for w in weight]
            total -= logits[identity] - math.log(sum(math.exp(x) for x in logits))
    assert float(cmpc_loss(images, texts, weight, IDENTITIES)) == pytest.approx(total / len(IDENTITIES))


def test_gradients_are_those_of_finite_differences() -> None:
    images, texts = features(3)
    weight = torch.randn(5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, t: cmpm_loss(v, t, IDENTITIES), (images, texts))
    assert torch.autograd.gradcheck(lambda v, t, w: cmpc_loss(v, t, w, IDENTITIES), (images, texts, weight))


def test_matching_pairs_cost_less_than_mismatched_ones() -> None:
    images = 6 * torch.eye(7)
    identities = torch.arange(7)
    matched, mismatched = (
        cmpm_loss(images, images, identities),
        cmpm_loss(images, images.roll(1, 0), identities),
    )
    assert 0 <= matched < 1 < mismatched


def test_the_length_of_the_class_weights_is_without_effect() -> None:
    images, texts = features(4)
    weight = torch.randn(5, 5, dtype=torch.float64)
    scaled = weight * torch.tensor([0.1, 2, 30, 4, 5], dtype=torch.float64)[:, None]
    first, second = (cmpc_loss(images, texts, w, IDENTITIES) for w in (weight, scaled))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2), (4,)), ((4, 3), (4, 3), (3,)), ((4, 3), (5, 3), (4,))])
def test_shapes_that_disagree_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    images, texts = torch.zeros(shapes[0]), torch.zeros(shapes[1])
    with pytest.raises(ValueError, match="must be"):
        cmpm_loss(images, texts, torch.zeros(shapes[2], dtype=torch.int64))
