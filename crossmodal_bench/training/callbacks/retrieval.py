"""Exact retrieval evaluation on validation and test: every image and every caption is encoded once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.batch import ImageBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.evaluation import Evaluation, Protocol, RetrievalBank, evaluate_all
from crossmodal_bench.evaluation.items import identities_of, labels_of, owners, positives_of
from crossmodal_bench.evaluation.protocols.protocol import measured_on
from crossmodal_bench.jobs.inputs import fitting_protocols
from crossmodal_bench.methods.base import RetrievalMethod


class RetrievalEvaluation(pl.Callback):
    """Collects what ``validation_step`` and ``test_step`` return and evaluates complete galleries only.

    Logs ``val/<metric>`` after each validation epoch, and the one that selects the checkpoint as
    ``val/primary``; keeps the evaluations on test.

    Args:
        protocols: what to compute; by default every protocol that the test split matches. On validation,
            which has another size, only the first one's metrics are computed, without its counts and folds.
            If empty, the test encodings are collected but not evaluated.
        test_split: the split that ``test`` runs on; ``val`` for tuning, when test must not be used.
    """

    def __init__(self, protocols: list[Protocol] | None = None, test_split: str = "test") -> None:
        self.protocols = protocols
        self.test_split = test_split
        self.results: dict[str, Evaluation] = {}
        self.encodings: tuple[Encoding, Encoding] | None = None
        self.seconds = 0.0
        self._banks: list[RetrievalBank] = []
        self._split = ""
        self._rows: list[NDArray[np.int64]] = []
        self._start = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the protocols; point the test loaders at the split."""
        _data(trainer).test_split = self.test_split
        if self.protocols is None:
            self.protocols = measured_on(self.test_split, fitting_protocols(_data(trainer).corpus))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Empty the banks."""
        self._open(trainer, "val")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Empty the banks."""
        self._open(trainer, self.test_split)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Encoding | Any,
        batch: ImageBatch | TextBatch | Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch."""
        positions = np.searchsorted(self._rows[dataloader_idx], batch.index.numpy())
        self._banks[dataloader_idx].update(torch.from_numpy(positions), outputs)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the first protocol's metrics on validation."""
        if trainer.sanity_checking:
            return
        assert self.protocols is not None
        first = self.protocols[0]
        result = self._evaluate(trainer, pl_module, [first.of_any_size()])[first.name]
        logged = {f"val/{name}": value for name, value in result.metrics.items()}
        logged["val/primary"] = result.metrics[first.primary]
        logged |= self._losses(trainer, pl_module)
        pl_module.log_dict(logged, sync_dist=False)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep every protocol's evaluation and log the first's metrics."""
        assert self.protocols is not None
        fitting = self.protocols if self.test_split == "test" else [p.of_any_size() for p in self.protocols]
        self.results = self._evaluate(trainer, pl_module, fitting)
        self.seconds = time.perf_counter() - self._start
        for protocol in self.protocols[:1]:
            first = self.results[protocol.name].metrics
            pl_module.log_dict({f"test/{name}": value for name, value in first.items()}, sync_dist=False)

    def _losses(self, trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, float]:
        """The method's losses on validation; every process holds the whole split and computes the same."""
        assert isinstance(module, RetrievalMethod) and self.encodings is not None
        images, texts = self.encodings
        corpus = _data(trainer).corpus
        owner = owners(corpus, self._split)
        identities = identities_of(corpus, self._split)
        if identities is None:
            identities = np.arange(len(images))
        losses = module.validation_losses(
            images, texts, torch.from_numpy(owner), torch.from_numpy(identities)
        )
        return {f"val/{name}": float(loss) for name, loss in losses.items()}

    def _open(self, trainer: pl.Trainer, split: str) -> None:
        self._start = time.perf_counter()
        self._split = split
        corpus = _data(trainer).corpus
        self._rows = [corpus.image_rows(split), corpus.caption_rows(split)]
        self._banks = [RetrievalBank(len(rows)) for rows in self._rows]

    def _evaluate(
        self, trainer: pl.Trainer, module: pl.LightningModule, protocols: list[Protocol]
    ) -> dict[str, Evaluation]:
        assert isinstance(module, RetrievalMethod)
        corpus = _data(trainer).corpus
        images, texts = (bank.gathered()[1] for bank in self._banks)
        self.encodings = (images, texts)
        evaluations = evaluate_all(
            protocols,
            images,
            texts,
            module.score,
            owners(corpus, self._split),
            labels_of(corpus, self._split),
            identities_of(corpus, self._split),
            positives=[positives_of(corpus, self._split, protocol) for protocol in protocols],
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            # Accelerators other than CUDA lack double precision.
            device=module.device if module.device.type == "cuda" else None,
        )
        return {evaluation.protocol.name: evaluation for evaluation in evaluations}


def _data(trainer: pl.Trainer) -> CrossModalDataModule:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, CrossModalDataModule)
    return data
