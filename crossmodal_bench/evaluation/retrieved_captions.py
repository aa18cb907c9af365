"""The quality of the captions that a model retrieves or generates for an image (GXN, Table 2)."""

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
    """The metrics of the captions that a model has generated for each image, against the image's own."""
    comparison = _compared(candidates, references)
    return {metric.key: metric.value(comparison) for metric in metric_table.of_family("written_captions")}


def retrieved_caption_quality(
    top: NDArray[np.int64], captions: Sequence[str], owner: NDArray[np.int64], folds: int = 1
) -> dict[str, float]:
    """The metrics of the captions at each of the top ranks, against all captions of the image.

    An image's references are all of its captions, including the retrieved one if it is one of them: the paper
    says "over five reference sentences".

    Args:
        top: (n_images, k) rows of captions by descending score.
        captions: M sentences.
        owner: (M,) the image of each.
        folds: blocks of images that are scored separately and averaged, like the protocol's recalls.

    Returns:
        Empty if an image has no caption.
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
    """Natural sentences, tokenised into words."""
    return CaptionComparison(
        candidates=[" ".join(tokenize(caption)) for caption in candidates],
        references=[[" ".join(tokenize(caption)) for caption in captions] for captions in references],
    )
