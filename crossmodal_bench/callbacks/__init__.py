"""Lightning callbacks: evaluation, history, state that processes share, checkpoints of an interrupted run."""

from crossmodal_bench.callbacks.batch_statistics import BatchStatistics
from crossmodal_bench.callbacks.history import History
from crossmodal_bench.callbacks.interruption import SaveWhenAsked
from crossmodal_bench.callbacks.random_state import RandomState
from crossmodal_bench.callbacks.retrieval import RetrievalEvaluation

__all__ = ["BatchStatistics", "History", "RandomState", "RetrievalEvaluation", "SaveWhenAsked"]
