"""Everything that a protocol asks for, from two whole galleries of encodings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.evaluation.classes import ClassRetrieval, class_retrieval
from crossmodal_bench.evaluation.metrics import fold_metrics, fold_slices
from crossmodal_bench.evaluation.positives import CaptionImage, Identities, caption_owners
from crossmodal_bench.evaluation.precision import LabelPrecision, Labels, label_precision
from crossmodal_bench.evaluation.protocols import Protocol
from crossmodal_bench.evaluation.ranks import Ranks, write_results
from crossmodal_bench.evaluation.streaming import Reduce, streamed_ranks

_CUTOFFS = ((None, "mAP"), (50, "mAP@50"))


@dataclass(frozen=True)
class Evaluation:
    """Results under one protocol; groups that it doesn't ask for are absent.

    metrics: by key, recalls and AP@50 in percent, ranks 1-based, mAP a fraction.
    curves: 'i2t/precision_scope' and 't2i/precision_scope', each with 'scope' and 'precision'.
    ranks: per-query ranks; with folds, each query's rank inside its own fold.
    average_precision: per-query AP by key ('i2t/mAP', 't2i/mAP@50', ...), NaN where nothing is relevant.
    dropped: queries without a relevant item, by direction.
    classes: per-query results between images and classes.
    counts: how many images and texts were evaluated.
    """

    protocol: Protocol
    metrics: dict[str, float]
    curves: dict[str, dict[str, list[float]]]
    ranks: Ranks | None
    average_precision: dict[str, NDArray[np.float64]]
    dropped: dict[str, int]
    classes: ClassRetrieval | None
    counts: tuple[int, int]

    def save(self, path: Path | str, image_ids: Sequence[str], caption_ids: Sequence[str]) -> None:
        """Write the per-query results to an ``.npz``: the fields of Ranks, ``ap/<metric key>`` and
        ``class/<metric key>`` with ``class/labels``.
        """
        arrays: dict[str, NDArray[Any]] = self.ranks.arrays() if self.ranks is not None else {}
        arrays |= {f"ap/{key}": values for key, values in self.average_precision.items()}
        arrays |= self.classes.arrays() if self.classes is not None else {}
        write_results(path, arrays, image_ids, caption_ids, self.counts)


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
    for what, found, allowed in (
        ("images", len(images), protocol.image_counts),
        ("captions", len(texts), protocol.caption_counts),
    ):
        if allowed and found not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise ValueError(f"protocol '{protocol.name}' is over {wanted} {what}, got {found}")
    owner = caption_owners(caption_image, len(images), len(texts))
    if image_labels is None and (protocol.label_precision or protocol.class_level):
        raise ValueError(f"protocol '{protocol.name}' needs the images' labels")
    identities: NDArray[Any] | None = None
    if protocol.positives == "identity":
        if image_identities is None:
            raise ValueError(f"protocol '{protocol.name}' needs the images' identities")
        identities = np.asarray(image_identities)
    metrics: dict[str, float] = {}
    ranks = None
    precision = None
    if protocol.recall:
        folds = []
        for block in fold_slices(len(images), protocol.folds):
            columns = np.flatnonzero((owner >= block.start) & (owner < block.stop))
            whole = len(columns) == len(texts)
            fold = streamed_ranks(
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
            folds.append((block, columns, fold))
        metrics |= fold_metrics([(fold.i2t, fold.t2i) for _, _, fold in folds])
        ranks = folds[0][2] if len(folds) == 1 else _joined(folds, len(texts))
    if protocol.label_precision:
        labels = torch.as_tensor(image_labels)
        precision = label_precision(
            images,
            texts,
            score,
            labels,
            labels[torch.from_numpy(owner).to(labels.device)],
            cutoffs=[cutoff for cutoff, _ in _CUTOFFS],
            rank=rank,
            world_size=world_size,
            reduce=reduce,
            device=device,
        )
        metrics |= _precision_metrics(precision)
    classes = None
    if protocol.class_level:
        assert image_labels is not None
        classes = class_retrieval(
            images,
            texts,
            score,
            owner,
            image_labels,
            rank=rank,
            world_size=world_size,
            reduce=reduce,
            device=device,
        )
        metrics |= classes.metrics()
    return Evaluation(
        protocol=protocol,
        metrics=metrics,
        curves={} if precision is None else _curves(precision),
        ranks=ranks,
        average_precision={}
        if precision is None
        else {
            f"{side}/{key}": precision.average_precision[side][cutoff]
            for side in ("i2t", "t2i")
            for cutoff, key in _CUTOFFS
        },
        dropped={} if precision is None else dict(precision.dropped),
        classes=classes,
        counts=(len(images), len(texts)),
    )


def _precision_metrics(precision: LabelPrecision) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for cutoff, key in _CUTOFFS:
        i2t, t2i = precision.mean("i2t", cutoff), precision.mean("t2i", cutoff)
        metrics |= {f"i2t/{key}": i2t, f"t2i/{key}": t2i, key: (i2t + t2i) / 2}
    return metrics


def _curves(precision: LabelPrecision) -> dict[str, dict[str, list[float]]]:
    return {
        f"{side}/precision_scope": {
            "scope": [float(scope) for scope in precision.scopes[side]],
            "precision": precision.precision[side],
        }
        for side in ("i2t", "t2i")
    }


def _joined(folds: list[tuple[slice, NDArray[np.int64], Ranks]], n_texts: int) -> Ranks:
    """The folds' results side by side, queries and gallery items numbered as in the whole split."""
    back = np.empty(n_texts, dtype=np.int64)
    back[np.concatenate([columns for _, columns, _ in folds])] = np.arange(n_texts)
    ranks = [found for _, _, found in folds]
    k_texts = min(found.i2t_top.shape[1] for found in ranks)
    k_images = min(found.t2i_top.shape[1] for found in ranks)
    return Ranks(
        i2t=np.concatenate([found.i2t for found in ranks]),
        t2i=np.concatenate([found.t2i for found in ranks])[back],
        i2t_expected=np.concatenate([found.i2t_expected for found in ranks]),
        t2i_expected=np.concatenate([found.t2i_expected for found in ranks])[back],
        i2t_top=np.concatenate([columns[found.i2t_top[:, :k_texts]] for _, columns, found in folds]),
        t2i_top=np.concatenate([found.t2i_top[:, :k_images] + rows.start for rows, _, found in folds])[back],
        i2t_top_scores=np.concatenate([found.i2t_top_scores[:, :k_texts] for found in ranks]),
        t2i_top_scores=np.concatenate([found.t2i_top_scores[:, :k_images] for found in ranks])[back],
    )
