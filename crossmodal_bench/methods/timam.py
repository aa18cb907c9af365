"""TIMAM: Text-Image Modality Adversarial Matching (Sarafianos et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch, require
from crossmodal_bench.core.distributed import gather
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.losses import (
    cmpc_loss,
    cmpm_loss,
    modality_discriminator_loss,
    modality_fooling_loss,
    norm_softmax_loss,
)
from crossmodal_bench.methods.adversarial import AdversarialMethod
from crossmodal_bench.methods.plateau import Plateau
from crossmodal_bench.networks import (
    Freezable,
    ImageEncoder,
    Perceptron,
    TextEncoder,
    reverse_gradient,
)
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.networks.embedding import single
from crossmodal_bench.similarity import cosine_similarity

VALIDATION_BLOCK = 64
"""Pairs per block of the validation loss: the paper's batch, because the loss grows with it."""


class TIMAM(AdversarialMethod):
    """Identification, projection matching, and a discriminator of the two modalities.

    Minimises identification L_I + matching L_M + adversary L_G over the encoders and the class weights, and
    L_D (Eq. 4) over the discriminator. Texts rank by the cosine (Eq. 6). Eq. 5 as printed adds L_D itself,
    with which the encoders would help the discriminator; here they play against it.

    Both sides come out of one backward pass: the discriminator's on detached features, the encoders' through
    a discriminator whose parameters are held fixed.

    Table 4's rows: L_I alone is matching = 0, L_M alone identification = 0, without ARL is adversary = 0 (the
    discriminator is trained all the same and says how far apart the modalities are).

    Args:
        image_encoder: pixels or features to vectors.
        text_encoder: words or word pieces to vectors.
        dim: width of the vectors.
        standardise: whether batch statistics of the vectors are removed, of each modality by itself; not in
            the paper, and a great help on small data, because the softmaxes of L_I and L_M have no scale.
        identification: weight of L_I, Eq. 1; the paper has 1.
        matching: weight of L_M, Eq. 2-3; the paper has 1.
        adversary: weight of the encoders' side of Eq. 4; 0 turns the adversary off.
        adversarial_form: ``non_saturating`` (swapped labels), ``minimax`` (minus L_D), or
            ``gradient_reversal``: the discriminator's own gradient, its smoothing and noise included.
        classification: ``norm_softmax`` (Eq. 1), or ``cmpc``: CMPM's classification of projected features.
        shared_classifier: one set of class weights for both modalities; else one each (norm_softmax only).
        discriminator_hidden: hidden widths of the discriminator ("two fully connected layers").
        label_smoothing: one-sided, of the discriminator's images.
        discriminator_noise: deviation of Gaussian noise on the discriminator's input, falling to 0 over
            training.
        encoder_steps: steps of the encoders in a cycle.
        discriminator_steps: steps of the discriminator in a cycle.
        learning_rate: of all optimisers that have none of their own.
        image_learning_rate: of the image encoder, or None.
        discriminator_learning_rate: of the discriminator, or None.
        image_optimizer: of the image encoder. The discriminator always has SGD, the text encoder and the
            class weights Adam. A discriminator with Adam makes the game diverge.
        momentum: of SGD.
        weight_decay: of all optimisers.
        pretrained_rate: the learning rate of networks that are unfrozen, as a share of the others'.
        plateau_patience: epochs without a better validation L_M before the rates are divided by ten.
        minimum_rate: where that ends; for unfrozen networks, the same share of theirs.
        unfreeze_patience: epochs without a better protocol metric on validation before networks that are
            frozen ``until_plateau`` are trained too.
        unfreeze_epoch: the epoch at which they are in any case.
        gradient_clip: largest gradient norm of each optimiser's parameters, or None.
        gather_negatives: on several devices, whether L_M's softmaxes run over all of their batches, as if one
            had the whole batch; else each has its own.
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
        adversarial_form: Literal["non_saturating", "minimax", "gradient_reversal"] = "non_saturating",
        classification: Literal["norm_softmax", "cmpc"] = "norm_softmax",
        shared_classifier: bool = True,
        discriminator_hidden: Sequence[int] = (256,),
        label_smoothing: float = 0.1,
        discriminator_noise: float = 0.0,
        encoder_steps: int = 1,
        discriminator_steps: int = 1,
        learning_rate: float = 2e-4,
        image_learning_rate: float | None = None,
        discriminator_learning_rate: float | None = None,
        image_optimizer: Literal["sgd", "adam"] = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 4e-4,
        pretrained_rate: float = 1.0,
        plateau_patience: int = 2,
        minimum_rate: float = 2e-6,
        unfreeze_patience: int = 2,
        unfreeze_epoch: int = 15,
        gradient_clip: float | None = None,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__(encoder_steps, discriminator_steps, gradient_clip, same_batches=True)
        if classification == "cmpc" and not shared_classifier:
            raise ValueError("shared_classifier is false, but CMPC has one classifier; leave it true")
        self.save_hyperparameters()
        for name in ("image_encoder", "text_encoder"):
            # Given as objects, not through a configuration: weights are saved as weights, not by pickle.
            if isinstance(self.hparams.get(name), nn.Module):
                del self.hparams[name]
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.requires = image_encoder.requires | text_encoder.requires | {"identities"}
        self.plateau = Plateau(unfreeze_patience)
        if "until_plateau" in (image_encoder.freeze, text_encoder.freeze):
            # While frozen, their parameters have no gradient, which plain DDP takes for a mistake.
            self.ddp_strategy = "ddp_find_unused_parameters_true"

    def build(self, spec: DataSpec) -> None:
        """Encoders, class weights of the training identities, discriminator 512-256-1."""
        p: Any = self.hparams
        self.image_encoder.build(spec, p.dim)
        self.text_encoder.build(spec, p.dim)
        self.image_scale = nn.BatchNorm1d(p.dim, affine=False) if p.standardise else nn.Identity()
        self.text_scale = nn.BatchNorm1d(p.dim, affine=False) if p.standardise else nn.Identity()
        self.classifier = nn.Linear(p.dim, spec.n_identities, bias=p.classification == "norm_softmax")
        self.text_classifier = None if p.shared_classifier else nn.Linear(p.dim, spec.n_identities)
        self.discriminator = Perceptron((p.dim, *p.discriminator_hidden, 1), "leaky_relu")

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[Any]]:
        """SGD for the image encoder, Adam for the text encoder and the classes, SGD for the discriminator."""
        p: Any = self.hparams
        classifiers = [self.classifier, *([] if self.text_classifier is None else [self.text_classifier])]
        image_rate = p.image_learning_rate or p.learning_rate
        images = self._groups([self.image_encoder], image_rate)
        texts = self._groups([self.text_encoder, *classifiers], p.learning_rate)
        # Lightning clips no gradients of a fused optimiser in mixed precision.
        decay = {"weight_decay": p.weight_decay, "fused": p.gradient_clip is None}
        sgd = {"momentum": p.momentum, **decay}
        optimisers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(images, **sgd)
            if p.image_optimizer == "sgd"
            else torch.optim.Adam(images, **decay),
            torch.optim.Adam(texts, **decay),
            torch.optim.SGD(
                self.discriminator.parameters(), p.discriminator_learning_rate or p.learning_rate, **sgd
            ),
        ]
        schedulers = [
            torch.optim.lr_scheduler.ReduceLROnPlateau(
                one,
                factor=0.1,
                patience=p.plateau_patience,
                min_lr=[group["lr"] * p.minimum_rate / p.learning_rate for group in one.param_groups],
            )
            for one in optimisers
        ]
        return optimisers, schedulers

    def _groups(self, modules: Iterable[nn.Module], rate: float) -> list[dict[str, Any]]:
        """Parameters that may move; those of pre-trained networks by themselves, at their own rate."""
        pretrained = {id(one) for network in self._frozen_networks() for one in network.parameters()}
        moving = [one for module in modules for one in module.parameters() if one.requires_grad]
        groups = [
            {"params": [one for one in moving if id(one) not in pretrained], "lr": rate},
            {
                "params": [one for one in moving if id(one) in pretrained],
                "lr": rate * self.hparams["pretrained_rate"],
            },
        ]
        return [group for group in groups if group["params"]]

    def _frozen_networks(self) -> list[Freezable]:
        return [module for module in self.modules() if isinstance(module, Freezable)]

    def joint_loss(self, batch: PairBatch) -> Tensor:
        """L_I + L_M + L_G of the encoders, and L_D of the discriminator on detached features."""
        p: Any = self.hparams
        images, texts = self.encode_images(batch.images).values, self.encode_texts(batch.texts).values
        identities = require(batch.images.identities, "identities")
        # Losses in single precision, whatever the encoders ran in.
        with torch.autocast(images.device.type, enabled=False):
            images, texts = single(images), single(texts)
            compared = (images, texts, identities)
            matching = cmpm_loss(*(map(gather, compared) if p.gather_negatives else compared))
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
        return p.identification * identification + p.matching * matching + fooling + discriminator

    @property
    def backbone(self) -> BackboneSource | None:
        """The image encoder's pre-trained network."""
        return self.image_encoder.source

    def _identification(self, images: Tensor, texts: Tensor, identities: Tensor) -> Tensor:
        weight, bias = self.classifier.weight, self.classifier.bias
        if self.hparams["classification"] == "cmpc":
            return cmpc_loss(images, texts, weight, identities)
        if self.text_classifier is None:
            # Twice the mean of both is the sum of two means; thousands of class weights are normalised once.
            both = torch.cat([images, texts])
            return 2 * norm_softmax_loss(both, weight, bias, identities.repeat(2))
        of_texts = self.text_classifier
        return norm_softmax_loss(images, weight, bias, identities) + norm_softmax_loss(
            texts, of_texts.weight, of_texts.bias, identities
        )

    def _game(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The discriminator's loss, the encoders' weighted side of it, and the discriminator's accuracy."""
        p: Any = self.hparams
        by_reversal = p.adversarial_form == "gradient_reversal"
        seen = [
            self._noisy(reverse_gradient(one, p.adversary) if by_reversal else one.detach())
            for one in (images, texts)
        ]
        image_logits, text_logits = self.discriminator(seen[0]), self.discriminator(seen[1])
        loss = modality_discriminator_loss(image_logits, text_logits, p.label_smoothing)
        accuracy = torch.cat([image_logits > 0, text_logits <= 0]).float().mean()
        fooling = loss.new_zeros(())
        if p.adversary and not by_reversal:
            fixed = {name: one.detach() for name, one in self.discriminator.named_parameters()}
            image_guess, text_guess = (
                functional_call(self.discriminator, fixed, (one,)) for one in (images, texts)
            )
            fooling = p.adversary * modality_fooling_loss(image_guess, text_guess, p.adversarial_form)
        return loss, fooling, accuracy

    def _noisy(self, features: Tensor) -> Tensor:
        deviation = self.hparams["discriminator_noise"]
        if not deviation:
            return features
        left = max(0.0, 1 - self.trainer.current_epoch / max(self.trainer.max_epochs or 1, 1))
        return features + deviation * left * torch.randn_like(features)

    def validation_losses(
        self, images: Encoding, texts: Encoding, caption_image: Tensor, identities: Tensor
    ) -> dict[str, Tensor]:
        """L_M of validation: each caption with its image, in blocks of 64 of an order that never changes."""
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
        blocks = [block for block in order.split(VALIDATION_BLOCK) if len(block) > 1]
        losses = [
            cmpm_loss(images.values[owner].float(), texts.values[block].float(), identities[owner])
            for block in blocks
            for owner in [caption_image[block]]
        ]
        return {"loss_matching": torch.stack(losses).mean()} if losses else {}

    def on_train_epoch_end(self) -> None:
        """Divide the rates on a plateau of validation L_M; unfreeze on one of the protocol's metric.

        A model that does not train L_M is steered by the metric alone: its L_M may rise while it learns.
        Where there is no validation, training losses decide both.
        """
        metrics = self.trainer.callback_metrics
        trained = "matching" if self.hparams["matching"] else "identification"
        loss = float(metrics[f"train/loss_{trained}"])
        value = float(metrics.get("val/primary", -loss))
        if "val/primary" in metrics:
            loss = float(metrics["val/loss_matching"]) if self.hparams["matching"] else -value
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers:
            scheduler.step(loss)
        if self.plateau.step(value) or self.current_epoch + 1 >= self.hparams["unfreeze_epoch"]:
            waiting = [one for one in self._frozen_networks() if one.freeze == "until_plateau" and one.frozen]
            for network in waiting:
                network.unfreeze()
            for scheduler in schedulers if waiting else ():
                # The network that starts to learn now gets the patience that the others had.
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
