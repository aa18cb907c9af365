"""Order violation (Vendrov et al., ICLR 2016), in VSE++'s form."""

from __future__ import annotations

import torch
from torch import Tensor

_NUMBERS = 2**24  # differences held at a time


def order_similarity(images: Tensor, texts: Tensor) -> Tensor:
    """(N, D) and (M, D) to (N, M): minus the length of what a text has beyond an image, |max(0, t - v)|.

    VSE++'s code has this square root; order embeddings themselves, and GXN, have the square. At equality the
    gradient is 0, where the original's is not a number.
    """
    step = max(1, _NUMBERS // max(1, texts.numel()))
    violations = [(texts[None] - block[:, None]).clamp(min=0).square().sum(2) for block in images.split(step)]
    squares = torch.cat(violations)
    return -squares.clamp(min=torch.finfo(squares.dtype).tiny).sqrt()
