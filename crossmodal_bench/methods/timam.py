"""TIMAM: Text-Image Modality Adversarial Matching (Sarafianos et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch, require
from crossmodal_bench.core.distributed import gather
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.losses import (
    SampledClasses,
    cmpc_loss,
    cmpm_loss,
    modality_discriminator_loss,
    modality_fooling_loss,
    norm_softmax_loss,
    sampled_norm_softmax_loss,
)
from crossmodal_bench.methods.adversarial import AdversarialMethod
from crossmodal_bench.methods.plateau import Plateau
from crossmodal_bench.networks import (
    Freezable,
    ImageEncoder,
    Perceptron,
    TextEncoder,
    TextSource,
    reverse_gradient,
)
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.networks.embedding import single
from crossmodal_bench.similarity import cosine_similarity

VALIDATION_BLOCK = 64
"""Pairs per block of the validation loss: the paper's batch size, since the loss grows with it."""


@dataclass(frozen=True)
class ClassifierSettings:
    """The identification loss L_I.

    Attributes:
        loss: ``norm_softmax`` (Eq. 1), or ``cmpc``: CMPM's classification of projected features.
        shared: whether both modalities share one set of class weights; otherwise one each (norm_softmax
            only).
        sampled: number of identities sampled at each step to represent all that are not in the batch, in the
            denominator of Eq. 1 (norm_softmax only); None, as in the paper: all. With thousands of identities
            this denominator takes most of a step on a CPU, and reordering the operations does not make it
            cheaper; sampled, it is an estimate, and no longer the paper's loss.
    """

    loss: Literal["norm_softmax", "cmpc"] = "norm_softmax"
    shared: bool = True
    sampled: int | None = None

    def __post_init__(self) -> None:
        if self.loss == "cmpc" and not self.shared:
            raise ValueError("classifier.shared is false, but CMPC has a single classifier; set it to true")
        if self.sampled is not None and self.loss == "cmpc":
            raise ValueError("classifier.sampled is only for norm_softmax; leave it out with CMPC")
        if self.sampled is not None and self.sampled < 1:
            raise ValueError(f"classifier.sampled is {self.sampled}; it must be at least 1, or null for all")


@dataclass(frozen=True)
class ModalityDiscriminatorSettings:
    """The modality discriminator, and the encoders' game against it.

    Attributes:
        hidden: hidden widths of the discriminator ("two fully connected layers").
        adversarial_form: what the encoders minimise: ``non_saturating`` (swapped labels), ``minimax`` (minus
            L_D), or ``gradient_reversal``: the reversed gradient of the discriminator's own loss, including
            label smoothing and noise.
        label_smoothing: one-sided, for the discriminator's images.
        noise: standard deviation of Gaussian noise on the discriminator's input, annealed to 0 over training.
        steps: the discriminator's steps per cycle.
        encoder_steps: the encoders' steps per cycle.
        learning_rate: of the discriminator, or None for ``optimizer.learning_rate``.
    """

    hidden: Sequence[int] = (256,)
    adversarial_form: Literal["non_saturating", "minimax", "gradient_reversal"] = "non_saturating"
    label_smoothing: float = 0.1
    noise: float = 0.0
    steps: int = 1
    encoder_steps: int = 1
    learning_rate: float | None = None


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimisers of the image encoder, of the text encoder with the classes, and of the discriminator.

    The discriminator always uses SGD, the text encoder and the class weights Adam. With Adam for the
    discriminator, the game diverges.

    Attributes:
        learning_rate: of all optimisers without their own.
        image_learning_rate: of the image encoder, or None for ``learning_rate``.
        image_optimizer: of the image encoder.
        momentum: of SGD.
        weight_decay: of all optimisers.
        pretrained_rate: the learning rate of unfrozen networks, as a fraction of the others'.
        gradient_clip: maximum gradient norm of each optimiser's parameters, or None.
    """

    learning_rate: float = 2e-4
    image_learning_rate: float | None = None
    image_optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 4e-4
    pretrained_rate: float = 1.0
    gradient_clip: float | None = None

    def sgd(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """SGD over groups of parameters with their own learning rates."""
        return torch.optim.SGD(
            groups, momentum=self.momentum, weight_decay=self.weight_decay, fused=self._fused
        )

    def adam(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Adam over groups of parameters with their own learning rates."""
        return torch.optim.Adam(groups, weight_decay=self.weight_decay, fused=self._fused)

    @property
    def _fused(self) -> bool:
        # Lightning cannot clip gradients of a fused optimiser in mixed precision.
        return self.gradient_clip is None


@dataclass(frozen=True)
class PlateauSettings:
    """What happens when validation stops improving.

    Attributes:
        patience: epochs without a better validation L_M before the learning rates are divided by ten.
        minimum_rate: lower bound of the learning rate; for unfrozen networks, scaled by ``pretrained_rate``.
        unfreeze_patience: epochs without a better protocol metric on validation before networks that are
            frozen ``until_plateau`` are trained too.
        unfreeze_epoch: the epoch at which they are unfrozen in any case.
    """

    patience: int = 2
    minimum_rate: float = 2e-6
    unfreeze_patience: int = 2
    unfreeze_epoch: int = 15


class TIMAM(AdversarialMethod):
    """Identification, projection matching, and a modality discriminator.

    Minimises identification L_I + matching L_M + adversary L_G over the encoders and the class weights, and
    L_D (Eq. 4) over the discriminator. Texts are ranked by the cosine (Eq. 6). Eq. 5 as printed adds L_D
    itself, with which the encoders would help the discriminator; here they play against it.

    One backward pass covers both players: the discriminator's loss is on detached features, the encoders'
    goes through a discriminator with fixed parameters.

    Table 4's rows: L_I alone is matching = 0, L_M alone identification = 0, without ARL is adversary = 0 (the
    discriminator is still trained and shows how far apart the modalities are).

    Args:
        image_encoder: maps pixels or features to vectors.
        text_encoder: maps words or word pieces to vectors.
        dim: width of the vectors.
        standardise: whether the vectors are standardised by batch statistics, separately for each modality;
            not in the paper, but very helpful on small data, because the softmaxes of L_I and L_M have no
            scale.
        identification: weight of L_I, Eq. 1; 1 in the paper.
        matching: weight of L_M, Eq. 2-3; 1 in the paper.
        adversary: weight of the encoders' side of Eq. 4; 0 turns the adversary off.
        classifier: the class weights of L_I, Eq. 1.
        discriminator: the modality discriminator, Eq. 4.
        optimizer: SGD and Adam for the three parts.
        schedule: when the learning rates decay, and when frozen networks are unfrozen.
        gather_negatives: on several devices, whether L_M's softmaxes run over all of their batches, as if one
            device had the whole batch; otherwise over each device's own.
    """

    gpu_precision = "bf16-mixed"

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        dim: int = 512,
        standardise: bool = False,
        identification: float = 1.0,
        matching: float = 1.0,
        adversary: float = 1.0,
        classifier: ClassifierSettings = ClassifierSettings(),
        discriminator: ModalityDiscriminatorSettings = ModalityDiscriminatorSettings(),
        optimizer: OptimizerSettings = OptimizerSettings(),
        schedule: PlateauSettings = PlateauSettings(),
        gather_negatives: bool = False,
    ) -> None:
        super().__init__(
            encoder_steps=discriminator.encoder_steps,
            discriminator_steps=discriminator.steps,
            gradient_clip=optimizer.gradient_clip,
            same_batches=True,
        )
        self.save_hyperparameters()
        self.keep_hyperparameters_plain()
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.dim, self.standardise = dim, standardise
        self.identification, self.matching = identification, matching
        self.adversary, self.gather_negatives = adversary, gather_negatives
        self.classifier_settings, self.discriminator_settings = classifier, discriminator
        self.optimizer_settings, self.schedule_settings = optimizer, schedule
        self.requires = image_encoder.requires | text_encoder.requires | {"identities"}
        self.plateau = Plateau(schedule.unfreeze_patience)
        if "until_plateau" in (image_encoder.freeze, text_encoder.freeze):
            # While frozen, their parameters have no gradient, which plain DDP reports as an error.
            self.ddp_strategy = "ddp_find_unused_parameters_true"

    def build(self, spec: DataSpec) -> None:
        """Build the encoders, the class weights of training identities, and the discriminator 512-256-1."""
        dim, classifier = self.dim, self.classifier_settings
        self.image_encoder.build(spec, dim)
        self.text_encoder.build(spec, dim)
        self.image_scale = nn.BatchNorm1d(dim, affine=False) if self.standardise else nn.Identity()
        self.text_scale = nn.BatchNorm1d(dim, affine=False) if self.standardise else nn.Identity()
        self.classifier = nn.Linear(dim, spec.n_identities, bias=classifier.loss == "norm_softmax")
        self.text_classifier = None if classifier.shared else nn.Linear(dim, spec.n_identities)
        self.discriminator = Perceptron((dim, *self.discriminator_settings.hidden, 1), "leaky_relu")

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        """SGD for the image encoder, Adam for the text encoder and the classes, SGD for the discriminator."""
        settings, schedule = self.optimizer_settings, self.schedule_settings
        rate = settings.learning_rate
        image_rate = settings.image_learning_rate or rate
        discriminator_rate = self.discriminator_settings.learning_rate or rate
        classifiers = [self.classifier, *([] if self.text_classifier is None else [self.text_classifier])]
        images = self._groups([self.image_encoder], image_rate)
        texts = self._groups([self.text_encoder, *classifiers], rate)
        discriminator = self._groups([self.discriminator], discriminator_rate)
        optimisers = [
            settings.sgd(images) if settings.image_optimizer == "sgd" else settings.adam(images),
            settings.adam(texts),
            settings.sgd(discriminator),
        ]
        schedulers = [
            torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser,
                factor=0.1,
                patience=schedule.patience,
                # A metric enters as its negative, for which a relative threshold has the wrong sign: a
                # constant metric would count as an improvement.
                threshold_mode="rel" if self.matching else "abs",
                min_lr=[group["lr"] * schedule.minimum_rate / rate for group in optimiser.param_groups],
            )
            for optimiser in optimisers
        ]
        return optimisers, schedulers

    def _groups(self, modules: Iterable[nn.Module], rate: float) -> list[dict[str, Any]]:
        """Trainable parameters; those of pre-trained networks in a separate group with their own rate."""
        pretrained = {
            id(parameter) for network in self._frozen_networks() for parameter in network.parameters()
        }
        trained = [
            parameter for module in modules for parameter in module.parameters() if parameter.requires_grad
        ]
        groups = [
            {"params": [parameter for parameter in trained if id(parameter) not in pretrained], "lr": rate},
            {
                "params": [parameter for parameter in trained if id(parameter) in pretrained],
                "lr": rate * self.optimizer_settings.pretrained_rate,
            },
        ]
        return [group for group in groups if group["params"]]

    def _frozen_networks(self) -> list[Freezable]:
        return [module for module in self.modules() if isinstance(module, Freezable)]

    def joint_loss(self, batch: PairBatch) -> Tensor:
        """L_I + L_M + L_G of the encoders, and L_D of the discriminator on detached features."""
        images, texts = self.encode_images(batch.images).values, self.encode_texts(batch.texts).values
        identities = require(batch.images.identities, "identities")
        # Losses are always in single precision, whatever the encoders used.
        with torch.autocast(images.device.type, enabled=False):
            images, texts = single(images), single(texts)
            if self.gather_negatives:
                matching = cmpm_loss(gather(images), gather(texts), gather(identities))
            else:
                matching = cmpm_loss(images, texts, identities)
            identification = self._identification(images, texts, identities)
            discriminator, fooling, accuracy = self._game(images, texts)
        self.log_means(
            {
                "train/loss_identification": identification,
                "train/loss_matching": matching,
                "train/loss_adversarial": discriminator,
                "train/discriminator_accuracy": accuracy,
            },
            len(batch),
        )
        encoders = self.identification * identification + self.matching * matching + fooling
        return encoders + discriminator

    @property
    def backbone(self) -> BackboneSource | None:
        """The image encoder's pre-trained network."""
        return self.image_encoder.source

    @property
    def fine_tunes_backbone(self) -> bool:
        """Whether the image encoder does."""
        return self.image_encoder.fine_tuned

    @property
    def text_source(self) -> TextSource | None:
        """The text encoder's."""
        return self.text_encoder.source

    def _identification(self, images: Tensor, texts: Tensor, identities: Tensor) -> Tensor:
        weight, bias = self.classifier.weight, self.classifier.bias
        if self.classifier_settings.loss == "cmpc":
            return cmpc_loss(images, texts, weight, identities)
        if self.classifier_settings.sampled is not None:
            return self._sampled_identification(images, texts, identities, self.classifier_settings.sampled)
        if self.text_classifier is None:
            # Twice the mean over both is the sum of two means; this normalises the class weights only once.
            both = torch.cat([images, texts])
            return 2 * norm_softmax_loss(both, weight, bias, identities.repeat(2))
        of_texts = self.text_classifier
        return norm_softmax_loss(images, weight, bias, identities) + norm_softmax_loss(
            texts, of_texts.weight, of_texts.bias, identities
        )

    def _sampled_identification(
        self, images: Tensor, texts: Tensor, identities: Tensor, sampled: int
    ) -> Tensor:
        weight, bias = self.classifier.weight, self.classifier.bias
        if self.text_classifier is None:
            drawn = SampledClasses.draw(identities.repeat(2), len(weight), sampled)
            return 2 * sampled_norm_softmax_loss(torch.cat([images, texts]), weight, bias, drawn)
        drawn = SampledClasses.draw(identities, len(weight), sampled)
        of_texts = self.text_classifier
        return sampled_norm_softmax_loss(images, weight, bias, drawn) + sampled_norm_softmax_loss(
            texts, of_texts.weight, of_texts.bias, drawn
        )

    def _game(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The discriminator's loss, the encoders' weighted adversarial loss, the discriminator's accuracy."""
        settings, form = self.discriminator_settings, self.discriminator_settings.adversarial_form
        if form == "gradient_reversal":
            seen_images = reverse_gradient(images, self.adversary)
            seen_texts = reverse_gradient(texts, self.adversary)
        else:
            seen_images, seen_texts = images.detach(), texts.detach()
        seen_images, seen_texts = self._noisy(seen_images), self._noisy(seen_texts)
        image_logits, text_logits = self.discriminator(seen_images), self.discriminator(seen_texts)
        loss = modality_discriminator_loss(image_logits, text_logits, settings.label_smoothing)
        accuracy = torch.cat([image_logits > 0, text_logits <= 0]).float().mean()
        fooling = loss.new_zeros(())
        if self.adversary and form != "gradient_reversal":
            fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
            image_guess = functional_call(self.discriminator, fixed, (images,))
            text_guess = functional_call(self.discriminator, fixed, (texts,))
            fooling = self.adversary * modality_fooling_loss(image_guess, text_guess, form)
        return loss, fooling, accuracy

    def _noisy(self, features: Tensor) -> Tensor:
        deviation = self.discriminator_settings.noise
        if not deviation:
            return features
        left = max(0.0, 1 - self.trainer.current_epoch / max(self.trainer.max_epochs or 1, 1))
        return features + deviation * left * torch.randn_like(features)

    def validation_losses(
        self, images: Encoding, texts: Encoding, caption_image: Tensor, identities: Tensor
    ) -> dict[str, Tensor]:
        """L_M on validation: each caption with its image, in a fixed random order in blocks of 64."""
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
        blocks = [block for block in order.split(VALIDATION_BLOCK) if len(block) > 1]
        losses = [
            cmpm_loss(images.values[owner].float(), texts.values[block].float(), identities[owner])
            for block in blocks
            for owner in [caption_image[block]]
        ]
        return {"loss_matching": torch.stack(losses).mean()} if losses else {}

    def on_train_epoch_end(self) -> None:
        """Decay learning rates on a plateau of validation L_M; unfreeze on one of the protocol's metric.

        For a model that does not train L_M, the metric decides both: its L_M may rise while it learns.
        Without validation, training losses decide both.
        """
        metrics = self.trainer.callback_metrics
        trained = "matching" if self.matching else "identification"
        loss = float(metrics[f"train/loss_{trained}"])
        value = float(metrics.get("val/primary", -loss))
        if "val/primary" in metrics:
            loss = float(metrics["val/loss_matching"]) if self.matching else -value
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers:
            scheduler.step(loss)
        stalled = self.plateau.step(value)
        if stalled or self.current_epoch + 1 >= self.schedule_settings.unfreeze_epoch:
            waiting = [
                network
                for network in self._frozen_networks()
                if network.freeze == "until_plateau" and network.frozen
            ]
            for network in waiting:
                network.unfreeze()
            for scheduler in schedulers if waiting else ():
                # Restart the patience for the newly unfrozen network.
                scheduler.num_bad_epochs = 0

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, dim) image vectors."""
        return Encoding(self.image_scale(self.image_encoder(batch)))

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, dim) text vectors."""
        return Encoding(self.text_scale(self.text_encoder(batch)))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The cosine, Eq. 6."""
        return cosine_similarity(images.values, texts.values)

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The cosine of the representations."""
        return "cosine"
