"""Training that starts from other jobs' trained weights: which runs those are, and what is inherited."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl
from torch import Tensor

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.basis import of_parents
from crossmodal_bench.training.trained_model import trained_weights


class Inheritance(pl.Callback):
    """Hands the parents' weights to a model as soon as its networks are built.

    Not for training that resumes from a checkpoint.

    Args:
        weights: state dictionaries by method.
    """

    def __init__(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._weights = weights

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Build, inherit, and release the weights; BadInput if they do not match.

        This happens before the model is moved to its device and its optimisers are created.
        """
        if stage != "fit" or not self._weights:
            return
        assert isinstance(pl_module, RetrievalMethod)
        pl_module.prepare(trainer.datamodule.spec)  # type: ignore[attr-defined]
        try:
            pl_module.inherit(self._weights)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise BadInput(
                f"the trained weights of {', '.join(self._weights)} do not match {type(pl_module).__name__} "
                "as configured; use the same networks and the same text settings in both"
            ) from error
        self._weights = {}


def parent_weights(planned: PlannedJob) -> dict[str, dict[str, Tensor]]:
    """The state dictionaries that a job starts from, by method: those that the parents' records measured.

    Raises BadInput if one is missing, cannot be read, or is from another run than its record.
    """
    return of_parents(planned, trained_weights)
