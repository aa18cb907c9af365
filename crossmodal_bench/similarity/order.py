"""Order violation (Vendrov et al., ICLR 2016; GXN, Eq. 2), without a tensor of all differences."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Direction = Literal["image_minus_text", "text_minus_image"]
_NUMBERS = 2**20
"""Differences held at a time: few enough to fit in a processor's cache."""


def order_similarity(
    images: Tensor, texts: Tensor, direction: Direction = "image_minus_text", squared: bool = True
) -> Tensor:
    """(N, D) and (M, D) to (N, M): minus the amount by which one exceeds the other, summed over D.

    Neither the scores nor their gradient hold the (N, M, D) differences, which are recomputed in the backward
    pass.

    Args:
        images: (N, D).
        texts: (M, D).
        direction: ``image_minus_text``: -|max(0, v - t)|^2 as GXN prints it (Eq. 2); ``text_minus_image``:
            max(0, t - v), as in order embeddings and VSE++, where the caption is the more general of the two.
        squared: squared norms, as in GXN and order embeddings; VSE++'s code uses the norm itself. At equality
            its gradient is 0 here, but NaN in the original.

    Raises:
        ValueError: an unknown direction.

    Examples:
        >>> import torch
        >>> images, texts = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 3.0], [0.0, 1.0]])
        >>> order_similarity(images, texts)
        tensor([[-1., -5.]])
    """
    if direction not in ("image_minus_text", "text_minus_image"):
        raise ValueError(f"direction is '{direction}'; use 'image_minus_text' or 'text_minus_image'")
    if direction == "image_minus_text":
        squares = _Excess.apply(images, texts)
    else:
        squares = _Excess.apply(texts, images).T
    if squared:
        return -squares
    return -squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()


class _Excess(torch.autograd.Function):
    """(N, D) and (M, D) to the (N, M) squared norms of max(0, a - b)."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        rows = [_differences(block, b).square_().sum(2) for block in a.split(_step(b))]
        return torch.cat(rows) if rows else a.new_zeros(0, len(b))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        of_a, of_b = [], torch.zeros_like(b)
        for block, gradient in zip(a.split(_step(b)), gradients[0].split(_step(b)), strict=True):
            weighted = _differences(block, b).mul_(2 * gradient[:, :, None])
            of_a.append(weighted.sum(1))
            of_b -= weighted.sum(0)
        return torch.cat(of_a) if of_a else torch.zeros_like(a), of_b


def _step(b: Tensor) -> int:
    return max(1, _NUMBERS // max(1, b.numel()))


def _differences(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).clamp_(min=0)
