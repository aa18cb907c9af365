"""Lightning callbacks: evaluation, history, exact resumption, checkpoints of an interrupted run."""

import pytorch_lightning as pl

from crossmodal_bench.training.callbacks.batch_statistics import BatchStatistics
from crossmodal_bench.training.callbacks.gradient_order import GradientOrder
from crossmodal_bench.training.callbacks.history import History
from crossmodal_bench.training.callbacks.interruption import SaveWhenAsked
from crossmodal_bench.training.callbacks.random_state import RandomState
from crossmodal_bench.training.callbacks.retrieval import RetrievalEvaluation

__all__ = ["History", "RandomState", "RetrievalEvaluation", "SaveWhenAsked", "exact_resumption"]


def exact_resumption() -> list[pl.Callback]:
    """Callbacks that make a resumed run equal to an uninterrupted one; list them before those that save."""
    return [RandomState(), BatchStatistics(), GradientOrder()]
