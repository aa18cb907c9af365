"""ADDR: Adversarial Discriminative Domain Regularization (Ren et al., ICPR 2020), on any host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, GroupBatch, PairBatch
from crossmodal_bench.core.distributed import gather, mean_over_all, own_rows, pair_scores, sum_over_all
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data.loader import BatchLoader
from crossmodal_bench.losses import (
    domain_regularisation,
    domain_risks,
    hardest_negatives,
    negatives_risks,
)
from crossmodal_bench.losses.domains import Reduction
from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank, machine_bank
from crossmodal_bench.methods.hosts import Encoded, Host
from crossmodal_bench.methods.matching import Matching, RankingSettings
from crossmodal_bench.methods.optimization import AdamSettings, DecaySettings


@dataclass(frozen=True)
class PairDiscriminatorSettings:
    """The logistic discriminators of regions and words.

    Taken literally, the paper's settings hardly let a pair's discriminator learn: it takes one step per
    epoch, at a learning rate that decays with the encoders' thousands of steps. ``passes`` and ``schedule``
    are ours; their defaults are the literal reading. ``benchmarks/discriminator_learning.py`` compares them.

    Attributes:
        shared: whether all pairs share one discriminator; otherwise each pair has its own.
        learning_rate: of the discriminators' Adam, or None for the encoders'.
        beta1: of the discriminators' Adam.
        passes: consecutive steps of a batch's discriminators in their phase, on the same features.
        schedule: decay of their learning rate, by epochs and by the encoders' steps; None: the encoders'.

    Raises:
        ValueError: ``passes`` is below 1.
    """

    shared: bool = False
    learning_rate: float | None = None
    beta1: float = 0.5
    passes: int = 1
    schedule: DecaySettings | None = None

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"discriminator.passes is {self.passes}; give a whole number, 1 or greater")

    @property
    def betas(self) -> tuple[float, float]:
        """Adam's two decay rates."""
        return self.beta1, 0.999


class ADDR(Matching):
    """A host, plus a logistic discriminator of regions and words for each training image and its captions.

    Each epoch has two phases (Algorithm 1). In the first, the discriminators are trained, each on its image
    and all of that image's captions, with fixed encoders: L_adv + gamma L_reg (Eq. 10). In the second, the
    encoders are trained on pairs, with fixed discriminators: ranking - beta L_adv (Eq. 11). Epochs and steps
    are therefore counted like the host's own. L_adv is averaged over a pair's regions and words and summed
    over pairs, like the hosts' ranking loss.

    Table I's rows: "Base" is the host under ``Matching``; "United" one discriminator for all pairs
    (``discriminator.shared``); "Multiple" gamma = 0.

    Args:
        host: the networks and the similarity.
        beta: weight of L_adv in the encoders' loss.
        gamma: weight of L_reg in the discriminators' loss.
        alpha: margin of L_reg.
        reduction: of a risk over regions and words; see crossmodal_bench.losses.domain_risks.
        regularise_encoders: whether the encoders also minimise gamma L_reg, as in the paper's text but not in
            its Eq. 11 and Algorithm 1.
        discriminator: the discriminators.
        ranking: the host's triplet ranking loss.
        optimizer: Adam over the host.
        schedule: decay of the encoders' learning rate, and of the discriminators' if they have no schedule.
        gather_negatives: see Matching; then the discriminators' q and r come from all devices too.
    """

    phases = ("groups", "pairs")

    def __init__(
        self,
        host: Host,
        beta: float = 0.1,
        gamma: float = 0.4,
        alpha: float = 0.05,
        reduction: Reduction = "mean",
        regularise_encoders: bool = False,
        discriminator: PairDiscriminatorSettings = PairDiscriminatorSettings(),
        ranking: RankingSettings = RankingSettings(),
        optimizer: AdamSettings = AdamSettings(learning_rate=1e-3, beta1=0.5, gradient_clip=2.0),
        schedule: DecaySettings = DecaySettings(factor=0.2, every_steps=8000, minimum_rate=1e-5),
        gather_negatives: bool = False,
    ) -> None:
        super().__init__(
            host,
            ranking=ranking,
            optimizer=optimizer,
            schedule=schedule,
            gather_negatives=gather_negatives,
        )
        # A checkpoint stores only this class's own arguments, which do not include this one.
        self.hparams.pop("fine_tuning", None)
        if discriminator.shared and gamma:
            raise ValueError(f"gamma is {gamma}, but a shared discriminator has no others; set it to 0")
        if regularise_encoders and not gamma:
            raise ValueError("regularise_encoders is true, but gamma is 0; give gamma, or set it to false")
        self.beta, self.gamma = beta, gamma
        self.alpha = alpha
        self.reduction: Reduction = reduction
        self.regularise_encoders, self.discriminator_settings = regularise_encoders, discriminator
        self.discriminators: DiscriminatorBank | None = None
        self._restored: dict[str, Any] | None = None
        self._position = torch.zeros(0, dtype=torch.int64)
        self._exchange_due = False

    # ---- the bank -------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Create the discriminators, or restore a checkpoint's if training resumes from one."""
        corpus = self.trainer.datamodule.corpus  # type: ignore[attr-defined]
        rows = torch.from_numpy(corpus.image_rows("train"))
        self._position = torch.full((len(corpus.image_ids),), -1)
        self._position[rows] = torch.arange(len(rows))
        assert self.data_spec is not None
        self.discriminators = machine_bank(
            self.trainer,
            rows=self._bank_size(self.data_spec),
            dim=self.host.fragment_dim,
            betas=self.discriminator_settings.betas,
            name=self.data_spec.dataset_fingerprint,
            state=self._restored,
        )
        self._restored = None

    def _bank_size(self, spec: DataSpec) -> int:
        return 1 if self.discriminator_settings.shared else spec.n_train_images

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the whole bank in checkpoints that training can resume from."""
        super().on_save_checkpoint(checkpoint)
        if self.discriminators is not None and "optimizer_states" in checkpoint:
            self._settle()
            checkpoint["discriminators"] = self.discriminators.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the bank's state until the bank exists.

        Raises:
            BadInput: training would resume with another data set's discriminators.
        """
        super().on_load_checkpoint(checkpoint)
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if fitting and "discriminators" in checkpoint and self.data_spec is not None:
            self._restored = checkpoint["discriminators"]
            # Checked here, because other data have another vocabulary: loading the host's weights would fail
            # without saying why.
            DiscriminatorBank.check(
                checkpoint["discriminators"],
                rows=self._bank_size(self.data_spec),
                dim=self.host.fragment_dim,
                name=self.data_spec.dataset_fingerprint,
            )

    def _settle(self) -> None:
        """Wait until every process's updates are in every machine's bank."""
        if self.trainer.world_size == 1 or self.discriminators is None or self.discriminators.rows == 1:
            return
        self.trainer.strategy.barrier()
        if self.trainer.num_nodes > 1:
            self.discriminators.exchange(self._total, keep=self.trainer.local_rank == 0)
            self.trainer.strategy.barrier()

    def _total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, wherever the tensor is: NCCL only moves accelerator memory."""
        summed: Tensor = self.trainer.strategy.reduce(tensor.to(self.device), reduce_op="sum")
        return summed.to(tensor.device)

    def _announce_batches(self) -> None:
        loader = self.trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            loader.ahead = self._prefetch

    def on_train_start(self) -> None:
        """Enable prefetching; Lightning skips the start of an epoch that it resumes."""
        super().on_train_start()
        self._announce_batches()

    def on_train_epoch_start(self) -> None:
        """Reset the means, and enable prefetching for new loaders too."""
        super().on_train_epoch_start()
        self._announce_batches()

    def _prefetch(self, batch: PairBatch | GroupBatch, following: PairBatch | GroupBatch) -> None:
        # Between the phases, rows change until all processes' steps are in the bank; a shared one always.
        stays = isinstance(batch, GroupBatch) or not self._exchange_due
        if (
            self.discriminators is not None
            and self.discriminators.rows > 1
            and type(batch) is type(following)
            and stays
        ):
            self.discriminators.prefetch(self._rows(following), self.device)

    def _rows(self, batch: PairBatch | GroupBatch) -> Tensor:
        """(B,) rows of the batch's discriminators in the bank, (1,) if they share one; on the CPU."""
        if self.discriminator_settings.shared:
            return torch.zeros(1, dtype=torch.int64)
        return self._position[batch.images.index]

    # ---- the two phases -------------------------------------------------------------------------------

    def training_step(self, batch: PairBatch | GroupBatch, batch_idx: int) -> None:
        """A step of the discriminators, or of the host."""
        if isinstance(batch, GroupBatch):
            self._exchange_due = True
            self.train_discriminators(batch)
            return
        if self._exchange_due:
            self._settle()
            self._exchange_due = False
        super().training_step(batch, batch_idx)

    def train_discriminators(self, batch: GroupBatch) -> None:
        """The steps of the batch's discriminators, Eq. 10, on fixed features.

        The logged values are from before the first step.
        """
        assert self.discriminators is not None
        images, texts, q, r = self._seen(batch)
        index, rate = self._rows(batch), self._discriminators_rate()
        for number in range(self.discriminator_settings.passes):
            rows = self.discriminators.gather(index, self.device).to(texts.values.dtype).requires_grad_()
            loss, logged = self.discriminators_loss(images.fragments, texts, rows, q, r)
            (gradient,) = torch.autograd.grad(loss, rows)
            # DDP does not know the discriminators, so their gradients are handled here. Each process has its
            # own rows, whose gradient is complete, or W times that if rows have been gathered.
            if self.discriminator_settings.shared and self.trainer.world_size > 1:
                gradient = self._total(gradient) / self.trainer.world_size
            elif self.gather_negatives:
                gradient = gradient / self.trainer.world_size
            self.discriminators.step(index, gradient, rate)
            if number == 0:
                self.log_means(logged, len(batch.images))

    def _discriminators_rate(self) -> float:
        rate = self.discriminator_settings.learning_rate
        if rate is None:
            rate = self.optimizer_settings.learning_rate
        schedule = self.discriminator_settings.schedule or self.schedule_settings
        return schedule.rate(rate, self.current_epoch, self.steps_done())

    @torch.no_grad()
    def _seen(self, batch: GroupBatch) -> tuple[Encoded, Encoding, Tensor, Tensor]:
        """Encoded images, the words of all captions of each image, and the required hard negatives q and r.

        A pair without one is its own; gathered ones are over all processes' pairs. Runs in evaluation mode,
        because nothing about the encoders may change in this phase.
        """
        training = self.host.training
        self.host.eval()
        images, texts = self.host.images(batch.images), self.host.texts(batch.texts)
        q = r = torch.arange(len(batch.images), device=self.device)
        if not self.discriminator_settings.shared:
            chosen = texts.scored.take(batch.chosen)
            scores = pair_scores(self.host.score, images.scored, chosen, self.gather_negatives)
            q, hardest_images = hardest_negatives(scores)
            # Without L_reg only q is needed, to log how well a pair's own discriminator recognises it.
            r = hardest_images if self.gamma else torch.arange(len(q), device=self.device)
        self.host.train(training)
        words = texts.fragments
        assert words.lengths is not None
        owner = torch.repeat_interleave(torch.arange(len(batch.counts)), batch.counts)
        lengths = torch.zeros_like(batch.counts).index_add_(0, owner, words.lengths)
        return images, Encoding(words.values, lengths), q, r

    def discriminators_loss(
        self, regions: Encoding, words: Encoding, rows: Tensor, q: Tensor, r: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 10 summed over the pairs (averaged for a shared discriminator), and the values to log.

        Args:
            regions: (B, R, D).
            words: each pair's words, packed.
            rows: (B, D + 1) the pairs' discriminators, or (1, D + 1).
            q, r: (B,) hardest negatives.
        """
        if self.discriminator_settings.shared:
            own = self._own_risks(regions, words, rows.expand(len(regions), -1))
            mean = mean_over_all(own.mean(), len(own))
            return mean, {"train/risk_own": mean}
        risks = self._risks(regions, words, rows, q, r)
        own = risks.diagonal()
        regularisation = domain_regularisation(risks, q, r, self.alpha)
        others = risks[torch.arange(len(q), device=q.device), q]
        return own.sum() + self.gamma * regularisation.sum(), {
            "train/risk_own": own.mean(),
            "train/risk_other": others.mean(),
            "train/loss_regularisation": regularisation.mean(),
        }

    def loss(self, images: Encoded, texts: Encoded, batch: PairBatch) -> Tensor:
        """Eq. 11: the host's loss minus beta L_adv, with fixed discriminators."""
        assert self.discriminators is not None
        total = super().loss(images, texts, batch)
        regions, words = images.fragments, texts.fragments
        rows = self.discriminators.gather(self._rows(batch), self.device).to(regions.values.dtype)
        own = self._own_risks(regions, words, rows.expand(len(batch), -1))
        if self.regularise_encoders:
            with torch.no_grad():
                scores = pair_scores(self.host.score, images.scored, texts.scored, self.gather_negatives)
            q, r = hardest_negatives(scores, self.image_ids(batch))
            risks = self._risks(regions, words, rows, q, r)
            regularisation = domain_regularisation(risks, q, r, self.alpha).sum()
            if not self.gather_negatives:
                regularisation = sum_over_all(regularisation)
            total = total + self.gamma * regularisation
        self.log_means({"train/loss_adversarial": own.mean()}, len(batch))
        return total - self.beta * sum_over_all(own.sum())

    def _own_risks(self, regions: Encoding, words: Encoding, rows: Tensor) -> Tensor:
        """(B,) risks of the pairs' discriminators ``rows`` (B, D + 1), each on its own pair."""
        assert words.lengths is not None
        risks = domain_risks(
            regions.values,
            words.values,
            words.lengths,
            weight=rows[:, None, :-1],
            bias=rows[:, None, -1],
            reduction=self.reduction,
        )
        return risks[:, 0]

    def _risks(self, regions: Encoding, words: Encoding, rows: Tensor, q: Tensor, r: Tensor) -> Tensor:
        """(B, B) risks of ``rows`` (B, D + 1), as in ``negatives_risks``; over all processes if gathered.

        All processes' discriminators are applied to this process's pairs, and these rows are gathered: the
        factor is W for encoders and discriminators, as for scores
        (crossmodal_bench.core.distributed.pair_scores).
        """
        assert words.lengths is not None
        own_pairs = slice(None)
        if self.gather_negatives:
            own_pairs, rows = own_rows(len(rows), rows.device), gather(rows)
        risks = negatives_risks(
            regions.values,
            words.values,
            words.lengths,
            weight=rows[:, :-1],
            bias=rows[:, -1],
            q=q,
            r=r,
            reduction=self.reduction,
            rows=own_pairs,
        )
        return gather(risks) if self.gather_negatives else risks
