"""Whether a model has learned anything: its numbers against those of random scores."""

from __future__ import annotations

from crossmodal_bench.evaluation.chance import Search
from crossmodal_bench.evaluation.metric_table import (
    SIDES,
    Family,
    Metric,
    formatted,
    of_family,
)
from crossmodal_bench.evaluation.ranking.query_ranks import Side
from crossmodal_bench.jobs.record import Record

FACTOR = 1.5
"""The multiple of chance that a smoke run must reach."""

_DECIDING: tuple[Family, ...] = ("class_level", "ranks", "label_precision")
"""The families of metrics compared with chance; the first one that a record has is used."""


def searched(record: Record, side: Side) -> Search:
    """What the queries of one direction searched, from the counts and curves in a record.

    If positives are defined by identity, equally many images and captions per identity are assumed; if they
    are pairs, equally many per query.
    """
    counts = record.data.counts[record.evaluated_on]
    asked = record.asked.get(side, {})
    gallery = asked.get("gallery", counts["captions" if side == "i2t" else "images"])
    relevant: float | None = None
    curve = record.curves.get(f"{side}/precision_scope")
    # A curve that ends before the gallery does not give the fraction of relevant items.
    if curve is not None and gallery in curve["scope"]:
        relevant = curve["precision"][curve["scope"].index(gallery)]
    return Search(
        gallery=gallery,
        identities=counts.get("identities", counts["images"]),
        classes=counts.get("classes", int(record.data.labels.get("count") or 1)),
        relevant=relevant,
        positives=asked["positives"] / asked["queries"] if asked.get("queries") else None,
    )


def below_chance(record: Record) -> list[str]:
    """One sentence for each direction in which a record is not clearly above chance.

    The metrics that decide are those of one family that show learning: class-based ones if there are any,
    else ranks, else precision by label.
    """
    sentences = []
    for metric in _deciding_metrics(record):
        assert metric.side is not None
        chance = metric.chance_level(searched(record, metric.side))
        assert chance is not None
        reached = record.metrics.get(metric.key)
        if reached is None or reached < FACTOR * chance:
            shown = "not a number" if reached is None else formatted(metric.key, reached)
            model = f"{record.job.method} seed {record.job.seed}"
            sentences.append(f"{model}: {metric.key} is {shown}, chance is {formatted(metric.key, chance)}")
    return sentences


def _deciding_metrics(record: Record) -> list[Metric]:
    """One metric per direction, that of image queries first."""
    families = [family for family in _DECIDING if _was_measured(record, family)]
    family = families[0] if families else _DECIDING[-1]
    showing = [metric for metric in of_family(family) if metric.shows_learning]
    return [metric for side in SIDES for metric in showing if metric.side == side]


def _was_measured(record: Record, family: Family) -> bool:
    """Whether the record has a metric that shows learning and belongs to this family only."""
    elsewhere = {metric.key for other in _DECIDING if other != family for metric in of_family(other)}
    own = {metric.key for metric in of_family(family) if metric.shows_learning}
    return any(key in record.metrics for key in own - elsewhere)
