"""Retrieval between images and classes, where a class is the mean of its texts (fine-grained species)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.evaluation.ranking.positives import CaptionImage, caption_owners
from crossmodal_bench.evaluation.ranking.precision import (
    Labels,
    Measure,
    RankedRelevance,
    relevance_in_rank_order,
)
from crossmodal_bench.evaluation.ranking.streaming import Reduce, all_reduce_sum, maximum
from crossmodal_bench.evaluation.ranking.tiles import NonFiniteScore, ScoreTiles

_BLOCK = 4_000_000  # class x image pairs that are ranked together


@dataclass(frozen=True)
class ClassRetrieval:
    """Per-query results between images and classes.

    classes: (n_classes,) int64, ascending; the labels that the images have.
    per_class: by measure, (n_classes,) float64 for each class's ranking of the images.
    first: (n_images,) bool; whether an image's own class scores above every other.
    """

    classes: NDArray[np.int64]
    per_class: dict[str, NDArray[np.float64]]
    first: NDArray[np.bool_]


def own_class_first(first: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n_images,) hits: all that is kept of an image's ranking of the classes is whether its own is first."""
    return first


def class_retrieval(
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    caption_image: CaptionImage,
    image_labels: Labels,
    *,
    measures: Mapping[str, Measure],
    block: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> ClassRetrieval:
    """Class-level retrieval (Reed et al., CVPR 2016, section 4; TIMAM, ICCV 2019, Table 3).

    A class is the mean of the encodings of all texts whose image has that label. Text to image, a class is
    the query and all images are the gallery, and ``measures`` are applied to each class's ranking: the
    papers' AP@50 is ``precision_at`` of the 50 best-scored images. Image to text, an image is the query and
    the classes are the gallery. Ties count against the query, and scores are compared in fp32 at least.

    caption_image: (n_texts,) row of each text's image. image_labels: (n_images,) integers. ``block`` classes
    at a time are scored against all images (default: by memory); process ``rank`` takes each world_size-th
    block, and all processes return the same.

    Raises ValueError for texts that are not one vector each, labels that are not one class per image, and a
    non-finite score (its column is the class's, in ascending order).
    """
    if texts.lengths is not None or texts.values.ndim != 2:
        raise ValueError(
            "class-level retrieval averages the texts of a class, so each text must be one vector, but the "
            "method encodes texts as fragments"
        )
    labels = torch.as_tensor(image_labels).cpu()
    if labels.shape != (len(images),) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"class-level retrieval needs one integer label for each of {len(images)} images, "
            f"got {labels.dtype} {tuple(labels.shape)}"
        )
    owner = torch.from_numpy(caption_owners(caption_image, len(images), len(texts)))
    classes, own = torch.unique(labels, return_inverse=True)
    size = block if block is not None else max(1, min(512, _BLOCK // len(images)))
    means = class_means(texts, own[owner], len(classes))
    tiles = ScoreTiles(images, means, score, text_tile=size, device=device)
    total = reduce if reduce is not None else (all_reduce_sum if world_size > 1 else None)
    ranked, first = _rank_classes(
        tiles, own.to(tiles.device), len(classes), list(measures.values()), rank, world_size, total
    )
    per_class = dict(zip(measures, ranked.cpu().numpy(), strict=True))
    return ClassRetrieval(classes.long().numpy(), per_class, first.cpu().numpy())


def class_means(texts: Encoding, text_class: Tensor, n_classes: int) -> Encoding:
    """(n_classes, D) mean of the (n_texts, D) vectors of each class in range(n_classes); none is empty."""
    order = torch.argsort(text_class, stable=True).to(texts.values.device)
    counts = torch.bincount(text_class, minlength=n_classes).tolist()
    means = torch.stack([rows.double().mean(0) for rows in texts.values[order].split(counts)])
    return Encoding(means.to(torch.promote_types(texts.values.dtype, torch.float32)))


def _rank_classes(
    tiles: ScoreTiles,
    own: Tensor,
    n_classes: int,
    measures: list[Measure],
    rank: int,
    world_size: int,
    total: Reduce | None,
) -> tuple[Tensor, Tensor]:
    """(measures, n_classes) for each class's ranking, and (n_images,) whether the own class comes first."""
    n_images = len(own)
    query = torch.arange(n_images, device=own.device)
    measured = torch.zeros(len(measures), n_classes, dtype=torch.float64, device=own.device)
    right = torch.full((n_images,), -torch.inf, dtype=tiles.dtype, device=own.device)
    wrong = right.clone()
    # One row per process reports a failure to the others, which would otherwise wait in the sum forever.
    failed = torch.zeros(world_size, 2, dtype=torch.int64, device=own.device)
    for column in range(rank, len(tiles.columns), world_size):
        try:
            scores = torch.cat([tiles(row, column) for row in range(len(tiles.rows))])
        except NonFiniteScore as error:
            failed[rank] = torch.tensor([error.image + 1, error.text])
            break
        start, stop = tiles.columns[column]
        relevant = torch.arange(start, stop, device=own.device)[:, None] == own[None, :]
        ranking = RankedRelevance(relevance_in_rank_order(scores.T, relevant))
        for row, measure in zip(measured, measures, strict=True):
            row[start:stop] = measure(ranking)
        inside = query[(own >= start) & (own < stop)]
        right[inside] = scores[inside, own[inside] - start]
        rivals = scores.masked_fill(relevant.T, -torch.inf)
        wrong = torch.maximum(wrong, rivals.amax(1))
    if total is not None:
        failed, measured = total(failed), total(measured)
        right = maximum(total, right, rank, world_size)
        wrong = maximum(total, wrong, rank, world_size)
    for image, text in failed.tolist():
        if image:
            raise NonFiniteScore(image - 1, text)
    return measured, right > wrong
