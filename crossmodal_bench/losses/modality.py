"""The two sides of the adversarial game over a feature's modality (TIMAM, Eq. 4)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

FoolingForm = Literal["non_saturating", "minimax"]


def modality_discriminator_loss(image_logits: Tensor, text_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """The discriminator's loss, Eq. 4: -mean log D(image) - mean log(1 - D(text)).

    Args:
        image_logits: (B,) or (B, 1); the logit of "this is an image".
        text_logits: likewise.
        smoothing: one-sided label smoothing: the target of images is 1 - smoothing, that of texts stays 0.
    """
    return _cross_entropy(image_logits, 1.0 - smoothing) + _cross_entropy(text_logits, 0.0)


def modality_fooling_loss(
    image_logits: Tensor, text_logits: Tensor, form: FoolingForm = "non_saturating"
) -> Tensor:
    """The encoders' side of Eq. 4, with the discriminator held fixed.

    ``non_saturating``: with swapped labels, -mean log(1 - D(image)) - mean log D(text), whose gradient is
    strongest where the discriminator is confident. ``minimax``: minus Eq. 4, whose gradient vanishes there.
    Eq. 5 as printed adds Eq. 4 itself, with which the encoders would help the discriminator.

    Raises:
        ValueError: an unknown form.
    """
    if form == "non_saturating":
        return _cross_entropy(image_logits, 0.0) + _cross_entropy(text_logits, 1.0)
    if form == "minimax":
        return -modality_discriminator_loss(image_logits, text_logits)
    raise ValueError(f"form is '{form}'; use 'non_saturating' or 'minimax'")


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    # -t log s(x) - (1 - t) log s(-x), without overflow for any logit.
    return (F.softplus(logits) - target * logits).mean()
