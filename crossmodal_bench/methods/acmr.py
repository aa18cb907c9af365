"""ACMR: Adversarial Cross-Modal Retrieval (Wang et al., ACM MM 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch, require
from crossmodal_bench.core.distributed import gather_interleaved, sum_over_all
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.losses.acmr import (
    acmr_triplet_loss,
    frobenius_penalty,
    label_prediction_loss,
    modality_classification_loss,
    same_label,
)
from crossmodal_bench.methods.adversarial import AdversarialMethod
from crossmodal_bench.networks import Perceptron, reverse_gradient
from crossmodal_bench.similarity import negative_euclidean


class ACMR(AdversarialMethod):
    """Two projectors into a common space, a label classifier, a modality classifier behind gradient reversal.

    Minimises alpha L_imi + beta L_imd + regularisation L_reg - adversary L_adv over the projectors and the
    label classifier, and L_adv over the modality classifier (Eq. 8-10, Algorithm 1: ``k`` steps of the former
    to one of the latter). Texts rank by minus the Euclidean distance.

    Table 5's "L_imi only" is beta = 0, "L_imd only" alpha = 0; Figure 4's "without adversary" is adversary =
    0. Where paper and published code disagree, the paper is followed; ``triplet_form`` gives the code's loss.

    Args:
        alpha: weight of the inter-modal invariance loss, Eq. 6 (the paper's section 4.3.4 swaps alpha and
            beta).
        beta: weight of the label prediction loss, Eq. 2.
        regularisation: weight of Eq. 7; the paper prints 1.
        adversary: weight of the modality classifier's gradient in the projectors; 0 turns the adversary off.
        reversal_schedule: ``constant``, or ``ramp``: times 2 / (1 + exp(-10 p)) - 1 at progress p (the code).
        k: projector steps per modality-classifier step.
        margin: mu of Eq. 4-5; not given in the paper.
        negative_weight: lambda of Eq. 4-5.
        triplet_form: ``paper``, or ``demo``: the published code's hinge.
        label_loss: ``softmax`` as in Eq. 2; ``sigmoid`` for labels that do not compete.
        image_hidden: hidden widths of the image projector.
        text_hidden: hidden widths of the text projector.
        dim: width of the common space.
        discriminator_hidden: hidden widths of the modality classifier.
        last: activation of the projectors' last layer.
        dropout: in the projectors.
        standardise: whether inputs are standardised by batch statistics.
        learning_rate: of Adam, for all parts.
        adam_beta1: of Adam; 0.5 in the code.
        discriminator_learning_rate: of the modality classifier, or None for ``learning_rate``.
        gather_negatives: on several devices, whether L_imi is that of all their batches, as if one had the
            whole batch; else each has its own.
    """

    requires = frozenset({"features", "bow", "labels"})

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 0.1,
        regularisation: float = 1.0,
        adversary: float = 1.0,
        reversal_schedule: Literal["constant", "ramp"] = "constant",
        k: int = 5,
        margin: float = 1.0,
        negative_weight: float = 0.05,
        triplet_form: Literal["paper", "demo"] = "paper",
        label_loss: Literal["softmax", "sigmoid"] = "softmax",
        image_hidden: Sequence[int] = (2000,),
        text_hidden: Sequence[int] = (500,),
        dim: int = 200,
        discriminator_hidden: Sequence[int] = (50,),
        last: Literal["tanh", "relu", "identity"] = "tanh",
        dropout: float = 0.0,
        standardise: bool = False,
        learning_rate: float = 1e-4,
        adam_beta1: float = 0.5,
        discriminator_learning_rate: float | None = None,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__(encoder_steps=k, discriminator_steps=1)
        self.save_hyperparameters()

    def build(self, spec: DataSpec) -> None:
        """Projectors V-2000-200 and T-500-200, label classifier 200-C, modality classifier 200-50-2."""
        p: Any = self.hparams
        common = {"activation": "tanh", "last": p.last, "dropout": p.dropout, "standardise": p.standardise}
        self.image_projector = Perceptron((spec.feature_dim, *p.image_hidden, p.dim), **common)
        self.text_projector = Perceptron((spec.bow_dim, *p.text_hidden, p.dim), **common)
        self.label_classifier = nn.Linear(p.dim, spec.n_labels)
        self.modality_classifier = Perceptron((p.dim, *p.discriminator_hidden, 2), activation="tanh")

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the projectors and the label classifier; another for the modality classifier."""
        p: Any = self.hparams
        encoders = [
            *self.image_projector.parameters(),
            *self.text_projector.parameters(),
            *self.label_classifier.parameters(),
        ]
        betas = (p.adam_beta1, 0.999)
        discriminator_rate = (
            p.learning_rate if p.discriminator_learning_rate is None else p.discriminator_learning_rate
        )
        return [
            torch.optim.Adam(encoders, p.learning_rate, betas, fused=True),
            torch.optim.Adam(self.modality_classifier.parameters(), discriminator_rate, betas, fused=True),
        ]

    def joint_loss(self, batch: PairBatch) -> Tensor:
        """Eq. 8 plus Eq. 1 behind the reversal, whose gradient is that of Eq. 9 and 10."""
        p: Any = self.hparams
        labels = require(batch.images.labels, "labels")
        images, texts = self._project_images(batch.images), self._project_texts(batch.texts)
        invariance = self._invariance(batch, images, texts, labels)
        image_logits, text_logits = self.label_classifier(images), self.label_classifier(texts)
        discrimination = label_prediction_loss(image_logits, text_logits, labels, p.label_loss)
        norms = frobenius_penalty([*self.image_projector.weights(), *self.text_projector.weights()])
        embedding = p.alpha * invariance + p.beta * discrimination + p.regularisation * norms
        factor = p.adversary * self._reversal_factor()
        image_guess = self.modality_classifier(reverse_gradient(images, factor))
        text_guess = self.modality_classifier(reverse_gradient(texts, factor))
        adversarial = modality_classification_loss(image_guess, text_guess)
        right = torch.cat([image_guess.argmax(1) == 1, text_guess.argmax(1) == 0])
        self.log_means(
            {
                "train/loss_embedding": embedding,
                "train/loss_invariance": invariance,
                "train/loss_labels": discrimination,
                "train/loss_adversarial": adversarial,
                "train/discriminator_accuracy": right.float().mean(),
            },
            len(batch),
        )
        return embedding + adversarial

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, dim) projected images."""
        return Encoding(self._project_images(batch))

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, dim) projected texts."""
        return Encoding(self._project_texts(batch))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """Minus the Euclidean distance."""
        return negative_euclidean(images.values, texts.values)

    def _project_images(self, batch: ImageBatch) -> Tensor:
        return self.image_projector(require(batch.features, "features"))

    def _project_texts(self, batch: TextBatch) -> Tensor:
        return self.text_projector(require(batch.bow, "bow"))

    def _invariance(self, batch: PairBatch, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        p: Any = self.hparams
        if p.gather_negatives:
            images, texts, labels = (gather_interleaved(one) for one in (images, texts, labels))
        if p.triplet_form == "paper":
            return acmr_triplet_loss(images, texts, labels, p.margin, p.negative_weight)
        features, bow = require(batch.images.features, "features"), require(batch.texts.bow, "bow")
        if p.gather_negatives:
            features, bow = gather_interleaved(features), gather_interleaved(bow)
        different = ~same_label(labels)
        # The code takes, as an image's negative text, the text of the image most similar to it among other
        # classes by the cosine of the input features; likewise for texts.
        of_image, of_text = _most_similar(features, different), _most_similar(bow, different)
        summed = acmr_triplet_loss(
            images, texts, labels, p.margin, p.negative_weight, "demo", images[of_text], texts[of_image]
        )
        return summed if p.gather_negatives else sum_over_all(summed)

    def _reversal_factor(self) -> float:
        p: Any = self.hparams
        if p.reversal_schedule == "constant":
            return 1.0
        progress = self.trainer.current_epoch / max(1, self.trainer.max_epochs or 1)
        return 2 / (1 + math.exp(-10 * progress)) - 1


def _most_similar(features: Tensor, allowed: Tensor) -> Tensor:
    unit = F.normalize(features, dim=1)
    return (unit @ unit.T).masked_fill(~allowed, -torch.inf).argmax(1)
