"""Matching networks trained by triplet ranking: VSE++, SCAN, BFAN and VSRN as they are, without adversary."""

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
        margin: by how much a pair must be ahead of its negatives.
        hardest: whether only the hardest negative of each query counts.
        hardest_from_epoch: all negatives count, summed, in the epochs before; hard negatives alone can
            collapse all similarities to one at the start, with a loss of 2 margin per pair.
        mask_same_image_negatives: whether captions of one image are no negatives of each other; the originals
            take them for negatives.
    """

    margin: float = 0.2
    hardest: bool = True
    hardest_from_epoch: int = 0
    mask_same_image_negatives: bool = False


class Matching(RetrievalMethod):
    """A host under the triplet ranking loss (ADDR, Eq. 1) and whatever loss it has of its own, with Adam.

    Args:
        host: the networks and the similarity.
        ranking: the triplet ranking loss.
        optimizer: Adam over the host.
        schedule: how the learning rate falls.
        gather_negatives: on several devices, whether negatives come from all of their batches, as if one
            had the whole batch; else each has its own.
        fine_tuning: how the host's image network is trained, and how many pairs are encoded at a time; None:
            as all else, and the whole batch.

    Raises:
        ValueError: settings of an image network that the host does not train.
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
        """The host's networks."""
        self.host.build(spec)
        self.fine_tuning_settings.prepare(self.host)

    def inherit(self, parents: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from the trained host of one other method, whose image network may have been left as it came.

        Raises:
            BadInput: several parents, or one of another host.
        """
        if len(parents) > 1:
            raise BadInput(f"{', '.join(parents)} all have the weights of a host; keep one parent")
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
        # Not fused: Lightning clips no gradients of a fused optimiser in mixed precision.
        return self.fine_tuning_settings.optimiser(self.optimizer_settings, self.host.parameters(), self.host)

    def decayed(self, rate: float) -> float:
        """A learning rate after what has been trained so far; its own beginning, if that is lower."""
        return self.schedule_settings.rate(rate, self.current_epoch, self.steps_done())

    def steps_done(self) -> int:
        """Steps of the host so far, over all runs that this one went on from."""
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
        """What is scored, and the fragments, of images and of texts."""
        images, texts = self.host.images(batch.images), self.host.texts(batch.texts)
        return images.scored, images.fragments, texts.scored, texts.fragments

    def loss(self, images: Encoded, texts: Encoded, batch: PairBatch) -> Tensor:
        """The ranking loss, summed over the batch, and the host's own."""
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
        """(B,) which image each pair has; of all processes' pairs, where negatives are gathered."""
        images = sent(batch.texts.image, self.device)
        return gather(images) if self.gather_negatives else images

    @property
    def backbone(self) -> BackboneSource | None:
        """The image network that the host runs itself."""
        return self.host.source

    @property
    def fine_tunes_backbone(self) -> bool:
        """As the host does."""
        return self.host.fine_tuned

    @property
    def text_source(self) -> TextSource | None:
        """The host's."""
        return self.host.text_source

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """What the host compares."""
        return self.host.images(batch).scored

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """What the host compares."""
        return self.host.texts(batch).scored

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The host's similarity."""
        return self.host.score(images, texts)

    @property
    def vector_similarity(self) -> VectorSimilarity | None:
        """The host's."""
        return self.host.vector_similarity
