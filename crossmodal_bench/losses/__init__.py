"""Training objectives as pure functions, each citing its equation."""

from crossmodal_bench.losses.acmr import (
    acmr_demo_triplet_loss,
    acmr_triplet_loss,
    frobenius_penalty,
    label_prediction_loss,
    modality_classification_loss,
)
from crossmodal_bench.losses.captioning import (
    caption_cross_entropy,
    ramp,
    self_critical_loss,
    sentence_mask,
)
from crossmodal_bench.losses.contrastive import infonce_loss, siglip_loss
from crossmodal_bench.losses.domains import domain_regularisation, domain_risks, negatives_risks
from crossmodal_bench.losses.generation import (
    condition_kl,
    picture_discriminator_loss,
    picture_generator_loss,
    wrong_pairs,
)
from crossmodal_bench.losses.identification import (
    SampledClasses,
    norm_softmax_loss,
    sampled_norm_softmax_loss,
)
from crossmodal_bench.losses.modality import modality_discriminator_loss, modality_fooling_loss
from crossmodal_bench.losses.projection_matching import cmpc_loss, cmpm_loss
from crossmodal_bench.losses.ranking import hardest_negatives, triplet_ranking_loss

__all__ = [
    "SampledClasses",
    "acmr_demo_triplet_loss",
    "acmr_triplet_loss",
    "caption_cross_entropy",
    "cmpc_loss",
    "cmpm_loss",
    "condition_kl",
    "domain_regularisation",
    "domain_risks",
    "frobenius_penalty",
    "hardest_negatives",
    "infonce_loss",
    "label_prediction_loss",
    "modality_classification_loss",
    "modality_discriminator_loss",
    "modality_fooling_loss",
    "negatives_risks",
    "norm_softmax_loss",
    "picture_discriminator_loss",
    "picture_generator_loss",
    "ramp",
    "sampled_norm_softmax_loss",
    "self_critical_loss",
    "sentence_mask",
    "siglip_loss",
    "triplet_ranking_loss",
    "wrong_pairs",
]
