"""Training that starts from other jobs' trained weights: which runs those are, and what they hand on."""

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
    """Hands the parents' weights to a model as soon as its networks are made.

    Not for a training that goes on from a checkpoint.

    Args:
        weights: state dictionaries by method.
    """

    def __init__(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._weights = weights

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Build, inherit, and let go of the weights; BadInput where they do not fit.

        Before the model is moved to its device and its optimisers are made.
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
                f"the trained weights of {', '.join(self._weights)} do not fit {type(pl_module).__name__} as "
                "it is configured; give them the same networks and the same text settings"
            ) from error
        self._weights = {}


def parent_weights(planned: PlannedJob) -> dict[str, dict[str, Tensor]]:
    """By method, the state dictionaries that a job starts from: those behind the parents' records.

    Raises BadInput where one is not there, cannot be read, or is of another run than its record.
    """
    return of_parents(planned, trained_weights)
