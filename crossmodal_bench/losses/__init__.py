"""Training objectives as pure functions, each citing its equation."""

from crossmodal_bench.losses.acmr import (
    acmr_triplet_loss,
    frobenius_penalty,
    label_prediction_loss,
    modality_classification_loss,
)

__all__ = ["acmr_triplet_loss", "frobenius_penalty", "label_prediction_loss", "modality_classification_loss"]
