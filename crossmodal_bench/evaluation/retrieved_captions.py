"""How good the captions are that a model retrieves for an image, or writes (GXN, Table 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.data.language.words import tokenize
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.captions import CaptionComparison
from crossmodal_bench.evaluation.metrics import fold_slices, mean_metrics


def written_caption_quality(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """The metrics of a caption that a model has written for each image, against the image's own captions."""
    comparison = _compared(candidates, references)
    return {metric.key: metric.value(comparison) for metric in metric_table.of_family("written_captions")}


def retrieved_caption_quality(
    top: NDArray[np.int64], captions: Sequence[str], owner: NDArray[np.int64], folds: int = 1
) -> dict[str, float]:
    """The metrics of the captions at each of the first ranks, against all captions of the image.

    An image's references are all of its captions, the retrieved one included where it is one of them: the
    paper says "over five reference sentences".

    Args:
        top: (n_images, k) rows of captions by descending score.
        captions: M sentences.
        owner: (M,) the image of each.
        folds: blocks of images that are scored by themselves and averaged, as the protocol's recalls are.

    Returns:
        Empty where an image has no caption.
    """
    references: list[list[str]] = [[] for _ in top]
    for row, image in enumerate(owner):
        references[image].append(captions[row])
    if not all(references):
        return {}
    qualities: dict[str, float] = {}
    blocks = fold_slices(len(top), folds)
    for rank, rows in enumerate(top.T, start=1):
        metrics = [
            metric for metric in metric_table.of_family("retrieved_captions") if metric.caption_rank == rank
        ]
        if not metrics:
            continue
        retrieved = [captions[row] for row in rows]
        comparisons = [_compared(retrieved[block], references[block]) for block in blocks]
        qualities |= mean_metrics(
            [{metric.key: metric.value(comparison) for metric in metrics} for comparison in comparisons]
        )
    return qualities


def _compared(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionComparison:
    """Sentences as people write them, as words."""
    return CaptionComparison(
        candidates=[" ".join(tokenize(caption)) for caption in candidates],
        references=[[" ".join(tokenize(caption)) for caption in captions] for captions in references],
    )
