"""SCAN's similarity against its code (golden arrays), a naive loop, and finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from naive_attention import scan_score
from torch import Tensor

from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.similarity import cross_attention, scan_similarity
from crossmodal_bench.similarity.scan import scan_attention

GOLDEN = Path(__file__).parents[1] / "golden" / "cross_attention.npz"
DIRECTIONS = {"t2i": (9.0, 6.0), "i2t": (4.0, 5.0)}
AGGREGATIONS = ("LogSumExp", "Mean", "Max", "Sum")
NORMS = ("clipped_l2norm", "l2norm", "softmax", "no_norm", "clipped")
LENGTHS = torch.tensor([3, 1, 5, 3, 2])


@pytest.fixture(scope="module")
def golden() -> Iterator[dict[str, Tensor]]:
    with np.load(GOLDEN) as arrays:
        yield {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def near(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 0, "atol": 1e-12 if dtype == torch.float64 else 1e-5}


def inputs(dim: int = 4, regions: int = 3, images: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Regions and padded words; what lies behind a caption's end must not matter."""
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(images, regions, dim, generator=generator, dtype=torch.float64)
    w = torch.randn(len(LENGTHS), int(LENGTHS.max()), dim, generator=generator, dtype=torch.float64)
    return v.requires_grad_(), w.requires_grad_()


def naive(v: Tensor, w: Tensor, direction: str, how: str, norm: str) -> Tensor:
    scales = DIRECTIONS[direction]
    return torch.stack(
        [
            torch.stack(
                [
                    scan_score(image, words[:n], direction, how, norm, *scales)
                    for words, n in zip(w, LENGTHS, strict=True)
                ]
            )
            for image in v
        ]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("direction", "how", "norm"), list(product(DIRECTIONS, AGGREGATIONS, NORMS)))
def test_scores_are_the_authors_codes(
    golden: dict[str, Tensor], direction: Any, how: Any, norm: Any, dtype: torch.dtype
) -> None:
    v, w = (golden[f"scan/{name}"].to(dtype) for name in ("images", "captions"))
    found = scan_similarity(v, w, golden["scan/lengths"], direction, how, norm, *DIRECTIONS[direction])
    torch.testing.assert_close(
        found, golden[f"scan/scores/{direction}/{how}/{norm}"].to(dtype), **near(dtype)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hardest", [True, False])
@pytest.mark.parametrize(("direction", "how"), list(product(DIRECTIONS, ("LogSumExp", "Mean"))))
def test_loss_and_gradients_are_the_authors_codes(
    golden: dict[str, Tensor], direction: Any, how: Any, hardest: bool, dtype: torch.dtype
) -> None:
    v, w = (golden[f"scan_loss/{name}"].to(dtype).requires_grad_() for name in ("images", "captions"))
    scales = DIRECTIONS[direction]
    scores = scan_similarity(v, w, golden["scan_loss/lengths"], direction, how, "clipped_l2norm", *scales)
    loss = triplet_ranking_loss(scores, float(golden["scan_loss/margin"]), hardest)
    case = f"{direction}/{how}/max_violation={hardest}"
    torch.testing.assert_close(loss.double(), golden[f"scan_loss/loss/{case}"], rtol=1e-5, atol=0)
    for gradient, name in zip(torch.autograd.grad(loss, (v, w)), ("grad_im", "grad_s"), strict=True):
        expected = golden[f"scan_loss/{name}/{case}"].to(dtype)
        torch.testing.assert_close(gradient[: len(expected)], expected, **near(dtype))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_attention_is_the_authors_codes(golden: dict[str, Tensor], direction: str) -> None:
    v, w = golden["scan/images"], golden["scan/captions"][0]
    affinities = v @ w.T  # (images, regions, words); the first caption has no padding
    query, context = (2, 1) if direction == "t2i" else (1, 2)
    found = scan_attention(affinities, query, context, "clipped_l2norm", DIRECTIONS[direction][0])
    expected = golden[f"scan/attn_w/{direction}"]
    found = found if direction == "t2i" else found.transpose(1, 2)
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("how", "norm"),
    [
        *((how, "clipped_l2norm") for how in AGGREGATIONS),
        *(("LogSumExp", norm) for norm in (*NORMS[1:], "l1norm", "clipped_l1norm")),
    ],
)
def test_scores_and_gradients_are_a_naive_loops(direction: Any, how: Any, norm: Any) -> None:
    v, w = inputs()
    found = scan_similarity(v, w, LENGTHS, direction, how, norm, *DIRECTIONS[direction])
    expected = naive(v, w, direction, how, norm)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((found * weight).sum(), (v, w))
    theirs = torch.autograd.grad((expected * weight).sum(), (v, w))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("how", "norm"), [("Mean", "clipped_l2norm"), ("Max", "clipped_l2norm"), ("LogSumExp", "l2norm")]
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients_are_finite_differences(direction: Any, how: Any, norm: Any) -> None:
    v, w = inputs(dim=3, regions=2, images=2)

    def scores(v: Tensor, w: Tensor) -> Tensor:
        return scan_similarity(v, w, LENGTHS, direction, how, norm, *DIRECTIONS[direction])

    assert torch.autograd.gradcheck(scores, (v, w), fast_mode=True)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_one_image_one_region_one_word(direction: Any) -> None:
    v, w = inputs(images=1, regions=1)
    found = scan_similarity(v, w[:1, :1], torch.tensor([1]), direction, "Mean")
    torch.testing.assert_close(found[0, 0], torch.cosine_similarity(v[0, 0], w[0, 0], dim=0))
    for gradient in torch.autograd.grad(found.sum(), (v, w)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_padding_packing_order_and_company_change_nothing(direction: Any) -> None:
    v, w = (one.detach() for one in inputs())
    whole = scan_similarity(v, w, LENGTHS, direction)
    garbage = w.clone()
    for row, length in enumerate(LENGTHS):
        garbage[row, length:] = torch.nan
    assert torch.equal(scan_similarity(v, garbage, LENGTHS, direction), whole)
    packed = torch.cat([row[:n] for row, n in zip(w, LENGTHS, strict=True)])
    assert torch.equal(scan_similarity(v, packed, LENGTHS, direction), whole)
    order = torch.tensor([4, 2, 0])
    some = scan_similarity(v[1:3], w[order], LENGTHS[order], direction)
    torch.testing.assert_close(some, whole[1:3][:, order])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_blocks_change_nothing(direction: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    v, w = inputs()
    whole = scan_similarity(v, w, LENGTHS, direction)
    gradient = torch.autograd.grad(whole.square().sum(), (v, w))
    monkeypatch.setattr(cross_attention, "_BLOCK", {"cpu": 1})
    monkeypatch.setattr(cross_attention, "_IMAGES", 3)
    one_by_one = scan_similarity(v, w, LENGTHS, direction)
    torch.testing.assert_close(one_by_one, whole)
    again = torch.autograd.grad(one_by_one.square().sum(), (v, w))
    for one, other in zip(gradient, again, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(scan_similarity(v, w, LENGTHS, direction), whole)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_zero_vectors_have_a_score_and_a_gradient(direction: Any) -> None:
    v, w = inputs()
    v, w = torch.zeros_like(v, requires_grad=True), w
    found = scan_similarity(v, w, LENGTHS, direction, "Mean")
    assert torch.equal(found, torch.zeros_like(found))
    for gradient in torch.autograd.grad(found.sum(), (v, w)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_autocast_costs_the_digits_of_its_products_only(direction: Any) -> None:
    v, w = (torch.nn.functional.normalize(one.detach().float(), dim=-1) for one in inputs(dim=64))
    exact = scan_similarity(v, w, LENGTHS, direction, "Mean")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = scan_similarity(v, w, LENGTHS, direction, "Mean")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)
    assert not torch.equal(found, exact)


def test_shapes_and_words_are_checked() -> None:
    v, w = inputs()
    with pytest.raises(ValueError, match="must be"):
        scan_similarity(v[0], w, LENGTHS)
    with pytest.raises(ValueError, match="must be"):
        scan_similarity(v, w, LENGTHS[:-1])
    with pytest.raises(ValueError, match="every caption a word"):
        scan_similarity(v, w, torch.tensor([3, 0, 5, 3, 2]))
    with pytest.raises(ValueError, match="every image needs a region"):
        scan_similarity(v[:, :0], w, LENGTHS)
    with pytest.raises(ValueError, match="direction is 'x'"):
        scan_similarity(v, w, LENGTHS, "x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="aggregation is 'x'"):
        scan_similarity(v, w, LENGTHS, aggregation="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="feature_norm is 'x'"):
        scan_similarity(v, w, LENGTHS, feature_norm="x")  # type: ignore[arg-type]
