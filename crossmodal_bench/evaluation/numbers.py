"""A record's account of an evaluation, the same wherever the vectors come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from crossmodal_bench.evaluation.evaluate import Evaluation
from crossmodal_bench.evaluation.items import EvaluatedItems
from crossmodal_bench.evaluation.retrieved_captions import retrieved_caption_quality
from crossmodal_bench.evaluation.statistics.intervals import model_intervals


def numbers(evaluation: Evaluation, items: EvaluatedItems) -> dict[str, Any]:
    """The fields of ``jobs.record.Numbers``: metrics, their intervals, curves, and what readers must know.

    If there are sentences, and captions belong to images, the metrics include the quality of the retrieved
    captions.
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
    """Counts, in addition to those of images and captions, on which the chance level depends."""
    counts: dict[str, int] = {}
    if evaluation.protocol.positives == "identity" and items.identities is not None:
        counts["identities"] = len(np.unique(items.identities))
    if evaluation.classes is not None:
        counts["classes"] = len(evaluation.classes)
    return counts
