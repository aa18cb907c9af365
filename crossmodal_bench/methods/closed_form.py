"""Methods that a library solves instead of training them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.batch import DataSpec, PairBatch
from crossmodal_bench.methods.base import RetrievalMethod


class ClosedFormMethod(RetrievalMethod):
    """Fits once on all training pairs when the trainer starts; every rank computes the same.

    Its epoch does nothing: configure the trainer with one epoch of one batch.
    """

    deterministic = True

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        # DDP rejects a module without parameters that require a gradient.
        self.nothing = torch.nn.Parameter(torch.zeros(0))

    @abstractmethod
    def fit(self, images: NDArray[Any], texts: NDArray[Any], labels: NDArray[Any] | None) -> None:
        """Fill the buffers from (n, D_v) image features and (n, D_t) text features of paired rows."""

    def on_fit_start(self) -> None:
        """Fit on all training pairs."""
        views = self.trainer.datamodule.views  # type: ignore[attr-defined]
        rows = views.corpus.caption_rows("train")
        image_rows = views.corpus.caption_image[rows]
        bow = views.bow[rows]
        self.fit(
            np.asarray(views.features[image_rows], dtype=np.float64),
            np.asarray(bow.toarray() if hasattr(bow, "toarray") else bow, dtype=np.float64),
            None if views.labels is None else views.labels[image_rows],
        )

    def configure_optimizers(self) -> None:
        """No optimisers."""

    def training_step(self, batch: PairBatch, batch_idx: int) -> None:
        """Do nothing: the model is already solved."""

    def build(self, spec: DataSpec) -> None:
        """Create the buffers that ``fit`` fills, so that a checkpoint can be loaded into them."""
        for name, shape in self.buffer_shapes(spec).items():
            self.register_buffer(name, torch.zeros(shape))

    @abstractmethod
    def buffer_shapes(self, spec: DataSpec) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the buffers that ``fit`` fills."""

    def fill(self, **arrays: NDArray[Any]) -> None:
        """Copy the solution's arrays into the buffers of the same names."""
        for name, array in arrays.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.from_numpy(np.ascontiguousarray(array)))
