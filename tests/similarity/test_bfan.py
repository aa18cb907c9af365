"""BFAN's similarity against its code (golden arrays), a naive loop, and finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_attention import bfan_score
from torch import Tensor

from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.similarity import bfan_similarity
from crossmodal_bench.similarity.bfan import focal_mask, focal_weights

GOLDEN = Path(__file__).parents[1] / "golden" / "cross_attention.npz"
FOCALS = ("equal", "prob")
LENGTHS = torch.tensor([3, 1, 5, 3, 2])


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Tensor]]:
    with np.load(GOLDEN) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def near(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(4, 3, 4, generator=generator, dtype=torch.float64)
    w = torch.randn(len(LENGTHS), 5, 4, generator=generator, dtype=torch.float64)
    return v.requires_grad_(), w.requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("focal", FOCALS)
def test_scores_are_the_authors_codes(golden: dict[str, Tensor], focal: Any, dtype: torch.dtype) -> None:
    v, w = (golden[f"bfan/{name}"].to(dtype) for name in ("images", "captions"))
    found = bfan_similarity(v, w, golden["bfan/lengths"], focal, float(golden["bfan/lambda_softmax"]))
    torch.testing.assert_close(found, golden[f"bfan/scores/{focal}"].to(dtype), **near(dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize("focal", FOCALS)
def test_loss_and_gradients_are_the_authors_codes(
    golden: dict[str, Tensor], focal: Any, hardest: bool, dtype: torch.dtype
) -> None:
    v, w = (golden[f"bfan/loss_{name}"].to(dtype).requires_grad_() for name in ("images", "captions"))
    scores = bfan_similarity(v, w, golden["bfan/loss_lengths"], focal)
    loss = triplet_ranking_loss(scores, float(golden["bfan/margin"]), hardest)
    case = f"{focal}/max_violation={hardest}"
    torch.testing.assert_close(loss.double(), golden[f"bfan/loss/{case}"], rtol=1e-5, atol=0)
    for gradient, name in zip(torch.autograd.grad(loss, (v, w)), ("grad_im", "grad_s"), strict=True):
        expected = golden[f"bfan/{name}/{case}"].to(dtype)
        torch.testing.assert_close(gradient[: len(expected)], expected, **near(dtype))


@pytest.mark.parametrize("focal", FOCALS)
def test_masks_are_the_authors_codes(golden: dict[str, Tensor], focal: Any) -> None:
    assert torch.equal(focal_mask(golden["bfan/focal_in"], 2, focal), golden[f"bfan/focal_{focal}"])


@pytest.mark.parametrize("focal", FOCALS)
def test_scores_and_gradients_are_a_naive_loops(focal: Any) -> None:
    v, w = inputs()
    found = bfan_similarity(v, w, LENGTHS, focal)
    expected = torch.stack(
        [
            torch.stack([bfan_score(image, x[:n], focal, 20.0) for x, n in zip(w, LENGTHS, strict=True)])
            for image in v
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((found * weight).sum(), (v, w))
    theirs = torch.autograd.grad((expected * weight).sum(), (v, w))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("focal", FOCALS)
def test_gradients_are_finite_differences(focal: Any) -> None:
    v, w = inputs()
    assert torch.autograd.gradcheck(
        lambda v, w: bfan_similarity(v, w, LENGTHS, focal), (v, w), fast_mode=True
    )


@pytest.mark.parametrize("focal", FOCALS)
def test_where_all_are_alike_the_attention_stays(focal: Any) -> None:
    even = torch.full((2, 4), 0.25, dtype=torch.float64)
    assert torch.equal(focal_weights(even, 1, focal), even)
    single = torch.ones(3, 1)
    assert torch.equal(focal_weights(single, 1, focal), single)


@pytest.mark.parametrize("focal", FOCALS)
def test_one_word_identical_regions_and_identical_words_have_scores_and_gradients(focal: Any) -> None:
    v, w = inputs()
    same = v[:, :1].expand(-1, 3, -1)
    found = bfan_similarity(same, w[:, :1].expand(-1, 5, -1), LENGTHS, focal)
    cosine = torch.cosine_similarity(v[:, None, 0], w[None, :, 0], dim=2)
    torch.testing.assert_close(found, 2 * cosine)
    for gradient in torch.autograd.grad(found.sum(), (v, w)):
        assert gradient.isfinite().all()


def test_an_unknown_focal_is_refused() -> None:
    v, w = inputs()
    with pytest.raises(ValueError, match="focal is 'x'; use 'equal' or 'prob'"):
        bfan_similarity(v, w, LENGTHS, "x")  # type: ignore[arg-type]
