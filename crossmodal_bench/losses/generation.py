"""Adversarial losses on generated pictures (GXN, Gu et al., CVPR 2018, Eq. 9-12), as in StackGAN's code."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def picture_discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    wrong_logits: Tensor,
    beta_fake: float = 0.5,
    beta_wrong: float | Tensor = 0.5,
) -> Tensor:
    """The discriminator's loss: Eq. 9 and 11, negated, to be minimised.

    -mean log D(real) - beta_fake mean log(1 - D(fake)) - beta_wrong mean log(1 - D(wrong)), each mean over
    its own pairs. Fakes should be detached from their generator.

    Args:
        real_logits: (B,) of pictures with their own texts.
        fake_logits: (B,) of generated pictures with the texts they were generated from.
        wrong_logits: (W,) of real pictures with others' texts (``wrong_pairs``); if empty, their term is 0.
        beta_fake: weight of the generated pictures, 0.5 as in section 4.1 and StackGAN's code.
        beta_wrong: likewise, of the wrong texts.

    Raises:
        ValueError: no real or no fake logits.
    """
    if not real_logits.numel() or not fake_logits.numel():
        shapes = f"real_logits {tuple(real_logits.shape)} and fake_logits {tuple(fake_logits.shape)}"
        raise ValueError(f"{shapes} must not be empty")
    wrong = F.softplus(_single(wrong_logits)).sum() / max(1, wrong_logits.numel())
    fake = F.softplus(_single(fake_logits)).mean()
    return F.softplus(-_single(real_logits)).mean() + beta_fake * fake + beta_wrong * wrong


def picture_generator_loss(
    fake_logits: Tensor, form: Literal["non_saturating", "minimax"] = "non_saturating"
) -> Tensor:
    """The generator's loss, to be minimised with the discriminator held fixed.

    ``non_saturating``: -mean log D(fake), as in StackGAN's code. ``minimax``: mean log(1 - D(fake)), Eq. 10
    and the first term of Eq. 12 as printed, whose gradient vanishes where the discriminator is confident
    about the fakes.

    Eq. 8 adds this to Eq. 9, which already has the same term and so counts it twice; we keep to the two
    separate losses of Algorithm 1.

    Args:
        fake_logits: (B,) of generated pictures with the texts they were generated from.
        form: see above.

    Raises:
        ValueError: an unknown form.
    """
    if form == "non_saturating":
        return F.softplus(-_single(fake_logits)).mean()
    if form == "minimax":
        return -F.softplus(_single(fake_logits)).mean()
    raise ValueError(f"form is '{form}'; use 'non_saturating' or 'minimax'")


def condition_kl(mu: Tensor, log_variance: Tensor, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """KL(N(mu, sigma²) || N(0, 1)) of the conditions: the second term of Eq. 12, without its weight.

    ``mean``: over texts and dimensions, as in StackGAN's code, to which the weight of 2.0 belongs. ``sum``:
    the divergence itself, summed over dimensions and averaged over texts.

    Args:
        mu: (B, D).
        log_variance: (B, D), log sigma².
        reduction: see above.

    Raises:
        ValueError: shapes that differ or are not (B, D), or an unknown reduction.
    """
    if mu.ndim != 2 or mu.shape != log_variance.shape:
        shapes = f"mu {tuple(mu.shape)} and log_variance {tuple(log_variance.shape)}"
        raise ValueError(f"{shapes} must be (B, D) and equal")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is '{reduction}'; use 'mean' or 'sum'")
    mu, log_variance = _single(mu), _single(log_variance)
    divergence = (mu.square() + log_variance.exp() - 1 - log_variance) / 2
    return divergence.mean() if reduction == "mean" else divergence.sum(1).mean()


def wrong_pairs(image_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which pictures and texts of a batch to show the discriminator as wrong pairs (t' of Eq. 9).

    Each picture with the next row's text, as in StackGAN's code; the last picture has no next and is left
    out. So is a picture whose next text describes the same image, which that code would call wrong.

    Args:
        image_ids: (B,) the image to which each row's picture and text belong.

    Returns:
        Rows of pictures and rows of texts, both (W,) with W < B; W is 0 if the batch has only one image.

    Raises:
        ValueError: ids that are not (B,).
    """
    if image_ids.ndim != 1:
        raise ValueError(f"image_ids {tuple(image_ids.shape)} must be (B,)")
    pictures = (image_ids[:-1] != image_ids[1:]).nonzero().flatten()
    return pictures, pictures + 1


def _single(x: Tensor) -> Tensor:
    """At least in single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
