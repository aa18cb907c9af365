"""The contract between methods and everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import Tensor

from crossmodal_bench.data.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.encoding import Encoding


class RetrievalMethod(pl.LightningModule, ABC):
    """A way to score images against texts.

    A subclass declares ``requires`` (names of views), builds its networks in ``build`` from the sizes of the data,
    and implements the two encoders and the score. What it optimises is in its ``training_step``.

    Attributes:
        requires: the views that its batches must have.
        deterministic: whether the seed changes nothing; the bench then runs it once.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    deterministic: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.data_spec: DataSpec | None = None

    @abstractmethod
    def build(self, spec: DataSpec) -> None:
        """Make the networks; called once, before any weight is loaded or trained."""

    @abstractmethod
    def encode_images(self, batch: ImageBatch) -> Encoding:
        """B encoded images."""

    @abstractmethod
    def encode_texts(self, batch: TextBatch) -> Encoding:
        """B encoded texts."""

    @abstractmethod
    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        """(n_images, n_texts) scores; higher is better. Pairs are scored independently of each other."""

    def prepare(self, spec: DataSpec) -> None:
        """Build once."""
        if self.data_spec is None:
            self.data_spec = spec
            self.build(spec)

    def setup(self, stage: str) -> None:
        """Build from the trainer's data module."""
        self.prepare(self.trainer.datamodule.spec)  # type: ignore[attr-defined]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the sizes, so that a checkpoint can be loaded without its data."""
        if self.data_spec is not None:
            checkpoint["data_spec"] = asdict(self.data_spec)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build before the weights are loaded."""
        if "data_spec" in checkpoint:
            self.prepare(DataSpec(**checkpoint["data_spec"]))

    def encode(self, batch: ImageBatch | TextBatch) -> Encoding:
        """Either modality."""
        return self.encode_images(batch) if isinstance(batch, ImageBatch) else self.encode_texts(batch)

    def validation_step(
        self, batch: ImageBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> Encoding:
        """The encoding; the retrieval callback collects it."""
        return self.encode(batch)

    def test_step(self, batch: ImageBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0) -> Encoding:
        """The encoding; the retrieval callback collects it."""
        return self.encode(batch)
