"""Everything that a protocol asks for, from two whole galleries of encodings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.classes import ClassRetrieval, class_retrieval
from crossmodal_bench.evaluation.metric_table import SIDES, Family, Side
from crossmodal_bench.evaluation.metrics import fold_slices, mean_metrics
from crossmodal_bench.evaluation.positives import CaptionImage, Identities, caption_owners
from crossmodal_bench.evaluation.precision import LabelPrecision, Labels, label_precision
from crossmodal_bench.evaluation.protocols import Protocol
from crossmodal_bench.evaluation.ranks import Ranks, write_results
from crossmodal_bench.evaluation.streaming import Reduce, streamed_ranks

_STORED_AS: Mapping[Family, str] = {"label_precision": "ap", "class_level": "class"}
"""What stands before the keys of per-query results in their file; those of ranks follow from the ranks."""

PerQuery = dict[str, NDArray[np.float64]]
"""By a metric's key, (n_queries,) what it is the mean of."""


@dataclass(frozen=True)
class Evaluation:
    """Results under one protocol; families that it doesn't ask for are absent.

    metrics: by key, in the units of ``metric_table``.
    curves: 'i2t/precision_scope' and 't2i/precision_scope', each with 'scope' and 'precision'.
    ranks: per-query ranks; with folds, each query's rank inside its own fold.
    per_query: by the key of each metric that is a mean over queries, (n_queries,) what its function gives,
        NaN where a query doesn't count; with folds, in the order of the whole split.
    dropped: queries without a relevant item by label, by direction.
    classes: (n_classes,) the labels of the classes, which are the queries of class-level metrics.
    counts: how many images and texts were evaluated.
    """

    protocol: Protocol
    metrics: dict[str, float]
    curves: dict[str, dict[str, list[float]]]
    ranks: Ranks | None
    per_query: PerQuery
    dropped: dict[str, int]
    classes: NDArray[np.int64] | None
    counts: tuple[int, int]

    def save(self, path: Path | str, image_ids: Sequence[str], caption_ids: Sequence[str]) -> None:
        """Write the per-query results to an ``.npz``: the fields of Ranks, ``ap/<metric key>`` and
        ``class/<metric key>`` with ``class/labels``.
        """
        arrays: dict[str, NDArray[Any]] = self.ranks.arrays() if self.ranks is not None else {}
        if self.classes is not None:
            arrays["class/labels"] = self.classes
        for family, folder in _STORED_AS.items():
            if family in self.protocol.families:
                keys = [metric.key for metric in metric_table.computed(family)]
                arrays |= {f"{folder}/{key}": self.per_query[key] for key in keys}
        write_results(path, arrays, image_ids, caption_ids, self.counts)


@dataclass(frozen=True)
class _Fold:
    """Ranks of a block of images, whose rows are consecutive, among the block's own texts."""

    images: slice
    texts: NDArray[np.int64]
    ranks: Ranks


def evaluate(
    protocol: Protocol,
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    caption_image: CaptionImage,
    image_labels: Labels | None = None,
    image_identities: Identities | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> Evaluation:
    """Evaluate whole galleries under ``protocol``; every process returns the same.

    caption_image: (n_texts,) row of each text's image. image_labels: (n_images,) classes or (n_images, C)
    multi-hot; a text has its image's labels. image_identities: (n_images,) for positives by identity. Raises
    ValueError where counts are not the protocol's or labels or identities are missing, and whatever
    ``streamed_ranks``, ``label_precision`` and ``class_retrieval`` raise.
    """
    _check_counts(protocol, len(images), len(texts))
    owner = caption_owners(caption_image, len(images), len(texts))
    if image_labels is None and protocol.needs_labels:
        raise ValueError(f"protocol '{protocol.name}' needs the images' labels")
    identities: NDArray[Any] | None = None
    if protocol.positives == "identity":
        if image_identities is None:
            raise ValueError(f"protocol '{protocol.name}' needs the images' identities")
        identities = np.asarray(image_identities)
    metrics: dict[str, float] = {}
    per_query: PerQuery = {}
    ranks: Ranks | None = None
    precision: LabelPrecision | None = None
    classes: ClassRetrieval | None = None
    if "ranks" in protocol.families:
        folds = []
        for block in fold_slices(len(images), protocol.folds):
            columns = np.flatnonzero((owner >= block.start) & (owner < block.stop))
            whole = len(columns) == len(texts)
            ranks_of_fold = streamed_ranks(
                images[block],
                texts if whole else texts.take(torch.from_numpy(columns).to(texts.values.device)),
                score,
                owner[columns] - block.start,
                None if identities is None else identities[block],
                rank=rank,
                world_size=world_size,
                reduce=reduce,
                device=device,
            )
            folds.append(_Fold(block, columns, ranks_of_fold))
        metrics |= fold_metrics([(fold.ranks.i2t, fold.ranks.t2i) for fold in folds])
        ranks = folds[0].ranks if len(folds) == 1 else _joined(folds, len(texts))
        per_query |= _per_query_of_ranks(ranks.i2t, ranks.t2i)
    if "label_precision" in protocol.families:
        labels = torch.as_tensor(image_labels)
        precision = label_precision(
            images,
            texts,
            score,
            labels,
            labels[torch.from_numpy(owner).to(labels.device)],
            measures=_functions("label_precision"),
            rank=rank,
            world_size=world_size,
            reduce=reduce,
            device=device,
        )
        by_label = {
            metric.key: precision.per_query[side][metric.name]
            for side in SIDES
            for metric in metric_table.computed("label_precision", side)
        }
        metrics |= _averages("label_precision", by_label)
        per_query |= by_label
    if "class_level" in protocol.families:
        assert image_labels is not None
        classes = class_retrieval(
            images,
            texts,
            score,
            owner,
            image_labels,
            measures=_functions("class_level", "t2i"),
            rank=rank,
            world_size=world_size,
            reduce=reduce,
            device=device,
        )
        by_class = _per_query_of_classes(classes)
        metrics |= _averages("class_level", by_class)
        per_query |= by_class
    return Evaluation(
        protocol=protocol,
        metrics=metrics,
        curves={} if precision is None else _curves(precision),
        ranks=ranks,
        per_query=per_query,
        dropped={} if precision is None else dict(precision.dropped),
        classes=None if classes is None else classes.classes,
        counts=(len(images), len(texts)),
    )


def rank_metrics(i2t: NDArray[Any], t2i: NDArray[Any]) -> dict[str, float]:
    """The metrics of both directions' ranks, and the sums of recalls.

    Args:
        i2t: (n_images,) 1-based ranks of each image's best positive.
        t2i: (n_texts,) likewise of each text's.
    """
    ranks: dict[Side, NDArray[Any]] = {"i2t": i2t, "t2i": t2i}
    metrics = {
        metric.key: metric.value(ranks[side])
        for side in SIDES
        for metric in metric_table.computed("ranks", side)
    }
    return metrics | dict(metric_table.combinations(metrics, ["ranks"]))


def fold_metrics(folds: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> dict[str, float]:
    """``rank_metrics`` of each fold's own ranks (i2t, t2i), each metric averaged over the folds."""
    return mean_metrics([rank_metrics(i2t, t2i) for i2t, t2i in folds])


def _check_counts(protocol: Protocol, images: int, captions: int) -> None:
    """ValueError where the galleries are not of the protocol's size."""
    if protocol.images is not None and images != protocol.images:
        raise ValueError(f"protocol '{protocol.name}' is over {protocol.images} images, got {images}")
    if protocol.captions and captions not in protocol.captions:
        allowed = " or ".join(map(str, protocol.captions))
        raise ValueError(f"protocol '{protocol.name}' is over {allowed} captions, got {captions}")


def _functions(family: Family, side: Side | None = None) -> dict[str, Any]:
    """By name, what the family's metrics are computed with; a name has one function in both directions."""
    return {metric.name: metric.function for metric in metric_table.computed(family, side)}


def _per_query_of_ranks(i2t: NDArray[np.int64], t2i: NDArray[np.int64]) -> PerQuery:
    ranks: dict[Side, NDArray[np.int64]] = {"i2t": i2t, "t2i": t2i}
    return {
        metric.key: np.asarray(metric.function(ranks[side]), dtype=np.float64)
        for side in SIDES
        for metric in metric_table.computed("ranks", side)
        if metric.function is not None and metric.per_query
    }


def _per_query_of_classes(classes: ClassRetrieval) -> PerQuery:
    per_query: PerQuery = {}
    for metric in metric_table.computed("class_level"):
        if metric.queries == "classes":
            per_query[metric.key] = classes.per_class[metric.name]
        elif metric.function is not None:
            per_query[metric.key] = np.asarray(metric.function(classes.first), dtype=np.float64)
    return per_query


def _averages(family: Family, per_query: PerQuery) -> dict[str, float]:
    """The family's means over queries and their combinations, in the table's order."""
    means = {metric.key: metric.average(per_query[metric.key]) for metric in metric_table.computed(family)}
    metrics = means | dict(metric_table.combinations(means, [family]))
    return {metric.key: metrics[metric.key] for metric in metric_table.of_family(family)}


def _curves(precision: LabelPrecision) -> dict[str, dict[str, list[float]]]:
    return {
        f"{side}/precision_scope": {
            "scope": [float(scope) for scope in precision.scopes[side]],
            "precision": precision.precision[side],
        }
        for side in SIDES
    }


def _joined(folds: Sequence[_Fold], n_texts: int) -> Ranks:
    """The folds' results side by side, queries and gallery items numbered as in the whole split."""
    back = np.empty(n_texts, dtype=np.int64)
    back[np.concatenate([fold.texts for fold in folds])] = np.arange(n_texts)
    ranks = [fold.ranks for fold in folds]
    k_texts = min(part.i2t_top.shape[1] for part in ranks)
    k_images = min(part.t2i_top.shape[1] for part in ranks)
    return Ranks(
        i2t=np.concatenate([part.i2t for part in ranks]),
        t2i=np.concatenate([part.t2i for part in ranks])[back],
        i2t_expected=np.concatenate([part.i2t_expected for part in ranks]),
        t2i_expected=np.concatenate([part.t2i_expected for part in ranks])[back],
        i2t_top=np.concatenate([fold.texts[fold.ranks.i2t_top[:, :k_texts]] for fold in folds]),
        t2i_top=np.concatenate([fold.ranks.t2i_top[:, :k_images] + fold.images.start for fold in folds])[
            back
        ],
        i2t_top_scores=np.concatenate([part.i2t_top_scores[:, :k_texts] for part in ranks]),
        t2i_top_scores=np.concatenate([part.t2i_top_scores[:, :k_images] for part in ranks])[back],
    )
