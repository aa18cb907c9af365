"""Matching networks trained by triplet ranking: VSE++, SCAN, BFAN and VSRN as they are, without adversary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.distributed import gather, pair_scores, sum_over_all
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.losses import triplet_ranking_loss
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.methods.hosts import Encoded, Host


class Matching(RetrievalMethod):
    """A host under the triplet ranking loss (ADDR, Eq. 1) and whatever loss it has of its own, with Adam.

    Args:
        host: the networks and the similarity.
        margin: of the ranking loss.
        hardest: whether only the hardest negative of each query counts.
        hardest_from_epoch: all negatives count, summed, in the epochs before; hard negatives alone can
            collapse all similarities to one at the start, with a loss of 2 margin per pair.
        mask_same_image_negatives: whether captions of one image are no negatives of each other; the originals
            take them for negatives.
        gather_negatives: on several devices, whether negatives come from all of their batches, as if one
            had the whole batch; else each has its own.
        learning_rate: of Adam.
        adam_beta1: of Adam.
        decay_factor: what the rate is multiplied by,
        decay_epochs: every so many epochs (never, if None),
        decay_every: and every so many steps (never, if None),
        minimum_rate: down to this one.
        gradient_clip: largest norm of the gradient, or None.
    """

    iterations: Tensor

    def __init__(
        self,
        host: Host,
        margin: float = 0.2,
        hardest: bool = True,
        hardest_from_epoch: int = 0,
        mask_same_image_negatives: bool = False,
        learning_rate: float = 2e-4,
        adam_beta1: float = 0.9,
        decay_factor: float = 0.1,
        decay_epochs: int | None = None,
        decay_every: int | None = None,
        minimum_rate: float = 0.0,
        gradient_clip: float | None = 2.0,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (("decay_epochs", decay_epochs), ("decay_every", decay_every)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give a whole number from 1, or null for never")
        self.automatic_optimization = False
        self.save_hyperparameters()
        if isinstance(self.hparams.get("host"), nn.Module):
            # Given as an object, not through a configuration: weights are saved as weights, not by pickle.
            del self.hparams["host"]
        self.host = host
        self.requires = host.requires
        self.register_buffer("iterations", torch.zeros((), dtype=torch.int64))

    def build(self, spec: DataSpec) -> None:
        """The host's networks."""
        self.host.build(spec)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over the host."""
        p: Any = self.hparams
        # Lightning clips no gradients of a fused optimiser in mixed precision.
        return torch.optim.Adam(self.host.parameters(), p.learning_rate, (p.adam_beta1, 0.999))

    def decayed(self, rate: float) -> float:
        """A learning rate after what has been trained so far; its own beginning, if that is lower."""
        p: Any = self.hparams
        times = self.current_epoch // p.decay_epochs if p.decay_epochs else 0
        times += int(self.iterations) // p.decay_every if p.decay_every else 0
        return max(rate * p.decay_factor**times, min(p.minimum_rate, rate))

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """One step of the host."""
        optimiser: Any = self.optimizers()
        for group in optimiser.param_groups:
            group["lr"] = self.decayed(self.hparams["learning_rate"])
        images, texts = self.host.images(batch.images), self.host.texts(batch.texts)
        self.manual_backward(self.loss(images, texts, batch))
        if self.hparams["gradient_clip"] is not None:
            self.clip_gradients(optimiser, self.hparams["gradient_clip"], "norm")
        optimiser.step()
        optimiser.zero_grad()
        self.iterations.add_(1)

    def loss(self, images: Encoded, texts: Encoded, batch: PairBatch) -> Tensor:
        """The ranking loss, summed over the batch, and the host's own."""
        p: Any = self.hparams
        scores = pair_scores(self.host.score, images.scored, texts.scored, p.gather_negatives)
        total = triplet_ranking_loss(
            scores,
            p.margin,
            p.hardest and self.current_epoch >= p.hardest_from_epoch,
            self.image_ids(batch) if p.mask_same_image_negatives else None,
        )
        logged = {"train/loss_ranking": total / len(scores)}
        if not p.gather_negatives:
            total = sum_over_all(total)
        own = self.host.auxiliary_loss(images, batch.texts)
        if own is not None:
            logged["train/loss_caption"] = own
            total = total + own
        self.log_means(logged, len(batch))
        return total

    def image_ids(self, batch: PairBatch) -> Tensor:
        """(B,) which image each pair has; of all processes' pairs, where negatives are gathered."""
        return gather(batch.texts.image) if self.hparams["gather_negatives"] else batch.texts.image

    def encode_images(self, batch: ImageBatch) -> Encoding:
        """What the host compares."""
        return self.host.images(batch).scored

    def encode_texts(self, batch: TextBatch) -> Encoding:
        """What the host compares."""
        return self.host.texts(batch).scored

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """The host's similarity."""
        return self.host.score(images, texts)
