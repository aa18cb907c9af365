"""ACMR: Adversarial Cross-Modal Retrieval (Wang et al., ACM MM 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch, require
from crossmodal_bench.core.distributed import gather, gather_interleaved, sum_over_all
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.host import HostNumber
from crossmodal_bench.losses.acmr import (
    acmr_demo_triplet_loss,
    acmr_triplet_loss,
    cross_modal_distances,
    frobenius_penalty,
    label_prediction_loss,
    modality_classification_loss,
    same_label,
)
from crossmodal_bench.methods.adversarial import AdversarialMethod
from crossmodal_bench.methods.encoders import check_never_unfrozen, own_matrices
from crossmodal_bench.methods.optimization import AdamSettings
from crossmodal_bench.networks import ImageEncoder, Perceptron, TextEncoder, TextSource, reverse_gradient
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.networks.perceptron import ACTIVATIONS
from crossmodal_bench.similarity import negative_euclidean

PAPER_NEGATIVE_WEIGHT = 0.05
"""Lambda of Eq. 4-5, section 4.1.2."""
DEMO_POSITIVE_WEIGHT = 5.0
"""The factor on the positives in the authors' code."""


@dataclass(frozen=True)
class TripletSettings:
    """The inter-modal invariance loss L_imi.

    Attributes:
        form: ``paper``, or ``demo``: the hinge loss of the published code.
        margin: mu of Eq. 4-5, which the paper does not give; in the demo form, the margin of its hinge, 0.1
            in the code.
        margin_unit: the unit of ``margin``. ``distance``: Euclidean distance in the common space, as printed;
            ``initial_distance``: the mean distance between images and texts of the first batch before any
            step, so that one value suits every width and every kind of features. The latter is ours.
        negative_weight: lambda of Eq. 4-5, for the paper form only. None: 0.05, section 4.1.2.
        positive_weight: the factor on the positives, for the demo form only. None: 5, as in the code.

    Raises:
        BadInput: a value is set that the form does not use.
    """

    form: Literal["paper", "demo"] = "paper"
    margin: float = 1.0
    margin_unit: Literal["distance", "initial_distance"] = "distance"
    negative_weight: float | None = None
    positive_weight: float | None = None

    def __post_init__(self) -> None:
        if self.form == "paper" and self.positive_weight is not None:
            raise BadInput(
                f"triplet.positive_weight is {self.positive_weight:g}, but triplet.form 'paper' does not use "
                "it: Eq. 4-5 weight the negatives; set it to null and give triplet.negative_weight"
            )
        if self.form == "demo" and self.negative_weight is not None:
            raise BadInput(
                f"triplet.negative_weight is {self.negative_weight:g}, but triplet.form 'demo' does not use "
                "it: the authors' code weights the positives by 5; set it to null and give "
                "triplet.positive_weight"
            )
        if self.form == "demo" and self.margin_unit != "distance":
            raise BadInput(
                f"triplet.margin_unit is '{self.margin_unit}', but triplet.form 'demo' does not support it: "
                "its margin applies to sums of squares; set it to distance"
            )


@dataclass(frozen=True)
class ProjectorSettings:
    """The two projectors into the common space.

    ``dim`` and ``last`` also apply to an encoder that replaces a projector; the rest only to projectors.

    Attributes:
        image_hidden: hidden widths of the image projector.
        text_hidden: hidden widths of the text projector.
        dim: width of the common space.
        last: activation of the last layers.
        dropout: in both projectors.
        standardise: whether inputs are standardised by batch statistics.
    """

    image_hidden: Sequence[int] = (2000,)
    text_hidden: Sequence[int] = (500,)
    dim: int = 200
    last: Literal["tanh", "relu", "identity"] = "tanh"
    dropout: float = 0.0
    standardise: bool = False


@dataclass(frozen=True)
class ModalityClassifierSettings:
    """The discriminator, which the paper calls the modality classifier.

    Attributes:
        hidden: its hidden widths.
        learning_rate: of its Adam; None for that of all other parts.
        reversal_schedule: the factor on its gradient on the way to the projectors, in addition to the weight
            of L_adv. ``constant``: 1, as in Eq. 9; ``ramp``: 2 / (1 + exp(-10 p)) - 1 at progress p, starting
            from 0 in the first epoch. The ramp is from the authors' code and not in the paper; training the
            paper's objective with it is ours.
    """

    hidden: Sequence[int] = (50,)
    learning_rate: float | None = None
    reversal_schedule: Literal["constant", "ramp"] = "constant"


class ACMR(AdversarialMethod):
    """Two projectors into a common space, a label classifier, a modality classifier behind gradient reversal.

    Minimises alpha L_imi + beta L_imd + regularisation L_reg - adversary L_adv over the projectors and the
    label classifier, and L_adv over the modality classifier (Eq. 8-10, Algorithm 1: ``k`` steps of the former
    per step of the latter). Texts are ranked by the negative Euclidean distance.

    Table 5's "L_imi only" is beta = 0, "L_imd only" alpha = 0; Figure 4's "without adversary" is adversary =
    0. Where paper and published code disagree, the paper is followed; ``triplet.form`` gives the code's loss.

    Alpha and beta decide whether it learns at all. The paper searches both for each data set (section 4.1.2),
    as ``METHODS=acmr_grid`` does; the values that its section 4.3.4 discusses for Wikipedia, 0.1 and 0.1, let
    all weights vanish on other features: L_reg is then 98 % of the objective (docs/acmr_collapse.md).

    Replacing the projectors by encoders allows a comparison of ACMR with other objectives on the same
    networks; that is ours.

    Args:
        alpha: weight of the inter-modal invariance loss, Eq. 6 (the paper's section 4.3.4 swaps alpha and
            beta).
        beta: weight of the label prediction loss, Eq. 2.
        regularisation: weight of Eq. 7; 1 in the paper.
        regularisation_form: ``norm``: the Frobenius norms, as printed in Eq. 7; ``squared``: their squares,
            which is ours.
        adversary: weight of the modality classifier's gradient in the projectors; 0 turns the adversary off.
        k: projector steps per modality-classifier step.
        label_loss: ``softmax`` as in Eq. 2; ``sigmoid`` for labels that are not mutually exclusive.
        triplet: the inter-modal invariance loss, Eq. 4-6.
        projectors: the networks into the common space.
        discriminator: the modality classifier.
        optimizer: Adam for all parts; beta1 is 0.5 in the code.
        gather_negatives: on several devices, whether L_imi is computed over all of their batches, as if one
            device had the whole batch; otherwise over each device's own.
        image_encoder: maps images to the common space instead of the image projector; Eq. 7 then includes its
            weight matrices, except those of a pre-trained network.
        text_encoder: likewise for texts; word vectors are not included either.

    Raises:
        BadInput: the demo form's triplets, which need the projectors' inputs, are used with an encoder.
        ValueError: an encoder is to be unfrozen later.
    """

    requires = frozenset({"features", "bow", "labels"})
    initial_distance: Tensor

    def __init__(
        self,
        alpha: float = 10.0,
        beta: float = 100.0,
        regularisation: float = 1.0,
        regularisation_form: Literal["norm", "squared"] = "norm",
        adversary: float = 1.0,
        k: int = 5,
        label_loss: Literal["softmax", "sigmoid"] = "softmax",
        triplet: TripletSettings = TripletSettings(),
        projectors: ProjectorSettings = ProjectorSettings(),
        discriminator: ModalityClassifierSettings = ModalityClassifierSettings(),
        optimizer: AdamSettings = AdamSettings(learning_rate=1e-4, beta1=0.5),
        gather_negatives: bool = False,
        image_encoder: ImageEncoder | None = None,
        text_encoder: TextEncoder | None = None,
    ) -> None:
        super().__init__(encoder_steps=k, discriminator_steps=1, gradient_clip=optimizer.gradient_clip)
        self.save_hyperparameters()
        self.keep_hyperparameters_plain()
        if triplet.form == "demo" and not (image_encoder is None and text_encoder is None):
            raise BadInput(
                "triplet.form is 'demo', which mines negatives by the projectors' input features and bags of "
                "words; with image_encoder or text_encoder, set it to paper"
            )
        check_never_unfrozen({"image_encoder": image_encoder, "text_encoder": text_encoder})
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        of_images = frozenset({"features"}) if image_encoder is None else image_encoder.requires
        of_texts = frozenset({"bow"}) if text_encoder is None else text_encoder.requires
        self.requires = of_images | of_texts | {"labels"}
        self.alpha, self.beta = alpha, beta
        self.regularisation, self.adversary = regularisation, adversary
        self.regularisation_form: Literal["norm", "squared"] = regularisation_form
        self.label_loss: Literal["softmax", "sigmoid"] = label_loss
        self.triplet_settings, self.projector_settings = triplet, projectors
        self.discriminator_settings, self.optimizer_settings = discriminator, optimizer
        self.gather_negatives = gather_negatives
        # The mean distance of the first batch, if it is the margin's unit; saved in checkpoints.
        # 0 until the first batch has been seen.
        self._known_distance = HostNumber()
        self.register_buffer("initial_distance", torch.zeros(()))

    def build(self, spec: DataSpec) -> None:
        """Projectors V-2000-200 and T-500-200, label classifier 200-C, modality classifier 200-50-2."""
        settings = self.projector_settings
        if self.image_encoder is None:
            self.image_projector = self._projector(spec.feature_dim, settings.image_hidden)
        else:
            self.image_encoder.build(spec, settings.dim)
        if self.text_encoder is None:
            self.text_projector = self._projector(spec.bow_dim, settings.text_hidden)
        else:
            self.text_encoder.build(spec, settings.dim)
        self.last = ACTIVATIONS[settings.last]()
        self.label_classifier = nn.Linear(settings.dim, spec.n_labels)
        self.modality_classifier = Perceptron(
            (settings.dim, *self.discriminator_settings.hidden, 2), activation="tanh"
        )

    def _projector(self, width: int, hidden: Sequence[int]) -> Perceptron:
        settings = self.projector_settings
        return Perceptron(
            (width, *hidden, settings.dim),
            activation="tanh",
            last=settings.last,
            dropout=settings.dropout,
            standardise=settings.standardise,
        )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the projectors and the label classifier; another for the modality classifier."""
        settings, discriminator_rate = self.optimizer_settings, self.discriminator_settings.learning_rate
        of_discriminator = (
            settings if discriminator_rate is None else replace(settings, learning_rate=discriminator_rate)
        )
        encoders = [
            parameter
            for module in (self._of_images, self._of_texts, self.label_classifier)
            for parameter in module.parameters()
            if parameter.requires_grad
        ]
        # Lightning cannot clip gradients of a fused optimiser in mixed precision.
        fused = settings.gradient_clip is None
        return [
            settings.build(encoders, fused=fused),
            of_discriminator.build(self.modality_classifier.parameters(), fused=fused),
        ]

    def joint_loss(self, batch: PairBatch) -> Tensor:
        """Eq. 8 plus Eq. 1 behind gradient reversal, whose gradient is that of Eq. 9 and 10."""
        labels = require(batch.images.labels, "labels")
        images, texts = self._project_images(batch.images), self._project_texts(batch.texts)
        invariance = self._invariance(batch, images, texts, labels)
        image_logits, text_logits = self.label_classifier(images), self.label_classifier(texts)
        discrimination = label_prediction_loss(image_logits, text_logits, labels, self.label_loss)
        norms = frobenius_penalty(
            [*_counted(self._of_images), *_counted(self._of_texts)],
            squared=self.regularisation_form == "squared",
        )
        embedding = self.alpha * invariance + self.beta * discrimination + self.regularisation * norms
        factor = self.adversary * self._reversal_factor()
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
                "train/deviation_images": _deviation(images),
                "train/deviation_texts": _deviation(texts),
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
        """The negative Euclidean distance."""
        return negative_euclidean(images.values, texts.values)

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The negative distance in the common space."""
        return "euclidean"

    @property
    def backbone(self) -> BackboneSource | None:
        """The image encoder's pre-trained network, if there is an encoder."""
        return None if self.image_encoder is None else self.image_encoder.source

    @property
    def fine_tunes_backbone(self) -> bool:
        """Whether the image encoder does; projectors have nothing to fine-tune."""
        return self.image_encoder is not None and self.image_encoder.fine_tuned

    @property
    def text_source(self) -> TextSource | None:
        """The text encoder's; None for bags of words."""
        return None if self.text_encoder is None else self.text_encoder.source

    @property
    def _of_images(self) -> nn.Module:
        return self.image_projector if self.image_encoder is None else self.image_encoder

    @property
    def _of_texts(self) -> nn.Module:
        return self.text_projector if self.text_encoder is None else self.text_encoder

    def _project_images(self, batch: ImageBatch) -> Tensor:
        if self.image_encoder is not None:
            return self.last(self.image_encoder(batch))
        return self.image_projector(require(batch.features, "features"))

    def _project_texts(self, batch: TextBatch) -> Tensor:
        if self.text_encoder is not None:
            return self.last(self.text_encoder(batch))
        return self.text_projector(require(batch.bow, "bow"))

    def _invariance(self, batch: PairBatch, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        settings = self.triplet_settings
        if self.gather_negatives:
            images, texts = gather_interleaved(images), gather_interleaved(texts)
            labels = gather_interleaved(labels)
        if settings.form == "demo":
            return self._demo_invariance(batch, images, texts, labels)
        margin = self._margin(images, texts)
        negative_weight = (
            PAPER_NEGATIVE_WEIGHT if settings.negative_weight is None else settings.negative_weight
        )
        return acmr_triplet_loss(images, texts, labels, margin, negative_weight)

    def _margin(self, images: Tensor, texts: Tensor) -> float | Tensor:
        settings = self.triplet_settings
        if settings.margin_unit == "distance":
            return settings.margin
        if not self._known_distance.of(self.initial_distance):
            own = cross_modal_distances(images.detach(), texts.detach()).mean()
            # All processes use the same unit.
            self.initial_distance.copy_(gather(own[None]).mean())
        return settings.margin * self.initial_distance

    def _demo_invariance(self, batch: PairBatch, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        settings = self.triplet_settings
        features, bow = require(batch.images.features, "features"), require(batch.texts.bow, "bow")
        if self.gather_negatives:
            features, bow = gather_interleaved(features), gather_interleaved(bow)
        different = ~same_label(labels)
        # As an image's negative text, the code takes the text of the most similar image of another class by
        # the cosine of the input features; likewise for texts.
        most_similar_images = _most_similar(features, different)
        most_similar_texts = _most_similar(bow, different)
        summed = acmr_demo_triplet_loss(
            images,
            texts,
            negative_images=images[most_similar_texts],
            negative_texts=texts[most_similar_images],
            margin=settings.margin,
            positive_weight=DEMO_POSITIVE_WEIGHT
            if settings.positive_weight is None
            else settings.positive_weight,
        )
        return summed if self.gather_negatives else sum_over_all(summed)

    def _reversal_factor(self) -> float:
        if self.discriminator_settings.reversal_schedule == "constant":
            return 1.0
        progress = self.trainer.current_epoch / max(1, self.trainer.max_epochs or 1)
        return 2 / (1 + math.exp(-10 * progress)) - 1


def _counted(network: nn.Module) -> list[Tensor]:
    """The weight matrices included in Eq. 7."""
    return network.weights() if isinstance(network, Perceptron) else own_matrices(network)


def _deviation(projected: Tensor) -> Tensor:
    """The standard deviation of a batch's vectors, averaged over dimensions; 0 if they have collapsed."""
    # Over all processes' batches: the mean of their own deviations would be a different number.
    return gather(projected.detach()).std(0, correction=0).mean()


def _most_similar(features: Tensor, allowed: Tensor) -> Tensor:
    unit = F.normalize(features, dim=1)
    return (unit @ unit.T).masked_fill(~allowed, -torch.inf).argmax(1)
