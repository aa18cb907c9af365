"""Every metric that is computed, printed, plotted or compared: the one table that all other modules read.

A new metric is a function, and an entry in ``ENTRIES`` that names it. What the function receives depends on
the entry's family:

    ranks               ``query_ranks.QueryRanks`` of the entry's direction: the rank of each query's best
                        positive, and the items tied with it
    all_positives       ``positive_ranks.PositiveRanks`` of the entry's direction: the rank of every positive
    label_precision     ``precision.RankedRelevance``, a block of queries with their galleries in rank order
    class_level         likewise for text to image, where the queries are classes; for image to text, (n,)
                        whether the image's own class scores above every other
    retrieved_captions  ``captions.CaptionComparison`` of the captions at one rank for each image
    written_captions    ``captions.CaptionComparison`` of the captions that a model has generated

Its evaluation, interval, place in a leaderboard, digits, unit, chance level and axis label follow
from the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation.captions import bleu, cider
from crossmodal_bench.evaluation.chance import (
    Search,
    expected_class_share,
    expected_hit,
    expected_positive_share,
    expected_precision,
)
from crossmodal_bench.evaluation.metrics import hit_at_k, mean_rank, median_rank
from crossmodal_bench.evaluation.ranking.classes import own_class_first
from crossmodal_bench.evaluation.ranking.positive_ranks import average_precision_at_r, r_precision
from crossmodal_bench.evaluation.ranking.precision import average_precision, precision_at
from crossmodal_bench.evaluation.ranking.query_ranks import Side

Family = Literal[
    "ranks", "all_positives", "label_precision", "class_level", "retrieved_captions", "written_captions"
]
Number = TypeVar("Number", float, NDArray[np.float64])

SIDES: Mapping[Side, str] = {"i2t": "image → text", "t2i": "text → image"}
"""The directions of retrieval, as keys of metrics and as titles."""

RANKED_FAMILIES: tuple[Family, ...] = ("ranks", "all_positives", "label_precision", "class_level")
"""The families that a protocol can include."""

LABELLED_FAMILIES: tuple[Family, ...] = ("label_precision", "class_level")
"""The families that need the images' labels."""


@dataclass(frozen=True)
class Unit:
    """How a metric's values are displayed.

    Attributes:
        text: the unit, as shown on an axis.
        digits: decimals of a printed value.
        scale: factor applied to the function's value.
    """

    text: str
    digits: int
    scale: float = 1.0


PERCENT = Unit("%", digits=1, scale=100.0)
FRACTION = Unit("fraction", digits=3)
RANK = Unit("rank", digits=1)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric of one direction, or one that combines others.

    Attributes:
        name: without its direction.
        family: what it is computed from; see the module's docstring.
        unit: of its values.
        function: computes it, in the unit divided by the unit's scale; None for a combination.
        per_query: whether ``function`` returns a number for each query (NaN: the query doesn't count), whose
            mean is the metric, or the metric itself. Only means over queries have intervals.
        side: the direction; None for a combination of both, and for captions.
        terms: the keys of the metrics to combine, in the order of their summation; same family.
        combination: how the terms are combined.
        caption_rank: for retrieved captions, their rank.
        lower_is_better: true for ranks.
        chance: its expected value for random scores, in the unit divided by the unit's scale, if known.
        shows_learning: whether this metric of its direction is used to compare a run with chance.
        main_column: whether it is a column of leaderboards ranked by a metric of its family.
        summary: whether it represents its family: where the family's other metrics are not shown, and as the
            primary metric if no protocol defines one.
        published: whether papers report it, so that tables of published numbers may contain it.
    """

    name: str
    family: Family
    unit: Unit
    function: Callable[[Any], Any] | None = None
    per_query: bool = True
    side: Side | None = None
    terms: tuple[str, ...] = ()
    combination: Literal["sum", "mean"] = "sum"
    caption_rank: int = 1
    lower_is_better: bool = False
    chance: Callable[[Search], float] | None = None
    shows_learning: bool = False
    main_column: bool = False
    summary: bool = False
    published: bool = True

    @property
    def key(self) -> str:
        """Its name in evaluations, records and tables."""
        if self.family == "written_captions":
            return f"written/{self.name}"
        if self.side is not None:
            return f"{self.side}/{self.name}"
        return self.name if self.caption_rank == 1 else f"{self.name}@{self.caption_rank}"

    @property
    def axis_label(self) -> str:
        """The label of an axis: the key and the unit."""
        return f"{self.key} ({self.unit.text})"

    @property
    def queries(self) -> Literal["images", "texts", "classes"]:
        """The kind of query in its direction."""
        if self.side == "i2t":
            return "images"
        return "classes" if self.family == "class_level" else "texts"

    def value(self, results: Any) -> float:
        """The metric, from the input of its function."""
        assert self.function is not None
        result = self.function(results)
        return self.average(result) if self.per_query else self.unit.scale * float(result)

    def average(self, per_query: NDArray[Any]) -> float:
        """The metric, from its function's values for each query."""
        return self.unit.scale * float(np.nanmean(per_query))

    def combined(self, terms: Sequence[Number]) -> Number:
        """The sum or mean of its terms' values, or of arrays of them."""
        # Term by term, like Python's sum: another order would change the last digits.
        total: Number = sum(terms[1:], start=terms[0])
        return total / len(terms) if self.combination == "mean" else total

    def chance_level(self, search: Search) -> float | None:
        """Its expected value for random scores, in its unit; None if unknown."""
        return None if self.chance is None else self.unit.scale * self.chance(search)


def _each_side(*metrics: Metric) -> tuple[Metric, ...]:
    """The metrics of one direction, then those of the other."""
    return tuple(replace(metric, side=side) for side in SIDES for metric in metrics)


def _recall(k: int, *, shows_learning: bool = False) -> Metric:
    return Metric(
        name=f"R@{k}",
        family="ranks",
        unit=PERCENT,
        function=partial(hit_at_k, k=k),
        chance=partial(expected_hit, k=k),
        shows_learning=shows_learning,
        main_column=True,
    )


_OF_RANKS = _each_side(
    _recall(1),
    _recall(5),
    # In the smallest galleries, the R@1 of a model that has learned something is still within chance.
    _recall(10, shows_learning=True),
    Metric(
        name="MedR",
        family="ranks",
        unit=RANK,
        function=median_rank,
        per_query=False,
        lower_is_better=True,
    ),
    Metric(
        name="MeanR",
        family="ranks",
        unit=RANK,
        function=mean_rank,
        per_query=False,
        lower_is_better=True,
    ),
)

_OF_CLASSES = (
    Metric(
        name="AP@50",
        family="class_level",
        side="t2i",
        unit=PERCENT,
        function=partial(precision_at, cutoff=50),
        chance=expected_class_share,
        shows_learning=True,
        main_column=True,
    ),
    Metric(
        name="R@1",
        family="class_level",
        side="i2t",
        unit=PERCENT,
        function=own_class_first,
        chance=expected_class_share,
        shows_learning=True,
        main_column=True,
    ),
)

_SUMS_OF_RECALLS = (
    Metric(
        name="rsum",
        family="ranks",
        unit=Unit("sum of six recalls in %", digits=1),
        terms=("i2t/R@1", "i2t/R@5", "i2t/R@10", "t2i/R@1", "t2i/R@5", "t2i/R@10"),
        main_column=True,
        summary=True,
    ),
    # GXN's (Gu et al., CVPR 2018).
    Metric(
        name="sum",
        family="ranks",
        unit=Unit("sum of four recalls in %", digits=1),
        terms=("i2t/R@1", "i2t/R@10", "t2i/R@1", "t2i/R@10"),
    ),
)


_OF_ALL_POSITIVES = (
    *_each_side(
        Metric(
            name="R-Precision",
            family="all_positives",
            unit=PERCENT,
            function=r_precision,
            chance=expected_positive_share,
            main_column=True,
        ),
        Metric(
            name="mAP@R",
            family="all_positives",
            unit=PERCENT,
            function=average_precision_at_r,
            main_column=True,
        ),
    ),
    Metric(
        name="mAP@R",
        family="all_positives",
        unit=PERCENT,
        terms=("i2t/mAP@R", "t2i/mAP@R"),
        combination="mean",
        main_column=True,
        summary=True,
    ),
)


def _label_precision(
    name: str,
    cutoff: int | None = None,
    chance: Callable[[Search], float] | None = None,
    *,
    shows_learning: bool = False,
    summary: bool = False,
) -> tuple[Metric, ...]:
    """Average precision in both directions, and the mean of the two."""
    metric = Metric(
        name=name,
        family="label_precision",
        unit=FRACTION,
        function=partial(average_precision, cutoff=cutoff),
        chance=chance,
        shows_learning=shows_learning,
        main_column=True,
    )
    directions = _each_side(metric)
    mean = Metric(
        name=name,
        family="label_precision",
        unit=FRACTION,
        terms=tuple(direction.key for direction in directions),
        combination="mean",
        main_column=True,
        summary=summary,
    )
    return (*directions, mean)


def _caption_quality(name: str, function: Callable[[Any], float]) -> Metric:
    return Metric(name=name, family="retrieved_captions", unit=PERCENT, function=function, per_query=False)


_CAPTIONS = (
    _caption_quality("BLEU-1", partial(bleu, order=1)),
    _caption_quality("BLEU-2", partial(bleu, order=2)),
    _caption_quality("BLEU-3", partial(bleu, order=3)),
    _caption_quality("BLEU-4", partial(bleu, order=4)),
    _caption_quality("CIDEr", cider),
)


def _retrieved(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics of the captions at ranks 1 to 5, as in GXN's Table 2."""
    return tuple(replace(metric, caption_rank=rank) for metric in metrics for rank in range(1, 6))


def _written(metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics of the captions that a model generates, which no paper reports."""
    return tuple(replace(metric, family="written_captions", published=False) for metric in metrics)


ENTRIES: tuple[Metric, ...] = (
    *_OF_RANKS,
    *_OF_CLASSES,
    *_SUMS_OF_RECALLS,
    *_OF_ALL_POSITIVES,
    *_label_precision("mAP", chance=expected_precision, shows_learning=True, summary=True),
    *_label_precision("mAP@50", cutoff=50),
    *_retrieved(_CAPTIONS),
    *_written(_CAPTIONS),
)
"""The metrics, in the order in which they are computed and shown.

A key is in two families if no protocol includes both: R@1 of captions and R@1 of classes.
"""

TIES: Mapping[Family, str] = {
    "ranks": "R@K is the probability of a hit when ties are broken at random; MedR and MeanR use the "
    "expected rank",
    "all_positives": "R-Precision and mAP@R count ties against the query",
    "label_precision": "mAP counts ties against the query",
    "class_level": "AP@50 and R@1 of classes count ties against the query",
}
"""How equal scores count, by family."""

_SHOWN_BEFORE: Mapping[Family, tuple[str, ...]] = {"all_positives": ("i2t/R@1", "t2i/R@1")}
"""Metrics of another family that precede a family's own in leaderboards, as in its paper's tables."""

VALIDATION_CURVE = "i2t/R@1"
"""The metric that is plotted over the epochs (ADDR, Figure 3(b))."""


def first_place(side: Side) -> str:
    """The key of the hits at rank 1 in one direction: whether a query is answered correctly."""
    return f"{side}/R@1"


def of_family(family: Family) -> list[Metric]:
    """The metrics of one family."""
    return [metric for metric in ENTRIES if metric.family == family]


def families_among(keys: Collection[str]) -> list[Family]:
    """The families a protocol can include that have a metric among ``keys`` found in no other family."""
    return [
        family
        for family in RANKED_FAMILIES
        if any(
            metric.key in keys and all(other.family == family for other in ENTRIES if other.key == metric.key)
            for metric in of_family(family)
        )
    ]


def computed(family: Family, side: Side | None = None) -> list[Metric]:
    """The family's metrics that have functions, in one direction or both."""
    return [
        metric for metric in of_family(family) if metric.function is not None and side in (None, metric.side)
    ]


def lookup(key: str) -> Metric:
    """The metric of that key; a key missing from the table is assumed to be a percentage.

    Records may hold metrics that only the version that wrote them knew.
    """
    known = next((metric for metric in ENTRIES if metric.key == key), None)
    return known or Metric(name=key, family="ranks", unit=PERCENT, published=False)


def summary_of(family: Family) -> Metric:
    """The metric that represents a family."""
    return next(metric for metric in of_family(family) if metric.summary)


def summaries() -> list[Metric]:
    """The metrics that represent their families."""
    return [metric for metric in ENTRIES if metric.summary]


def combinations(values: Mapping[str, Number], families: Collection[Family]) -> Iterator[tuple[str, Number]]:
    """(key, value) of each combination whose terms are all among ``values``, which are numbers or arrays."""
    for metric in ENTRIES:
        if metric.terms and metric.family in families and all(term in values for term in metric.terms):
            yield metric.key, metric.combined([values[term] for term in metric.terms])


def in_order(keys: Collection[str]) -> list[str]:
    """Keys in display order: that of the table, then keys missing from it, alphabetically."""
    known = dict.fromkeys(metric.key for metric in ENTRIES)
    return [key for key in known if key in keys] + sorted(set(keys).difference(known))


def main_columns(primary: str) -> list[str]:
    """The keys shown in a leaderboard ranked by ``primary``.

    They are the main columns of its family, preceded by those that papers print with them. If ``primary`` has
    a direction, that direction comes first, and only metrics with a direction are shown; otherwise the
    summaries of the other families follow.
    """
    ranked_by = lookup(primary)
    family = [metric for metric in of_family(ranked_by.family) if metric.main_column]
    if ranked_by.side is not None:
        directions = [metric for metric in family if metric.side is not None]
        return [metric.key for metric in sorted(directions, key=lambda metric: metric.side != ranked_by.side)]
    before = _SHOWN_BEFORE.get(ranked_by.family, ())
    others = [metric for metric in summaries() if metric.family != ranked_by.family]
    return [*before, *(metric.key for metric in [*family, *others])]


def published_keys() -> frozenset[str]:
    """The keys that tables of published numbers may contain."""
    return frozenset(metric.key for metric in ENTRIES if metric.published)


def formatted(key: str, value: float) -> str:
    """A value as printed, with its metric's digits."""
    return f"{value:.{lookup(key).unit.digits}f}"
