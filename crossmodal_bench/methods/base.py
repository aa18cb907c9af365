"""The contract between methods and everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.distributed import gather_objects, rank, world_size
from crossmodal_bench.core.encoding import Encoding, VectorSimilarity
from crossmodal_bench.core.errors import Diverged
from crossmodal_bench.core.host import sent
from crossmodal_bench.data.loader import Phase
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.networks.texts import TextSource


class RetrievalMethod(pl.LightningModule, ABC):
    """A way to score images against texts.

    A subclass declares ``requires`` (names of views), builds its networks in ``build`` from the sizes of the
    data, and implements the two encoders and the score. Its ``training_step`` defines the objective.

    Attributes:
        requires: the views that its batches must have, set on the class, or on the instance if they depend on
            its encoders.
        phases: what the parts of an epoch train on, in order; see crossmodal_bench.data.loader.Phase.
        deterministic: whether results do not depend on the seed; the bench then runs it once.
        ddp_strategy: Lightning's strategy on several devices.
        gpu_precision: Lightning's precision on a GPU.
    """

    requires: frozenset[str] = frozenset()
    phases: ClassVar[tuple[Phase, ...]] = ("pairs",)
    deterministic: ClassVar[bool] = False
    ddp_strategy: str = "ddp"
    gpu_precision: str = "32-true"

    def __init__(self) -> None:
        super().__init__()
        self.data_spec: DataSpec | None = None
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def keep_hyperparameters_plain(self) -> None:
        """Keep in ``hparams`` only what a checkpoint loaded with weights_only=True can contain.

        Call this after ``save_hyperparameters``. Arguments from a configuration are plain already. Of those
        given as objects, settings become dictionaries, which Lightning's own instantiator turns back into
        settings in ``load_from_checkpoint``; networks are left out, because weights are saved as weights and
        not pickled: pass them to ``load_from_checkpoint`` again.
        """
        for name, value in list(self.hparams.items()):
            if isinstance(value, nn.Module):
                del self.hparams[name]
            elif is_dataclass(value) and not isinstance(value, type):
                self.hparams[name] = asdict(value)
                self.hparams["_instantiator"] = "pytorch_lightning.cli.instantiate_module"

    @abstractmethod
    def build(self, spec: DataSpec) -> None:
        """Build the networks; called once, before any weight is loaded or trained."""

    def inherit(self, parents: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Start from the trained weights of other methods' models.

        Called once, after ``build`` and before training, but not if training resumes from a checkpoint. A
        method whose file names ``parents`` must implement it.

        Args:
            parents: the state dictionaries of the trained models, by method, on the CPU.
        """
        names = ", ".join(parents)
        raise NotImplementedError(f"{type(self).__name__} must implement inherit to start from {names}")

    @abstractmethod
    def encode_images(self, batch: ImageBatch) -> Encoding:
        """B encoded images."""

    @abstractmethod
    def encode_texts(self, batch: TextBatch) -> Encoding:
        """B encoded texts."""

    @abstractmethod
    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """(n_images, n_texts) scores; higher is better. Each pair's score must not depend on other pairs."""

    @property
    def vector_similarity(self) -> VectorSimilarity | None:
        """The similarity of ``comparable_vectors`` that equals ``score`` exactly, as search engines need it.

        None if fragments are compared, or vectors in another way.
        """
        return None

    def comparable_vectors(self, encoding: Encoding) -> Tensor:
        """(N, D) vectors of either modality; only if there is a ``vector_similarity``."""
        return encoding.values

    @property
    def backbone(self) -> BackboneSource | None:
        """The pre-trained image network that the method runs itself, if any; part of every record."""
        return None

    @property
    def fine_tunes_backbone(self) -> bool:
        """Whether ``backbone`` is trained too; only such runs are compared with fine-tuned numbers."""
        return False

    @property
    def text_source(self) -> TextSource | None:
        """What encodes the captions; part of every record.

        None if the method compares bags of words, or does not say: then its results cannot be compared with
        published numbers.
        """
        return None

    def prepare(self, spec: DataSpec) -> None:
        """Build the networks unless they are built already."""
        if self.data_spec is None:
            self.data_spec = spec
            self.build(spec)

    def setup(self, stage: str) -> None:
        """Build from the trainer's data module."""
        self.prepare(self.trainer.datamodule.spec)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the data's sizes, so that a checkpoint can be loaded without its data."""
        if self.data_spec is not None:
            checkpoint["data_spec"] = {**asdict(self.data_spec), "weights_root": None}
        # Each process has its own sums, and Lightning would save only the first's.
        everyone = gather_objects({name: (total.cpu(), count) for name, (total, count) in self._sums.items()})
        for sums in everyone:
            # Checked by all processes alike: if only one raised, the others would wait for it.
            self._check_finite({name: total for name, (total, _) in sums.items()})
        checkpoint["train_sums_of_processes"] = everyone

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build before the weights are loaded."""
        if "data_spec" in checkpoint:
            self.prepare(DataSpec(**checkpoint["data_spec"]))
        self._sums = {}
        everyone = checkpoint.get("train_sums_of_processes", [])
        # If the number of processes has changed, each continues with the sums of all.
        for sums in everyone[rank() : rank() + 1] if len(everyone) == world_size() else everyone:
            for name, (total, count) in sums.items():
                others, their_count = self._sums.get(name, (torch.zeros(()), 0))
                self._sums[name] = (total + others, count + their_count)

    def log_means(self, values: dict[str, Tensor], batch_size: int) -> None:
        """Log means over the epoch's samples, once at its end.

        Lightning's own running means restart at zero when training resumes in mid-epoch; these are saved in
        checkpoints.

        Args:
            values: scalars of this batch, by name.
            batch_size: samples in this batch.

        Raises:
            Diverged: one of them is not finite. On devices other than the CPU, this is detected only when the
                epoch ends or a checkpoint is saved: checking at each step would force a synchronisation.
        """
        if self.device.type == "cpu":
            self._check_finite(values)
        for name, value in values.items():
            total, count = self._sums.get(name, (torch.zeros(()), 0))
            self._sums[name] = (
                value.detach() * batch_size + sent(total, value.device),
                count + batch_size,
            )

    def _check_finite(self, values: Mapping[str, Tensor]) -> None:
        """Raise Diverged if a scalar is not finite; a sum stays non-finite once a term was."""
        numbers = [value.detach().float().cpu() for value in values.values()]
        if not numbers or torch.stack(numbers).isfinite().all():
            return
        name = next(name for name, value in values.items() if not torch.isfinite(value))
        stays = "; the last finished epoch's checkpoint is kept" if self.current_epoch else ""
        raise Diverged(
            f"{name} is {float(values[name])} in epoch {self.current_epoch + 1}: training has diverged"
            f"{stays}; lower the learning rates (--set ...)"
        )

    def on_train_start(self) -> None:
        """Log the means of an epoch that resumes during validation, since its last batch is not repeated."""
        if self.trainer.fit_loop.epoch_loop.val_loop.restarted_mid_evaluation:
            self._log_epoch()

    def on_train_epoch_start(self) -> None:
        """Reset the means; Lightning does not call this when an epoch is resumed."""
        self._sums = {}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the means after the last batch, before validation and the callbacks' end of the epoch."""
        if self.trainer.is_last_batch:
            self._log_epoch()

    def on_train_end(self) -> None:
        """Check what came after the last whole epoch, if training ends within one."""
        self._check_finite({name: total for name, (total, _) in self._sums.items()})

    def _log_epoch(self) -> None:
        self._check_finite({name: total for name, (total, _) in self._sums.items()})
        means = {name: total / count for name, (total, count) in self._sums.items()}
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    def write(self, images: Encoding) -> list[str]:
        """Captions that the model writes for N encoded images; none for most methods."""
        return []

    def draw(self, texts: Encoding) -> Tensor | None:
        """(N, 3, H, W), -1 to 1: pictures drawn for N encoded captions; None for most methods."""
        return None

    def validation_losses(
        self, images: Encoding, texts: Encoding, caption_image: Tensor, identities: Tensor
    ) -> dict[str, Tensor]:
        """Losses or other values on the whole validation split, by name; none by default.

        Args:
            images, texts: its encodings, complete on every process.
            caption_image: (n_texts,) row of each caption's image.
            identities: (n_images,) equal for images of one identity.
        """
        return {}

    def encode(self, batch: ImageBatch | TextBatch) -> Encoding:
        """Encode either modality."""
        return self.encode_images(batch) if isinstance(batch, ImageBatch) else self.encode_texts(batch)

    def forward(self, batch: ImageBatch | TextBatch) -> Encoding:
        """The same as ``encode``."""
        return self.encode(batch)

    def predict_step(
        self, batch: ImageBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Encoding:
        """The encoding on the CPU, since ``predict`` keeps those of a whole split."""
        return self.encode(batch).to("cpu")

    def validation_step(  # type: ignore[override]
        self, batch: ImageBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Encoding:
        """The encoding; the retrieval callback collects it."""
        return self.encode(batch)

    def test_step(  # type: ignore[override]
        self, batch: ImageBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Encoding:
        """The encoding; the retrieval callback collects it."""
        return self.encode(batch)
