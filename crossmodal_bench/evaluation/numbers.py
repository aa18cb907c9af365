"""What a record says of an evaluation; the same whoever has computed the vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossmodal_bench.evaluation.evaluate import Evaluation
from crossmodal_bench.evaluation.items import EvaluatedItems
from crossmodal_bench.evaluation.retrieved_captions import retrieved_caption_quality
from crossmodal_bench.evaluation.statistics.intervals import model_intervals


def numbers(evaluation: Evaluation, items: EvaluatedItems) -> dict[str, Any]:
    """The fields of ``jobs.record.Numbers``: metrics, their intervals, curves, and what a reader must know.

    Where there are sentences, and captions belong to images, the retrieved captions' quality is among the
    metrics.
    """
    retrieved: dict[str, float] = {}
    if (
        items.captions is not None
        and items.owner is not None
        and evaluation.ranks is not None
        and evaluation.protocol.positives in ("caption", "label")
    ):
        retrieved = retrieved_caption_quality(
            evaluation.ranks.i2t_top, items.captions, items.owner, evaluation.protocol.folds
        )
    return {
        "metrics": {**evaluation.metrics, **retrieved},
        "intervals": model_intervals(evaluation),
        "curves": evaluation.curves,
        "protocol_version": evaluation.protocol.version,
        "resembles": evaluation.protocol.resembles,
        "dropped": evaluation.dropped,
        "asked": evaluation.asked,
    }


def searched_groups(evaluation: Evaluation, items: EvaluatedItems) -> dict[str, int]:
    """Counts beside those of images and captions, of which depends what random scores reach."""
    counts: dict[str, int] = {}
    if evaluation.protocol.positives == "identity" and items.identities is not None:
        counts["identities"] = len(np.unique(items.identities))
    if evaluation.classes is not None:
        counts["classes"] = len(evaluation.classes)
    return counts
