"""The losses of ACMR (Wang et al., Adversarial Cross-Modal Retrieval, ACM MM 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def acmr_triplet_loss(
    images: Tensor, texts: Tensor, labels: Tensor, margin: float | Tensor, negative_weight: float = 0.05
) -> Tensor:
    """Inter-modal invariance loss, Eq. 3-6: one number for both directions.

    For each anchor, the mean distance to the positives of the other modality plus ``negative_weight`` times
    the mean of max(0, margin - distance) over its negatives, averaged over anchors; the two directions are
    added. Eq. 4-5 print a sum over i, j, k without saying how it is taken: means make the loss independent of
    the batch's label counts. A pair is always its own positive, even if the image has no label at all.

    Args:
        images: (B, D) projected images.
        texts: (B, D) projected texts; row b belongs to image b.
        labels: (B,) classes, or (B, C) multi-hot, where a positive shares at least one label.
        margin: mu in Eq. 4-5, a distance (the paper gives no value).
        negative_weight: lambda in Eq. 4-5, the factor on the negatives' term.

    Raises:
        ValueError: mismatched shapes.

    Examples:
        >>> import torch
        >>> images, texts = torch.eye(2), torch.eye(2)
        >>> acmr_triplet_loss(images, texts, labels=torch.tensor([0, 1]), margin=1.0)
        tensor(0.)
    """
    if images.shape != texts.shape or len(labels) != len(images):
        raise ValueError(
            f"images {tuple(images.shape)}, texts {tuple(texts.shape)} "
            f"and labels {tuple(labels.shape)} must agree"
        )
    distance = cross_modal_distances(images, texts)
    positive = same_label(labels).to(distance.dtype)
    negative = 1 - positive
    hinge = F.relu(margin - distance) * negative
    loss = distance.new_zeros(())
    for dim in (1, 0):
        pull = (distance * positive).sum(dim) / positive.sum(dim)
        push = hinge.sum(dim) / negative.sum(dim).clamp(min=1)
        loss = loss + (pull + negative_weight * push).mean()
    return loss


def acmr_demo_triplet_loss(
    images: Tensor,
    texts: Tensor,
    negative_images: Tensor,
    negative_texts: Tensor,
    margin: float,
    positive_weight: float = 5.0,
) -> Tensor:
    """The loss of the authors' published code, instead of Eq. 4-5: one hinge per direction and batch.

    max(0, margin + positive_weight * sum ||v - t||^2 / 2 - sum ||v - t_negative||^2 / 2), and likewise with
    texts as anchors; the two are added.

    Args:
        images: (B, D) projected images.
        texts: (B, D) projected texts; row b belongs to image b.
        negative_images: (B, D): for each text, a projected image of another class.
        negative_texts: (B, D): for each image, a projected text of another class.
        margin: of the hinge, in sums of squared distances; 0.1 in the code.
        positive_weight: the factor on the positives, 5 in the code; Eq. 4-5 weight the negatives instead.

    Raises:
        ValueError: mismatched shapes.
    """
    shapes = [tuple(tensor.shape) for tensor in (images, texts, negative_images, negative_texts)]
    if len(set(shapes)) > 1:
        raise ValueError(
            "images {}, texts {}, negative images {} and negative texts {} must agree".format(*shapes)
        )
    positive = positive_weight * _half_squares(images, texts)
    return F.relu(margin + positive - _half_squares(images, negative_texts)) + F.relu(
        margin + positive - _half_squares(texts, negative_images)
    )


def cross_modal_distances(images: Tensor, texts: Tensor) -> Tensor:
    """(B, B) Euclidean distances from images to texts, Eq. 3."""
    # The matrix-product form of cdist loses digits for near points, and its gradient at zero distance is NaN.
    return torch.cdist(images, texts, compute_mode="donot_use_mm_for_euclid_dist")


def _half_squares(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum() / 2


def same_label(labels: Tensor) -> Tensor:
    """(B, B) whether two items share a label; the diagonal is always true."""
    if labels.ndim == 1:
        return labels[:, None] == labels[None, :]
    shared = labels.float() @ labels.float().T > 0
    return shared | torch.eye(len(labels), dtype=torch.bool, device=labels.device)


def modality_classification_loss(image_logits: Tensor, text_logits: Tensor) -> Tensor:
    """Adversarial loss, Eq. 1: the summed cross-entropies of classifying images as 1 and texts as 0.

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


def frobenius_penalty(weights: Iterable[Tensor], *, squared: bool = False) -> Tensor:
    """Regulariser, Eq. 7: the sum of the Frobenius norms of the projectors' weight matrices.

    Args:
        weights: the matrices.
        squared: sum the squared norms instead. That is our addition, and the usual weight decay: the gradient
            of a norm as printed has length 1 however small the matrix is, so that only the other terms keep
            it from vanishing.
    """
    norms = torch.stack([torch.linalg.matrix_norm(weight) for weight in weights])
    return (norms.square() if squared else norms).sum()
