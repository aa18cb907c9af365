"""Everything that a protocol asks for, computed from two complete galleries of encodings."""

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
from crossmodal_bench.evaluation.metric_table import SIDES, Family
from crossmodal_bench.evaluation.metrics import fold_slices, mean_metrics
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.ranking.classes import ClassRetrieval, class_retrieval
from crossmodal_bench.evaluation.ranking.positive_ranks import PositiveRanks
from crossmodal_bench.evaluation.ranking.positives import (
    CaptionImage,
    Identities,
    PositivePairs,
    caption_owners,
)
from crossmodal_bench.evaluation.ranking.precision import LabelPrecision, Labels, label_precision
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks, Side
from crossmodal_bench.evaluation.ranking.ranks import Ranks, write_results
from crossmodal_bench.evaluation.ranking.streaming import Question, Reduce, Sweep, streamed_sweeps
from crossmodal_bench.evaluation.stored_results import PerQuery, per_query_of_ranks, stored_per_query


@dataclass(frozen=True)
class Evaluation:
    """Results under one protocol; families that it does not include are absent.

    metrics: by key, in the units of ``metric_table``.
    curves: 'i2t/precision_scope' and 't2i/precision_scope', each with 'scope' and 'precision'.
    ranks: per-query ranks; with folds, each query's rank within its own fold.
    per_query: by the key of each metric that is a mean over queries, (n_queries,) the values of its function,
        NaN if a query doesn't count; with folds, in the order of the whole split.
    dropped: number of queries without a relevant item by label, by direction.
    asked: if positives are pairs, by direction: the numbers of items in the 'gallery', of 'queries', and of
        'positives' that all of them can find together; else empty.
    classes: (n_classes,) the labels of the classes, which are the queries of class-level metrics.
    image_cluster, text_cluster: (n_images,), (n_texts,) int64; queries with the same number are not
        independent: they belong to one image, or to one identity if positives are by identity.
    """

    protocol: Protocol
    metrics: dict[str, float]
    curves: dict[str, dict[str, list[float]]]
    ranks: Ranks | None
    per_query: PerQuery
    dropped: dict[str, int]
    asked: dict[str, dict[str, int]]
    classes: NDArray[np.int64] | None
    image_cluster: NDArray[np.int64]
    text_cluster: NDArray[np.int64]

    @property
    def counts(self) -> tuple[int, int]:
        """The numbers of images and texts evaluated."""
        return len(self.image_cluster), len(self.text_cluster)

    @property
    def query_results(self) -> QueryResults:
        """The results from which intervals and comparisons are computed."""
        return QueryResults(self.per_query, self.image_cluster, self.text_cluster, self.protocol.families)

    def save(self, path: Path | str, image_ids: Sequence[str], caption_ids: Sequence[str]) -> None:
        """Write the per-query results to an ``.npz``: the fields of Ranks, ``positives/<metric key>``,
        ``ap/<metric key>`` and ``class/<metric key>`` with ``class/labels``.
        """
        arrays: dict[str, NDArray[Any]] = self.ranks.arrays() if self.ranks is not None else {}
        if self.classes is not None:
            arrays["class/labels"] = self.classes
        arrays |= {"image_cluster": self.image_cluster, "text_cluster": self.text_cluster}
        arrays |= stored_per_query(self.per_query, self.protocol.families)
        write_results(path, arrays, image_ids, caption_ids, self.counts)


@dataclass(frozen=True)
class _Fold:
    """Ranks within a block of consecutive images and the block's own texts.

    texts: (n,) rows of the texts, ascending.
    positives: the ranks of every positive, if they are required.
    """

    images: slice
    texts: NDArray[np.int64]
    ranks: Ranks
    positives: Mapping[Side, PositiveRanks]


def evaluate(
    protocol: Protocol,
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    caption_image: CaptionImage | None,
    image_labels: Labels | None = None,
    image_identities: Identities | None = None,
    *,
    positives: PositivePairs | None = None,
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> Evaluation:
    """``evaluate_all`` for a single protocol; ``positives`` are its pairs, if it uses pairs.

    Examples:
        >>> import torch
        >>> from crossmodal_bench.evaluation.protocols.protocol import own_protocol
        >>> items = Encoding(torch.eye(50))
        >>> dot = lambda images, texts: images.values @ texts.values.T
        >>> evaluate(own_protocol("mine"), items, items, dot, caption_image=torch.arange(50)).metrics["rsum"]
        600.0
    """
    (evaluation,) = evaluate_all(
        [protocol],
        images,
        texts,
        score,
        caption_image,
        image_labels,
        image_identities,
        positives=[positives],
        rank=rank,
        world_size=world_size,
        reduce=reduce,
        device=device,
    )
    return evaluation


def evaluate_all(
    protocols: Sequence[Protocol],
    images: Encoding,
    texts: Encoding,
    score: Scorer,
    caption_image: CaptionImage | None,
    image_labels: Labels | None = None,
    image_identities: Identities | None = None,
    *,
    positives: Sequence[PositivePairs | None],
    rank: int = 0,
    world_size: int = 1,
    reduce: Reduce | None = None,
    device: torch.device | str | None = None,
) -> list[Evaluation]:
    """Evaluate complete galleries under several protocols; every process returns the same.

    Protocols that rank the same galleries share one sweep over the scores.

    caption_image: (n_texts,) row of each text's image. image_labels: (n_images,) classes or (n_images, C)
    multi-hot; a text has its image's labels. image_identities: (n_images,) for positives by identity.
    positives: for each protocol, its pairs, or None if it does not use pairs. ``caption_image`` may be None
    if all of them do and nothing is computed by label or by folds.

    Raises ValueError if the counts don't match a protocol, or labels, identities or pairs are missing, and
    whatever ``streamed_sweeps``, ``label_precision`` and ``class_retrieval`` raise.
    """
    owner = None if caption_image is None else caption_owners(caption_image, len(images), len(texts))
    identities = None if image_identities is None else np.asarray(image_identities)
    for protocol, pairs in zip(protocols, positives, strict=True):
        _check_counts(protocol, len(images), len(texts))
        _check_given(protocol, pairs, owner, image_labels, identities)
    galleries = _Galleries(images, texts, score, owner, rank, world_size, reduce, device)
    folds = galleries.ranked(protocols, positives, identities)
    return [
        galleries.evaluated(
            protocol,
            folds_of_protocol,
            image_labels,
            identities if protocol.positives == "identity" else None,
            pairs,
        )
        for protocol, pairs, folds_of_protocol in zip(protocols, positives, folds, strict=True)
    ]


@dataclass(frozen=True)
class _Galleries:
    """Both galleries, how they are scored, and this process's rank among the others; see ``evaluate_all``."""

    images: Encoding
    texts: Encoding
    score: Scorer
    owner: NDArray[np.int64] | None
    rank: int
    world_size: int
    reduce: Reduce | None
    device: torch.device | str | None

    def ranked(
        self,
        protocols: Sequence[Protocol],
        positives: Sequence[PositivePairs | None],
        identities: NDArray[Any] | None,
    ) -> list[list[_Fold]]:
        """The folds of each protocol, or its only one; none if it asks for no ranks."""
        folds: list[list[_Fold]] = [[] for _ in protocols]
        together: dict[str, list[int]] = {}
        for number, protocol in enumerate(protocols):
            if not {"ranks", "all_positives"}.intersection(protocol.families):
                continue
            if protocol.folds > 1:
                folds[number] = self._folds(protocol, positives[number], identities)
                continue
            # Questions of one kind share an item order. Without owners, pairs have an order of their own.
            kind = "identity" if protocol.positives == "identity" else "owner"
            together.setdefault(f"{number}" if self.owner is None else kind, []).append(number)
        for numbers in together.values():
            sweeps = self._swept(
                self.images,
                self.texts,
                self.owner,
                [_question(protocols[number], positives[number], identities) for number in numbers],
            )
            for number, sweep in zip(numbers, sweeps, strict=True):
                everything = slice(0, len(self.images))
                whole = _Fold(everything, np.arange(len(self.texts)), sweep.ranks, sweep.positives)
                folds[number] = [whole]
        return folds

    def _folds(
        self, protocol: Protocol, pairs: PositivePairs | None, identities: NDArray[Any] | None
    ) -> list[_Fold]:
        assert self.owner is not None
        folds = []
        for block in fold_slices(len(self.images), protocol.folds):
            columns = np.flatnonzero((self.owner >= block.start) & (self.owner < block.stop))
            question = _question(
                protocol,
                None if pairs is None else pairs.among(block, columns),
                None if identities is None else identities[block],
            )
            (sweep,) = self._swept(
                self.images[block],
                self.texts.take(torch.from_numpy(columns).to(self.texts.values.device)),
                self.owner[columns] - block.start,
                [question],
            )
            folds.append(_Fold(block, columns, sweep.ranks, sweep.positives))
        return folds

    def _swept(
        self,
        images: Encoding,
        texts: Encoding,
        owner: NDArray[np.int64] | None,
        questions: Sequence[Question],
    ) -> list[Sweep]:
        return streamed_sweeps(
            images,
            texts,
            self.score,
            owner,
            questions,
            rank=self.rank,
            world_size=self.world_size,
            reduce=self.reduce,
            device=self.device,
        )

    def evaluated(
        self,
        protocol: Protocol,
        folds: Sequence[_Fold],
        image_labels: Labels | None,
        identities: NDArray[Any] | None,
        positives: PositivePairs | None,
    ) -> Evaluation:
        """All that a protocol asks for."""
        owner = self.owner
        metrics: dict[str, float] = {}
        per_query: PerQuery = {}
        ranks: Ranks | None = None
        precision: LabelPrecision | None = None
        classes: ClassRetrieval | None = None
        if "ranks" in protocol.families:
            metrics |= fold_metrics([(fold.ranks.of("i2t"), fold.ranks.of("t2i")) for fold in folds])
            ranks = folds[0].ranks if len(folds) == 1 else _joined(folds, len(self.texts))
            per_query |= per_query_of_ranks({side: ranks.of(side) for side in SIDES})
        if "all_positives" in protocol.families:
            # Protocols with folds never include these.
            (fold,) = folds
            of_positives = _per_query_of_positives(fold.positives)
            metrics |= _averages("all_positives", of_positives)
            per_query |= of_positives
        if "label_precision" in protocol.families:
            assert owner is not None
            labels = torch.as_tensor(image_labels)
            precision = label_precision(
                self.images,
                self.texts,
                self.score,
                labels,
                labels[torch.from_numpy(owner).to(labels.device)],
                measures=_functions("label_precision"),
                rank=self.rank,
                world_size=self.world_size,
                reduce=self.reduce,
                device=self.device,
            )
            by_label = {
                metric.key: precision.per_query[side][metric.name]
                for side in SIDES
                for metric in metric_table.computed("label_precision", side)
            }
            metrics |= _averages("label_precision", by_label)
            per_query |= by_label
        if "class_level" in protocol.families:
            assert image_labels is not None and owner is not None
            classes = class_retrieval(
                self.images,
                self.texts,
                self.score,
                owner,
                image_labels,
                measures=_functions("class_level", "t2i"),
                rank=self.rank,
                world_size=self.world_size,
                reduce=self.reduce,
                device=self.device,
            )
            by_class = _per_query_of_classes(classes)
            metrics |= _averages("class_level", by_class)
            per_query |= by_class
        n_images, n_texts = len(self.images), len(self.texts)
        image_cluster, text_cluster = clusters(owner, identities, n_images, n_texts)
        return Evaluation(
            protocol=protocol,
            metrics=metrics,
            curves={} if precision is None else _curves(precision),
            ranks=ranks,
            per_query=per_query,
            dropped={} if precision is None else dict(precision.dropped),
            asked={} if positives is None else _asked(positives, n_images, n_texts),
            classes=None if classes is None else classes.classes,
            image_cluster=image_cluster,
            text_cluster=text_cluster,
        )


def _question(protocol: Protocol, pairs: PositivePairs | None, identities: NDArray[Any] | None) -> Question:
    return Question(
        image_identity=identities if protocol.positives == "identity" else None,
        positives=pairs,
        every_positive="all_positives" in protocol.families,
    )


def clusters(
    owner: NDArray[np.int64] | None, identities: NDArray[Any] | None, n_images: int, n_texts: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(n_images,), (n_texts,): which queries belong together, by image, or by identity if there are any.

    Texts that belong to no image are independent of everything else.
    """
    image = np.arange(n_images)
    if identities is not None:
        image = np.unique(identities, return_inverse=True)[1].astype(np.int64)
    return image, np.arange(n_images, n_images + n_texts) if owner is None else image[owner]


def rank_metrics(i2t: QueryRanks, t2i: QueryRanks) -> dict[str, float]:
    """The metrics of both directions' ranks, image to text and text to image, and the sums of recalls."""
    ranks: dict[Side, QueryRanks] = {"i2t": i2t, "t2i": t2i}
    metrics = {
        metric.key: metric.value(ranks[side])
        for side in SIDES
        for metric in metric_table.computed("ranks", side)
    }
    return metrics | dict(metric_table.combinations(metrics, ["ranks"]))


def fold_metrics(folds: Sequence[tuple[QueryRanks, QueryRanks]]) -> dict[str, float]:
    """``rank_metrics`` of each fold's own ranks (i2t, t2i), with each metric averaged over the folds."""
    return mean_metrics([rank_metrics(i2t, t2i) for i2t, t2i in folds])


def _check_counts(protocol: Protocol, images: int, captions: int) -> None:
    """ValueError if the galleries don't have the protocol's size."""
    if protocol.images is not None and images != protocol.images:
        raise ValueError(f"protocol '{protocol.name}' needs {protocol.images} images, got {images}")
    if protocol.captions and captions not in protocol.captions:
        allowed = " or ".join(map(str, protocol.captions))
        raise ValueError(f"protocol '{protocol.name}' needs {allowed} captions, got {captions}")


def _check_given(
    protocol: Protocol,
    positives: PositivePairs | None,
    owner: NDArray[np.int64] | None,
    image_labels: Labels | None,
    identities: NDArray[Any] | None,
) -> None:
    """ValueError if something that the protocol needs is missing, or pairs are given that it doesn't use."""
    name = protocol.name
    if owner is None and (protocol.needs_labels or protocol.folds > 1 or protocol.positives != "pairs"):
        raise ValueError(f"protocol '{name}' needs the image of each caption")
    if image_labels is None and protocol.needs_labels:
        raise ValueError(f"protocol '{name}' needs the images' labels")
    if identities is None and protocol.positives == "identity":
        raise ValueError(f"protocol '{name}' needs the images' identities")
    if (protocol.positives == "pairs") != (positives is not None):
        needed = (
            "needs positive pairs"
            if positives is None
            else f"defines positives by {protocol.positives}, not by pairs"
        )
        raise ValueError(f"protocol '{name}' {needed}")


def _functions(family: Family, side: Side | None = None) -> dict[str, Any]:
    """The functions of the family's metrics, by name; a name has the same function in both directions."""
    return {metric.name: metric.function for metric in metric_table.computed(family, side)}


def _per_query_of_classes(classes: ClassRetrieval) -> PerQuery:
    per_query: PerQuery = {}
    for metric in metric_table.computed("class_level"):
        if metric.queries == "classes":
            per_query[metric.key] = classes.per_class[metric.name]
        elif metric.function is not None:
            per_query[metric.key] = np.asarray(metric.function(classes.first), dtype=np.float64)
    return per_query


def _per_query_of_positives(positives: Mapping[Side, PositiveRanks]) -> PerQuery:
    return {
        metric.key: np.asarray(metric.function(positives[side]), dtype=np.float64)
        for side in SIDES
        for metric in metric_table.computed("all_positives", side)
        if metric.function is not None
    }


def _asked(positives: PositivePairs, n_images: int, n_texts: int) -> dict[str, dict[str, int]]:
    """The field ``asked`` of Evaluation; with folds, as if the gallery were undivided."""
    of_images, of_texts = positives.counts()
    n_searched = n_texts if positives.left_out is None else n_texts - int(positives.left_out.sum())
    return {
        side: {"gallery": gallery, "queries": queries, "positives": count}
        for side, gallery, (queries, count) in (("i2t", n_searched, of_images), ("t2i", n_images, of_texts))
    }


def _averages(family: Family, per_query: PerQuery) -> dict[str, float]:
    """The family's means over queries and their combinations, in the order of the table."""
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
    """The folds' results joined, with queries and gallery items numbered as in the whole split."""
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
        i2t_tied=np.concatenate([part.i2t_tied for part in ranks]),
        t2i_tied=np.concatenate([part.t2i_tied for part in ranks])[back],
        i2t_tied_positives=np.concatenate([part.i2t_tied_positives for part in ranks]),
        t2i_tied_positives=np.concatenate([part.t2i_tied_positives for part in ranks])[back],
        i2t_top=np.concatenate([fold.texts[fold.ranks.i2t_top[:, :k_texts]] for fold in folds]),
        t2i_top=np.concatenate([fold.ranks.t2i_top[:, :k_images] + fold.images.start for fold in folds])[
            back
        ],
        i2t_top_scores=np.concatenate([part.i2t_top_scores[:, :k_texts] for part in ranks]),
        t2i_top_scores=np.concatenate([part.t2i_top_scores[:, :k_images] for part in ranks])[back],
    )
