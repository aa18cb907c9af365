"""ADDR: Adversarial Discriminative Domain Regularization (Ren et al., ICPR 2020), on any host."""

from __future__ import annotations

from typing import Any, Literal

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
from crossmodal_bench.methods.matching import Matching


class ADDR(Matching):
    """A host, and a logistic discriminator of regions and words for each training image with its captions.

    Each epoch has two phases (Algorithm 1). In the first the discriminators are trained, each on its image
    and all of that image's captions, and the encoders stay as they are: L_adv + gamma L_reg (Eq. 10). In the
    second the encoders are trained on pairs, and the discriminators stay: ranking - beta L_adv (Eq. 11). So
    epochs and steps are counted as the host's own are. L_adv is a mean over a pair's regions and words, and a
    sum over pairs, as the hosts' ranking loss is.

    Table I's rows: "Base" is the host under ``Matching``; "United" one discriminator for all pairs;
    "Multiple" gamma = 0.

    Args:
        host: the networks and the similarity.
        discriminators: ``pairs``, or ``one``: one discriminator for all pairs.
        beta: weight of L_adv in the encoders' loss.
        gamma: weight of L_reg in the discriminators' loss.
        alpha: margin of L_reg.
        reduction: of a risk over regions and words; see crossmodal_bench.losses.domain_risks.
        regularise_encoders: whether the encoders minimise gamma L_reg as well, as the paper's text says;
            its Eq. 11 and Algorithm 1 do not.
        discriminator_learning_rate: of the discriminators' Adam; None: the encoders'. Decays alike.
        discriminator_beta1: of the discriminators' Adam.
        margin, hardest, hardest_from_epoch, mask_same_image_negatives, learning_rate, adam_beta1,
            decay_factor, decay_epochs, decay_every, minimum_rate, gradient_clip: see Matching.
        gather_negatives: see Matching; the discriminators' q and r come from all devices then, too.
    """

    phases = ("groups", "pairs")

    def __init__(
        self,
        host: Host,
        discriminators: Literal["pairs", "one"] = "pairs",
        beta: float = 0.1,
        gamma: float = 0.4,
        alpha: float = 0.05,
        reduction: Reduction = "mean",
        regularise_encoders: bool = False,
        discriminator_learning_rate: float | None = None,
        discriminator_beta1: float = 0.5,
        margin: float = 0.2,
        hardest: bool = True,
        hardest_from_epoch: int = 0,
        mask_same_image_negatives: bool = False,
        learning_rate: float = 1e-3,
        adam_beta1: float = 0.5,
        decay_factor: float = 0.2,
        decay_epochs: int | None = None,
        decay_every: int | None = 8000,
        minimum_rate: float = 1e-5,
        gradient_clip: float | None = 2.0,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__(
            host,
            margin,
            hardest,
            hardest_from_epoch,
            mask_same_image_negatives,
            learning_rate,
            adam_beta1,
            decay_factor,
            decay_epochs,
            decay_every,
            minimum_rate,
            gradient_clip,
            gather_negatives,
        )
        if discriminators == "one" and gamma:
            raise ValueError(f"gamma is {gamma}, but one discriminator has no others to compare with; set 0")
        if regularise_encoders and not gamma:
            raise ValueError("regularise_encoders is true, but gamma is 0; give gamma, or set it false")
        self.discriminators: DiscriminatorBank | None = None
        self._restored: dict[str, Any] | None = None
        self._position = torch.zeros(0, dtype=torch.int64)
        self._exchange_due = False

    # ---- the bank -------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Make the discriminators; those of a checkpoint, if training resumes from one."""
        corpus = self.trainer.datamodule.corpus  # type: ignore[attr-defined]
        rows = torch.from_numpy(corpus.image_rows("train"))
        self._position = torch.full((len(corpus.image_ids),), -1)
        self._position[rows] = torch.arange(len(rows))
        assert self.data_spec is not None
        self.discriminators = machine_bank(
            self.trainer,
            self._n_discriminators(self.data_spec),
            self.host.fragment_dim,
            (self.hparams["discriminator_beta1"], 0.999),
            self.data_spec.dataset_fingerprint,
            self._restored,
        )
        self._restored = None

    def _n_discriminators(self, spec: DataSpec) -> int:
        return spec.n_train_images if self.hparams["discriminators"] == "pairs" else 1

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The whole bank, in checkpoints that training can resume from."""
        super().on_save_checkpoint(checkpoint)
        if self.discriminators is not None and "optimizer_states" in checkpoint:
            self._settle()
            checkpoint["discriminators"] = self.discriminators.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the bank's state until there is a bank.

        Raises:
            BadInput: training would go on with another data set's discriminators.
        """
        super().on_load_checkpoint(checkpoint)
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if fitting and "discriminators" in checkpoint and self.data_spec is not None:
            self._restored = checkpoint["discriminators"]
            # Here, because other data have other words: the host's weights would not fit, and not say why.
            rows, name = self._n_discriminators(self.data_spec), self.data_spec.dataset_fingerprint
            DiscriminatorBank.check(checkpoint["discriminators"], rows, self.host.fragment_dim, name)

    def _settle(self) -> None:
        """Wait until every process's updates are in every machine's bank."""
        if self.trainer.world_size == 1 or self.discriminators is None or self.discriminators.rows == 1:
            return
        self.trainer.strategy.barrier()
        if self.trainer.num_nodes > 1:
            self.discriminators.exchange(self._total, keep=self.trainer.local_rank == 0)
            self.trainer.strategy.barrier()

    def _total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, wherever the tensor is: NCCL moves the accelerator's memory only."""
        summed: Tensor = self.trainer.strategy.reduce(tensor.to(self.device), reduce_op="sum")
        return summed.to(tensor.device)

    def _announce_batches(self) -> None:
        loader = self.trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            loader.ahead = self._prefetch

    def on_train_start(self) -> None:
        """Look ahead; Lightning skips the start of an epoch that it resumes."""
        super().on_train_start()
        self._announce_batches()

    def on_train_epoch_start(self) -> None:
        """Start the means, and look ahead in new loaders too."""
        super().on_train_epoch_start()
        self._announce_batches()

    def _prefetch(self, batch: PairBatch | GroupBatch, following: PairBatch | GroupBatch) -> None:
        # Rows change between the phases until all processes' steps are in the bank; a single one always.
        stays = isinstance(batch, GroupBatch) or not self._exchange_due
        if (
            self.discriminators is not None
            and self.discriminators.rows > 1
            and type(batch) is type(following)
            and stays
        ):
            self.discriminators.prefetch(self._rows(following), self.device)

    def _rows(self, batch: PairBatch | GroupBatch) -> Tensor:
        """(B,) the batch's discriminators, on the CPU."""
        if self.hparams["discriminators"] == "one":
            return torch.zeros(1, dtype=torch.int64)
        return self._position[batch.images.index.cpu()]

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
        """One step of the batch's discriminators, Eq. 10, given the features as they are."""
        assert self.discriminators is not None
        images, texts, q, r = self._seen(batch)
        index = self._rows(batch)
        rows = self.discriminators.gather(index, self.device).to(texts.values.dtype).requires_grad_()
        loss, logged = self.discriminators_loss(images.fragments, texts, rows, q, r)
        (gradient,) = torch.autograd.grad(loss, rows)
        # DDP knows nothing of the discriminators: what it does for parameters is done here. Each process has
        # rows of its own, whose gradient is whole, or W times that where they have been gathered.
        if self.hparams["discriminators"] == "one" and self.trainer.world_size > 1:
            gradient = self._total(gradient) / self.trainer.world_size
        elif self.hparams["gather_negatives"]:
            gradient = gradient / self.trainer.world_size
        rate = self.hparams["discriminator_learning_rate"]
        rate = self.hparams["learning_rate"] if rate is None else rate
        self.discriminators.step(index, gradient, self.decayed(rate))
        self.log_means(logged, len(batch.images))

    @torch.no_grad()
    def _seen(self, batch: GroupBatch) -> tuple[Encoded, Encoding, Tensor, Tensor]:
        """Encoded images, each image's words of all captions, and the hard negatives that matter, q and r.

        A pair without one is its own; gathered ones are of all processes' pairs. Without dropout and new
        batch statistics: nothing of the encoders changes in this phase.
        """
        training = self.host.training
        self.host.eval()
        images, texts = self.host.images(batch.images), self.host.texts(batch.texts)
        q = r = torch.arange(len(batch.images), device=self.device)
        if self.hparams["discriminators"] == "pairs":
            chosen = texts.scored.take(batch.chosen)
            everywhere = self.hparams["gather_negatives"]
            q, rivals = hardest_negatives(pair_scores(self.host.score, images.scored, chosen, everywhere))
            # Without L_reg, q alone is looked at, to say how well a pair's own discriminator knows it.
            r = rivals if self.hparams["gamma"] else torch.arange(len(q), device=self.device)
        self.host.train(training)
        words = texts.fragments
        assert words.lengths is not None
        owner = torch.repeat_interleave(torch.arange(len(batch.counts), device=self.device), batch.counts)
        lengths = torch.zeros_like(batch.counts).index_add_(0, owner, words.lengths)
        return images, Encoding(words.values, lengths), q, r

    def discriminators_loss(
        self, regions: Encoding, words: Encoding, rows: Tensor, q: Tensor, r: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 10 summed over the pairs (a mean, for one discriminator), and what is logged.

        Args:
            regions: (B, R, D).
            words: each pair's words packed.
            rows: (B, D + 1) the pairs' discriminators, or (1, D + 1).
            q, r: (B,) hard negatives.
        """
        p: Any = self.hparams
        if p.discriminators == "one":
            own = self._own_risks(regions, words, rows.expand(len(regions), -1))
            mean = mean_over_all(own.mean(), len(own))
            return mean, {"train/risk_own": mean}
        risks = self._risks(regions, words, rows, q, r)
        own = risks.diagonal()
        regularisation = domain_regularisation(risks, q, r, p.alpha)
        others = risks[torch.arange(len(q), device=q.device), q]
        return own.sum() + p.gamma * regularisation.sum(), {
            "train/risk_own": own.mean(),
            "train/risk_other": others.mean(),
            "train/loss_regularisation": regularisation.mean(),
        }

    def loss(self, images: Encoded, texts: Encoded, batch: PairBatch) -> Tensor:
        """Eq. 11: the host's loss minus beta L_adv, the discriminators held fixed."""
        assert self.discriminators is not None
        p: Any = self.hparams
        total = super().loss(images, texts, batch)
        seen = (images.fragments, texts.fragments)
        rows = self.discriminators.gather(self._rows(batch), self.device).to(seen[0].values.dtype)
        own = self._own_risks(*seen, rows.expand(len(batch), -1))
        if p.regularise_encoders:
            with torch.no_grad():
                scores = pair_scores(self.host.score, images.scored, texts.scored, p.gather_negatives)
            q, r = hardest_negatives(scores, self.image_ids(batch))
            regularisation = domain_regularisation(self._risks(*seen, rows, q, r), q, r, p.alpha).sum()
            total = total + p.gamma * (regularisation if p.gather_negatives else sum_over_all(regularisation))
        self.log_means({"train/loss_adversarial": own.mean()}, len(batch))
        return total - p.beta * sum_over_all(own.sum())

    def _own_risks(self, regions: Encoding, words: Encoding, rows: Tensor) -> Tensor:
        """(B,) risks of the pairs' discriminators ``rows`` (B, D + 1), each on its own pair."""
        assert words.lengths is not None
        parts = (regions.values, words.values, words.lengths)
        return domain_risks(*parts, rows[:, None, :-1], rows[:, None, -1], self.hparams["reduction"])[:, 0]

    def _risks(self, regions: Encoding, words: Encoding, rows: Tensor, q: Tensor, r: Tensor) -> Tensor:
        """(B, B) risks, as ``negatives_risks``, of ``rows`` (B, D + 1); of all processes', where gathered.

        Own pairs are looked at by everyone's discriminators, and these rows are gathered: the factor is W for
        encoders and discriminators, as for scores (crossmodal_bench.core.distributed.pair_scores).
        """
        assert words.lengths is not None
        parts, how = (regions.values, words.values, words.lengths), self.hparams["reduction"]
        if not self.hparams["gather_negatives"]:
            return negatives_risks(*parts, rows[:, :-1], rows[:, -1], q, r, how)
        mine, rows = own_rows(len(rows), rows.device), gather(rows)
        return gather(negatives_risks(*parts, rows[:, :-1], rows[:, -1], q, r, how, mine))
