"""Two encoders under a contrastive objective alone: InfoNCE as CLIP has it, and SigLIP's sigmoid loss."""

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
    """The factor on the cosines, which is learned as its logarithm.

    Attributes:
        initial_scale: the factor at first, one over the temperature.
        largest_scale: how large it may become, or None; a larger one is clamped after each step.

    Raises:
        ValueError: a factor that is not above 0, or a largest one below the first.
    """

    initial_scale: float = 1 / 0.07
    largest_scale: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.initial_scale < math.inf:
            raise ValueError(
                f"temperature.initial_scale is {self.initial_scale:g}; give a number above 0, one over the "
                "temperature"
            )
        if self.largest_scale is not None and not self.largest_scale >= self.initial_scale:
            raise ValueError(
                f"temperature.largest_scale is {self.largest_scale:g}, not at least initial_scale "
                f"{self.initial_scale:g}; raise it, or set it to null for none"
            )


@dataclass(frozen=True)
class AdamWSettings:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019).

    Gains and biases, the temperature among them, do not decay: no parameter with fewer than two axes does.

    Attributes:
        learning_rate: the largest of the schedule.
        pretrained_learning_rate: that of pre-trained networks that are trained too; None: as all else.
        beta1: decay of the running mean of gradients.
        beta2: decay of that of their squares.
        epsilon: added to the root of the latter.
        weight_decay: share of a weight that a step at a rate of 1 would take away.
        gradient_clip: largest norm of the gradient of all parameters together, or None.

    Raises:
        ValueError: a rate, an epsilon or a norm that is not above 0, a decay of a mean outside 0 to 1, or a
            weight decay below 0.
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
                raise ValueError(f"optimizer.{name} is {value:g}; give a number above 0")
        for name in ("beta1", "beta2"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise ValueError(f"optimizer.{name} is {value:g}; give a number from 0 to below 1")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"optimizer.weight_decay is {self.weight_decay:g}; give 0 or a number above")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimiser over what of a module may move.

        Raises:
            BadInput: a rate for pre-trained networks where none is trained.
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
                "trained: the images are features, or networks are frozen; leave it out"
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
            # Lightning clips no gradients of a fused optimiser in mixed precision.
            fused=self.gradient_clip is None,
        )


@dataclass(frozen=True)
class CosineSettings:
    """Rates that rise linearly and then fall to zero along half a cosine (Loshchilov and Hutter, ICLR 2017).

    Attributes:
        warmup: the share of all steps in which they rise.

    Raises:
        ValueError: a share that is none.
    """

    warmup: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"schedule.warmup is {self.warmup:g}; give a share of all steps, from 0 to below 1"
            )

    def multiplier(self, step: int, steps: int) -> float:
        """What of a rate step ``step`` has, counted from 0, of ``steps`` in all; never 0."""
        # The last step does not rise: there would be nothing left to fall.
        rising = min(round(self.warmup * steps), steps - 1)
        if step < rising:
            return (step + 1) / rising
        # What is trained on beyond the steps that were announced is trained as the last of them.
        progress = min(step, steps - 1) - rising
        return (1 + math.cos(math.pi * progress / max(steps - rising, 1))) / 2


class Contrastive(RetrievalMethod):
    """Two encoders, one objective over the cosines of all pairs of a batch, AdamW. Texts rank by the cosine.

    Pairs of one identity are no negatives of each other: a batch may have an image with several of its
    captions, and a person in several pictures. The originals draw their batches from so many images that it
    does not arise.

    Args:
        image_encoder: pixels or features to vectors.
        text_encoder: words or word pieces to vectors.
        dim: width of the vectors.
        standardise: whether batch statistics of the vectors are removed, of each modality by itself; neither
            source has it.
        temperature: the factor on the cosines.
        optimizer: AdamW over everything.
        schedule: how its rates rise and fall.
        micro_batch_size: pairs that pass the encoders at a time, at most; None: the whole batch. The gradient
            stays that of the whole batch with all its negatives, and a step costs a second forward pass; see
            EncodedBatch.
        gather_negatives: on several devices, whether negatives come from all of their batches, as if one had
            the whole batch; else each has its own.

    Raises:
        ValueError: an encoder that waits to be unfrozen, or no pair at a time.
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
                f"micro_batch_size is {micro_batch_size}; give a whole number from 1, or null for the whole "
                "batch"
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
        """Both encoders, and the logarithm of the factor on their cosines."""
        self.image_encoder.build(spec, self.dim)
        self.text_encoder.build(spec, self.dim)
        self.image_scale = nn.BatchNorm1d(self.dim, affine=False) if self.standardise else nn.Identity()
        self.text_scale = nn.BatchNorm1d(self.dim, affine=False) if self.standardise else nn.Identity()
        self.log_scale = nn.Parameter(torch.tensor(math.log(self.temperature_settings.initial_scale)))

    @abstractmethod
    def objective(self, cosines: Tensor, identities: Tensor) -> Tensor:
        """The loss of (B, B) cosines of images (rows) with texts, whose diagonal holds the pairs.

        Args:
            cosines: in single precision at least.
            identities: (B,) equal for pairs that are no negatives of each other.
        """

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over everything that may move."""
        return self.optimizer_settings.build(self)

    def steps_done(self) -> int:
        """Steps so far, over all runs that this one went on from."""
        return int(self._iterations.of(self.iterations))

    def steps_in_all(self) -> int:
        """Steps of the whole training, at whose end the rates are 0.

        Raises:
            BadInput: a training without an end.
        """
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise BadInput(
                "trainer.max_epochs is -1, but rates fall towards the end of training; give a number of "
                "epochs"
            )
        return int(steps)

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """One step of everything."""
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
        """The objective of this process's pairs, or of all processes'."""
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
        """As the image encoder does."""
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
        # In single precision whatever surrounds the call: what is ranked differs in the third digit.
        with torch.autocast(images.values.device.type, enabled=False):
            return cosine_similarity(images.values, texts.values)

    @property
    def vector_similarity(self) -> VectorSimilarity:
        """The cosine."""
        return "cosine"


class InfoNCE(Contrastive):
    """Cross-entropies of a batch's pairs, both directions, with a learned temperature (CLIP, Figure 3).

    Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021: the
    objective and its optimiser; the encoders are whatever is given.

    Args:
        image_encoder: see Contrastive, as for all else.
        text_encoder: see there.
        dim: see there.
        standardise: see there.
        temperature: 1/0.07 at first, and never above 100 (section 2.5).
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

    Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023: the objective and its optimiser;
    the encoders are whatever is given.

    Args:
        image_encoder: see Contrastive, as for all else.
        text_encoder: see there.
        dim: see there.
        standardise: see there.
        temperature: 10 at first (section 3.2); nothing bounds it.
        initial_bias: what is added to all logits at first; -10, so that all pairs start as negatives, which
            nearly all of them are (section 3.2).
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
        """As all; and the bias."""
        super().build(spec)
        self.bias = nn.Parameter(torch.tensor(self.initial_bias))

    def objective(self, cosines: Tensor, identities: Tensor) -> Tensor:
        """SigLIP, section 3.2."""
        return siglip_loss(cosines, self.log_scale, self.bias, identities)
