"""The losses of ACMR (Wang et al., Adversarial Cross-Modal Retrieval, ACM MM 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PAPER_WEIGHT = 0.05
DEMO_WEIGHT = 5.0


def acmr_triplet_loss(
    images: Tensor,
    texts: Tensor,
    labels: Tensor,
    margin: float,
    weight: float = PAPER_WEIGHT,
    form: Literal["paper", "demo"] = "paper",
    negative_images: Tensor | None = None,
    negative_texts: Tensor | None = None,
) -> Tensor:
    """Inter-modal invariance loss, Eq. 3-6: one number for both directions.

    ``paper``: for an anchor, the mean distance to the positives of the other modality plus ``weight`` times
    the mean of max(0, margin - distance) over its negatives, averaged over anchors; the two directions are
    added. Eq. 4-5 print a sum over i, j, k without saying how it is taken: the means keep the loss
    independent of the batch's label counts. A pair is always its own positive, also where an image carries no
    label at all.

    ``demo``: the authors' published code, one hinge per direction over the whole batch,
    max(0, margin + weight * sum ||v - t||^2 / 2 - sum ||v - t_negative||^2 / 2).

    Args:
        images: (B, D) projected images.
        texts: (B, D) projected texts; row b belongs to image b.
        labels: (B,) classes, or (B, C) multi-hot, where a positive shares at least one label.
        margin: the margin, mu in Eq. 4-5 (the paper gives no value).
        weight: of the negatives' term, lambda in Eq. 4-5; in the demo's form the factor on the positives,
            where the paper's default stands for the demo's 5.
        form: which of the two.
        negative_images: (B, D) for ``demo``: for each text, a projected image of another class.
        negative_texts: (B, D) for ``demo``: for each image, a projected text of another class.

    Raises:
        ValueError: shapes that disagree, an unknown form, or ``demo`` without its negatives.
    """
    if images.shape != texts.shape or len(labels) != len(images):
        raise ValueError(
            f"images {tuple(images.shape)}, texts {tuple(texts.shape)} "
            f"and labels {tuple(labels.shape)} must agree"
        )
    if form == "paper":
        return _paper_form(images, texts, labels, margin, weight)
    if form != "demo":
        raise ValueError(f"form is '{form}'; use 'paper' or 'demo'")
    if negative_images is None or negative_texts is None:
        raise ValueError("form 'demo' needs negative_images and negative_texts")
    factor = DEMO_WEIGHT if weight == PAPER_WEIGHT else weight
    positive = factor * _half_squares(images, texts)
    return F.relu(margin + positive - _half_squares(images, negative_texts)) + F.relu(
        margin + positive - _half_squares(texts, negative_images)
    )


def _paper_form(images: Tensor, texts: Tensor, labels: Tensor, margin: float, weight: float) -> Tensor:
    # The matrix-product form of cdist loses digits for near points, and its gradient at zero distance is NaN.
    distance = torch.cdist(images, texts, compute_mode="donot_use_mm_for_euclid_dist")
    positive = same_label(labels).to(distance.dtype)
    negative = 1 - positive
    hinge = F.relu(margin - distance) * negative
    loss = distance.new_zeros(())
    for dim in (1, 0):
        pull = (distance * positive).sum(dim) / positive.sum(dim)
        push = hinge.sum(dim) / negative.sum(dim).clamp(min=1)
        loss = loss + (pull + weight * push).mean()
    return loss


def _half_squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum() / 2


def same_label(labels: Tensor) -> Tensor:
    """(B, B) whether two items share a label; the diagonal is always true."""
    if labels.ndim == 1:
        return labels[:, None] == labels[None, :]
    shared = labels.float() @ labels.float().T > 0
    return shared | torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def modality_classification_loss(image_logits: Tensor, text_logits: Tensor) -> Tensor:
    """Adversarial loss, Eq. 1: the cross-entropies of calling images class 1 and texts class 0, added.

    Args:
        image_logits: (B, 2) of the modality classifier for images.
        text_logits: (B, 2) for texts.
    """
    image_target = torch.ones(len(image_logits), dtype=torch.int64, device=image_logits.device)
    text_target = torch.zeros(len(text_logits), dtype=torch.int64, device=text_logits.device)
    return F.cross_entropy(image_logits, image_target) + F.cross_entropy(text_logits, text_target)


def label_prediction_loss(
    image_logits: Tensor, text_logits: Tensor, labels: Tensor, form: Literal["softmax", "sigmoid"] = "softmax"
) -> Tensor:
    """Intra-modal discrimination loss, Eq. 2, summed over the two modalities.

    Args:
        image_logits: (B, C) label scores of images.
        text_logits: (B, C) label scores of texts.
        labels: (B,) classes, or (B, C) multi-hot.
        form: ``softmax`` as printed: minus the sum of y log p; ``sigmoid``: binary cross-entropy per label,
            summed over labels, for multi-hot labels that do not compete.
    """
    if labels.ndim == 1:
        if form == "sigmoid":
            labels = F.one_hot(labels, image_logits.shape[1])
        else:
            return F.cross_entropy(image_logits, labels) + F.cross_entropy(text_logits, labels)
    loss = image_logits.new_zeros(())
    for logits in (image_logits, text_logits):
        if form == "softmax":
            loss = loss - (labels * F.log_softmax(logits, dim=1)).sum(1).mean()
        else:
            target = labels.to(logits.dtype)
            loss = loss + F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1).mean()
    return loss


def frobenius_penalty(weights: Iterable[Tensor]) -> Tensor:
    """Regulariser, Eq. 7: the sum of the Frobenius norms (not squared) of the projectors' weight matrices."""
    return torch.stack([torch.linalg.matrix_norm(weight) for weight in weights]).sum()
