"""Exact cross-modal retrieval evaluation: ranks, precision, protocols and the uncertainty of the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossmodal_bench.evaluation.evaluate import (
    Evaluation,
    evaluate,
    evaluate_all,
    fold_metrics,
    rank_metrics,
)
from crossmodal_bench.evaluation.metric_table import Metric
from crossmodal_bench.evaluation.metrics import hit_at_k, mean_rank, median_rank
from crossmodal_bench.evaluation.protocols.protocol import (
    PROTOCOLS,
    Protocol,
    get_protocol,
    resolve_protocols,
)
from crossmodal_bench.evaluation.protocols.splits import KnownSplit, SplitItems, split_hash
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.ranking.classes import ClassRetrieval, class_retrieval
from crossmodal_bench.evaluation.ranking.precision import LabelPrecision, average_precision, label_precision
from crossmodal_bench.evaluation.ranking.ranks import Ranks, retrieval_ranks
from crossmodal_bench.evaluation.ranking.streaming import streamed_ranks
from crossmodal_bench.evaluation.statistics.comparisons import (
    Difference,
    PairedDifference,
    compare,
    compare_all,
    holm,
    tied_with_first,
)
from crossmodal_bench.evaluation.statistics.intervals import Interval, interval, intervals, model_intervals
from crossmodal_bench.evaluation.statistics.student_t import t_interval

if TYPE_CHECKING:
    from crossmodal_bench.evaluation.ranking.bank import RetrievalBank

__all__ = [
    "PROTOCOLS",
    "ClassRetrieval",
    "Difference",
    "Evaluation",
    "Interval",
    "KnownSplit",
    "LabelPrecision",
    "Metric",
    "PairedDifference",
    "Protocol",
    "QueryResults",
    "Ranks",
    "RetrievalBank",
    "SplitItems",
    "average_precision",
    "class_retrieval",
    "compare",
    "compare_all",
    "evaluate",
    "evaluate_all",
    "fold_metrics",
    "get_protocol",
    "hit_at_k",
    "holm",
    "interval",
    "intervals",
    "label_precision",
    "mean_rank",
    "median_rank",
    "model_intervals",
    "rank_metrics",
    "resolve_protocols",
    "retrieval_ranks",
    "split_hash",
    "streamed_ranks",
    "t_interval",
    "tied_with_first",
]


def __getattr__(name: str) -> Any:
    # torchmetrics takes longer to import than everything else here, and is not needed to read records,
    # protocols or statistics.
    if name == "RetrievalBank":
        from crossmodal_bench.evaluation.ranking.bank import RetrievalBank

        return RetrievalBank
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
