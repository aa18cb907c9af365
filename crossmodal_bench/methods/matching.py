"""Matching networks trained by triplet ranking: the original VSE++, SCAN, BFAN and VSRN, no adversary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.distributed import gather, pair_scores, sum_over_all
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.host import HostNumber, sent
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.methods.fine_tuning import EncodedBatch, FineTuningSettings
from crossmodal_bench.methods.hosts import Encoded, Host
from crossmodal_bench.methods.optimization import AdamSettings, DecaySettings
from crossmodal_bench.networks import TextSource
from crossmodal_bench.networks.backbones import BackboneSource


@dataclass(frozen=True)
class RankingSettings:
    """The triplet ranking loss (ADDR, Eq. 1).

    Attributes:
        margin: by how much a pair must score above its negatives.
        hardest: whether only the hardest negative of each query counts.
        hardest_from_epoch: before this epoch, all negatives count, summed; hardest negatives alone can make
            all similarities collapse at the start, with a loss of 2 margin per pair.
        mask_same_image_negatives: whether captions of the same image are excluded as negatives of each other;
            the originals include them.
    """

    margin: float = 0.2
    hardest: bool = True
    hardest_from_epoch: int = 0
    mask_same_image_negatives: bool = False


class Matching(RetrievalMethod):
    """A host trained with Adam on the triplet ranking loss (ADDR, Eq. 1) plus its own loss, if it has one.

    Args:
        host: the networks and the similarity.
        ranking: the triplet ranking loss.
        optimizer: Adam over the host.
        schedule: decay of the learning rate.
        gather_negatives: on several devices, whether negatives come from all of their batches, as if one
            device had the whole batch; otherwise from each device's own.
        fine_tuning: how the host's image network is trained, and how many pairs are encoded at a time; None:
            like everything else, and the whole batch.

    Raises:
        ValueError: there are settings for an image network that the host does not train.
    """

    iterations: Tensor

    def __init__(
        self,
        host: Host,
        ranking: RankingSettings = RankingSettings(),
        optimizer: AdamSettings = AdamSettings(learning_rate=2e-4, beta1=0.9, gradient_clip=2.0),
        schedule: DecaySettings = DecaySettings(),
        gather_negatives: bool = False,
        fine_tuning: FineTuningSettings | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters()
        self.keep_hyperparameters_plain()
        self.host, self.requires = host, host.requires
        self.ranking_settings, self.gather_negatives = ranking, gather_negatives
        self.optimizer_settings, self.schedule_settings = optimizer, schedule
        self.fine_tuning_settings = fine_tuning or FineTuningSettings()
        self.fine_tuning_settings.check(trains_a_backbone=host.fine_tuned)
        self._iterations = HostNumber()
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def build(self, spec: DataSpec) -> None:
        """Build the host's networks."""
        self.host.build(spec)
        self.fine_tuning_settings.prepare(self.host)

    def inherit(self, parents: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from another method's trained host, whose image network may not have been fine-tuned.

        Raises:
            BadInput: there are several parents, or the parent's host is another one.
        """
        if len(parents) > 1:
            raise BadInput(f"{', '.join(parents)} all provide weights for the host; keep only one parent")
        for weights in parents.values():
            start = "host."
            self.host.inherit(
                {
                    name.removeprefix(start): weight
                    for name, weight in weights.items()
                    if name.startswith(start)
                }
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the host."""
        # Not fused: Lightning cannot clip gradients of a fused optimiser in mixed precision.
        return self.fine_tuning_settings.optimiser(self.optimizer_settings, self.host.parameters(), self.host)

    def decayed(self, rate: float) -> float:
        """A learning rate as decayed so far, but never above its initial value."""
        return self.schedule_settings.rate(rate, self.current_epoch, self.steps_done())

    def steps_done(self) -> int:
        """Steps of the host so far, including those before the training was resumed."""
        return int(self._iterations.of(self.iterations))

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """One step of the host."""
        optimiser: Any = self.optimizers()
        rates = self.fine_tuning_settings.learning_rates(self.optimizer_settings)
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = self.decayed(rate)
        encoded = EncodedBatch(self, batch, self._encode, self.fine_tuning_settings.micro_batch_size)
        regions_scored, regions, words_scored, words = encoded.encodings
        images, texts = Encoded(regions_scored, regions), Encoded(words_scored, words)
        encoded.backward(self.loss(images, texts, batch))
        if self.optimizer_settings.gradient_clip is not None:
            self.clip_gradients(optimiser, self.optimizer_settings.gradient_clip, "norm")
        optimiser.step()
        optimiser.zero_grad()
        self._iterations.set(self.iterations, self.steps_done() + 1)

    def _encode(self, batch: PairBatch) -> tuple[Encoding, Encoding, Encoding, Encoding]:
        """The scored encodings and the fragments of images and of texts."""
        images, texts = self.host.images(batch.images), self.host.texts(batch.texts)
        return images.scored, images.fragments, texts.scored, texts.fragments

    def loss(self, images: Encoded, texts: Encoded, batch: PairBatch) -> Tensor:
        """The ranking loss, summed over the batch, plus the host's own loss."""
        ranking = self.ranking_settings
        scores = pair_scores(self.host.score, images.scored, texts.scored, self.gather_negatives)
        total = triplet_ranking_loss(
            scores,
            margin=ranking.margin,
            hardest=ranking.hardest and self.current_epoch >= ranking.hardest_from_epoch,
            image_ids=self.image_ids(batch) if ranking.mask_same_image_negatives else None,
        )
        logged = {"train/loss_ranking": total / len(scores)}
        if not self.gather_negatives:
            total = sum_over_all(total)
        own = self.host.auxiliary_loss(images, batch.texts)
        if own is not None:
            logged["train/loss_caption"] = own
            total = total + own
        self.log_means(logged, len(batch))
        return total

    def image_ids(self, batch: PairBatch) -> Tensor:
        """(B,) the image of each pair; of all processes' pairs if negatives are gathered."""
        images = sent(batch.texts.image, self.device)
        return gather(images) if self.gather_negatives else images

    @property
    def backbone(self) -> BackboneSource | None:
        """The image network that the host runs itself."""
        return self.host.source

    @property
    def fine_tunes_backbone(self) -> bool:
        """Whether the host does."""
        return self.host.fine_tuned

    @property
    def text_source(self) -> TextSource | None:
        """The host's."""
        return self.host.text_source

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """The host's encodings of images."""
        return self.host.images(batch).scored

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """The host's encodings of texts."""
        return self.host.texts(batch).scored

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The host's similarity."""
        return self.host.score(images, texts)

    @property
    def vector_similarity(self) -> VectorSimilarity | None:
        """The host's."""
        return self.host.vector_similarity
