"""Two encoders trained by a contrastive objective alone: CLIP's InfoNCE, or SigLIP's sigmoid loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch, require
from crossmodal_bench.core.distributed import gather, pair_scores
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.host import HostNumber
from crossmodal_bench.losses import infonce_loss, siglip_loss
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.methods.encoders import check_never_unfrozen
from crossmodal_bench.methods.fine_tuning import EncodedBatch
from crossmodal_bench.networks import Freezable, ImageEncoder, TextEncoder, TextSource
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.networks.embedding import single
from crossmodal_bench.similarity import cosine_similarity


@dataclass(frozen=True)
class TemperatureSettings:
    """The scale of the cosines, whose logarithm is learned.

    Attributes:
        initial_scale: the initial scale, one over the temperature.
        largest_scale: the upper bound to which it is clamped after each step, or None.

    Raises:
        ValueError: the scale is not positive, or the bound is below the initial scale.
    """

    initial_scale: float = 1 / 0.07
    largest_scale: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.initial_scale < math.inf:
            raise ValueError(
                f"temperature.initial_scale is {self.initial_scale:g}; give a positive number, one over the "
                "temperature"
            )
        if self.largest_scale is not None and not self.largest_scale >= self.initial_scale:
            raise ValueError(
                f"temperature.largest_scale is {self.largest_scale:g}, below initial_scale "
                f"{self.initial_scale:g}; raise it, or set it to null for no bound"
            )


@dataclass(frozen=True)
class AdamWSettings:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    Weight decay does not apply to parameters with fewer than two dimensions: gains, biases, temperature.

    Attributes:
        learning_rate: the peak of the schedule.
        pretrained_learning_rate: that of pre-trained networks that are trained too; None: the same.
        beta1: decay of the running mean of gradients.
        beta2: decay of the running mean of squared gradients.
        epsilon: added to the root of the latter.
        weight_decay: the fraction of a weight that a step with learning rate 1 would remove.
        gradient_clip: maximum norm of the gradient of all parameters together, or None.

    Raises:
        ValueError: a learning rate, epsilon or norm is not positive, a beta is not in [0, 1), or the weight
            decay is negative.
    """

    learning_rate: float = 5e-4
    pretrained_learning_rate: float | None = None
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    gradient_clip: float | None = None

    def __post_init__(self) -> None:
        for name in ("learning_rate", "pretrained_learning_rate", "epsilon", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"optimizer.{name} is {value:g}; give a positive number")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"optimizer.{name} is {value:g}; give a number of at least 0 and below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optimizer.weight_decay is {self.weight_decay:g}; give 0 or a positive number")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a module's trainable parameters.

        Raises:
            BadInput: there is a learning rate for pre-trained networks, but none is trained.
        """
        pretrained = {
            id(parameter)
            for network in module.modules()
            if isinstance(network, Freezable)
            for parameter in network.parameters()
        }
        moving = [parameter for parameter in module.parameters() if parameter.requires_grad]
        pretrained_rate = self.pretrained_learning_rate
        if pretrained_rate is None:
            pretrained_rate = self.learning_rate
        elif not any(id(parameter) in pretrained for parameter in moving):
            raise BadInput(
                f"optimizer.pretrained_learning_rate is {pretrained_rate:g}, but no pre-trained network is "
                "trained: the images are features, or the networks are frozen; leave it out"
            )
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in moving:
            rate = pretrained_rate if id(parameter) in pretrained else self.learning_rate
            decay = self.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return torch.optim.AdamW(
            [
                {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
                for (rate, decay), parameters in groups.items()
            ],
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            eps=self.epsilon,
            # Lightning cannot clip gradients of a fused optimiser in mixed precision.
            fused=self.gradient_clip is None,
        )


@dataclass(frozen=True)
class CosineSettings:
    """Linear warmup followed by cosine decay to zero (Loshchilov and Hutter, ICLR 2017).

    Attributes:
        warmup: the fraction of all steps spent on warmup.

    Raises:
        ValueError: it is not a valid fraction.
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"schedule.warmup is {self.warmup:g}; give a fraction of all steps, at least 0 and below 1"
            )

    def multiplier(self, step: int, steps: int) -> float:
        """The factor on the learning rate at ``step``, counted from 0, of ``steps`` in total; never 0."""
        # The last step is never part of the warmup, or nothing would be left for the decay.
        rising = min(round(self.warmup * steps), steps - 1)
        if step < rising:
            return (step + 1) / rising
        # Steps beyond the announced total use the last one's factor.
        progress = min(step, steps - 1) - rising
        return (1 + math.cos(math.pi * progress / max(steps - rising, 1))) / 2


class Contrastive(RetrievalMethod):
    """Two encoders, one objective over a batch's pairwise cosines, AdamW. Texts are ranked by the cosine.

    Pairs of one identity are not negatives of each other: a batch may contain an image with several of its
    captions, or a person in several pictures. The originals draw their batches from so many images that this
    does not arise.

    Args:
        image_encoder: maps pixels or features to vectors.
        text_encoder: maps words or word pieces to vectors.
        dim: width of the vectors.
        standardise: whether the vectors are standardised by batch statistics, separately for each modality;
            neither paper does this.
        temperature: the scale of the cosines.
        optimizer: AdamW over all parameters.
        schedule: warmup and decay of its learning rates.
        micro_batch_size: maximum number of pairs encoded at a time; None: the whole batch. The gradient
            remains that of the whole batch with all its negatives, at the cost of a second forward pass; see
            EncodedBatch.
        gather_negatives: on several devices, whether negatives come from all of their batches, as if one
            device had the whole batch; otherwise from each device's own.

    Raises:
        ValueError: an encoder is to be unfrozen later, or the micro-batch size is below 1.
    """

    iterations: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        dim: int,
        standardise: bool,
        temperature: TemperatureSettings,
        optimizer: AdamWSettings,
        schedule: CosineSettings,
        micro_batch_size: int | None,
        gather_negatives: bool,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters()
        self.keep_hyperparameters_plain()
        check_never_unfrozen({"image_encoder": image_encoder, "text_encoder": text_encoder})
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(
                f"micro_batch_size is {micro_batch_size}; give a whole number, 1 or greater, or null for the "
                "whole batch"
            )
        self.image_encoder, self.text_encoder = image_encoder, text_encoder
        self.dim, self.standardise = dim, standardise
        self.temperature_settings, self.optimizer_settings = temperature, optimizer
        self.schedule_settings = schedule
        self.micro_batch_size, self.gather_negatives = micro_batch_size, gather_negatives
        self.requires = image_encoder.requires | text_encoder.requires | {"identities"}
        self._iterations = HostNumber()
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def build(self, spec: DataSpec) -> None:
        """Build both encoders and the logarithm of the scale of their cosines."""
        self.image_encoder.build(spec, self.dim)
        self.text_encoder.build(spec, self.dim)
        self.image_scale = nn.BatchNorm1d(self.dim, affine=False) if self.standardise else nn.Identity()
        self.text_scale = nn.BatchNorm1d(self.dim, affine=False) if self.standardise else nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.temperature_settings.initial_scale)))

    @abstractmethod
    def objective(self, cosines: Tensor, identities: Tensor) -> Tensor:
        """The loss of (B, B) cosines of images (rows) and texts (columns); the diagonal has the pairs.

        Args:
            cosines: in at least single precision.
            identities: (B,) equal for pairs that are not negatives of each other.
        """

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over all trainable parameters."""
        return self.optimizer_settings.build(self)

    def steps_done(self) -> int:
        """Steps so far, including those before the training was resumed."""
        return int(self._iterations.of(self.iterations))

    def steps_in_all(self) -> int:
        """Steps of the whole training, at whose end the learning rates are 0.

        Raises:
            BadInput: the length of the training is unlimited.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise BadInput(
                "trainer.max_epochs is -1, but the learning-rate schedule needs the length of training; give "
                "a number of epochs"
            )
        return int(steps)

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """One step of all parameters."""
        optimiser: Any = self.optimizers()
        steps = self.steps_done()
        share = self.schedule_settings.multiplier(steps, self.steps_in_all())
        for group in optimiser.param_groups:
            group["lr"] = share * group["initial_lr"]
        encoded = EncodedBatch(self, batch, self._encode, self.micro_batch_size)
        images, texts = encoded.encodings
        encoded.backward(self.loss(images, texts, batch))
        if self.optimizer_settings.gradient_clip is not None:
            self.clip_gradients(optimiser, self.optimizer_settings.gradient_clip, "norm")
        optimiser.step()
        optimiser.zero_grad()
        if self.temperature_settings.largest_scale is not None:
            with torch.no_grad():
                self.log_scale.clamp_(max=math.log(self.temperature_settings.largest_scale))
        self._iterations.set(self.iterations, steps + 1)

    def _encode(self, batch: PairBatch) -> tuple[Encoding, Encoding]:
        return self.encode_images(batch.images), self.encode_texts(batch.texts)

    def loss(self, images: Encoding, texts: Encoding, batch: PairBatch) -> Tensor:
        """The objective over this process's pairs, or over all processes'."""
        identities = require(batch.images.identities, "identities")
        cosines = pair_scores(self.score, images, texts, self.gather_negatives)
        if self.gather_negatives:
            identities = gather(identities)
        with torch.autocast(cosines.device.type, enabled=False):
            loss = self.objective(cosines, identities)
        self.log_means({"train/loss_contrastive": loss, "train/scale": self.log_scale.exp()}, len(batch))
        return loss

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

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """(B, dim) image vectors."""
        return Encoding(self.image_scale(single(self.image_encoder(batch))))

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """(B, dim) text vectors."""
        return Encoding(self.text_scale(single(self.text_encoder(batch))))

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The cosine."""
        # Always in single precision: scores often differ only in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            return cosine_similarity(images.values, texts.values)

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The cosine."""
        return "cosine"


class InfoNCE(Contrastive):
    """Cross-entropies of a batch's pairs in both directions, with a learned temperature (CLIP, Figure 3).

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021: the
    objective and its optimiser, with any encoders.

    Args:
        image_encoder: see Contrastive, like all others.
        text_encoder: see there.
        dim: see there.
        standardise: see there.
        temperature: initially 1/0.07, and never above 100 (section 2.5).
        optimizer: see there.
        schedule: see there.
        micro_batch_size: see there.
        gather_negatives: see there.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        dim: int = 512,
        standardise: bool = False,
        temperature: TemperatureSettings = TemperatureSettings(largest_scale=100.0),
        optimizer: AdamWSettings = AdamWSettings(),
        schedule: CosineSettings = CosineSettings(),
        micro_batch_size: int | None = None,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__(
            image_encoder,
            text_encoder,
            dim=dim,
            standardise=standardise,
            temperature=temperature,
            optimizer=optimizer,
            schedule=schedule,
            micro_batch_size=micro_batch_size,
            gather_negatives=gather_negatives,
        )

    def objective(self, cosines: Tensor, identities: Tensor) -> Tensor:
        """CLIP, Figure 3."""
        return infonce_loss(cosines, self.log_scale, identities)


class SigLIP(Contrastive):
    """A sigmoid for every pair of a batch, with a learned temperature and bias.

    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023: the objective and its optimiser,
    with any encoders.

    Args:
        image_encoder: see Contrastive, like all others.
        text_encoder: see there.
        dim: see there.
        standardise: see there.
        temperature: initially 10 (section 3.2), unbounded.
        initial_bias: initial bias of all logits; -10, so that all pairs start as negatives, which nearly all
            of them are (section 3.2).
        optimizer: see there.
        schedule: see there.
        micro_batch_size: see there.
        gather_negatives: see there.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        text_encoder: TextEncoder,
        dim: int = 512,
        standardise: bool = False,
        temperature: TemperatureSettings = TemperatureSettings(initial_scale=10.0),
        initial_bias: float = -10.0,
        optimizer: AdamWSettings = AdamWSettings(),
        schedule: CosineSettings = CosineSettings(),
        micro_batch_size: int | None = None,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__(
            image_encoder,
            text_encoder,
            dim=dim,
            standardise=standardise,
            temperature=temperature,
            optimizer=optimizer,
            schedule=schedule,
            micro_batch_size=micro_batch_size,
            gather_negatives=gather_negatives,
        )
        self.initial_bias = initial_bias

    def build(self, spec: DataSpec) -> None:
        """Build the encoders, the scale and the bias."""
        super().build(spec)
        self.bias = nn.Parameter(torch.tensor(self.initial_bias))

    def objective(self, cosines: Tensor, identities: Tensor) -> Tensor:
        """SigLIP, section 3.2."""
        return siglip_loss(cosines, self.log_scale, self.bias, identities)
