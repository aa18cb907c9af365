"""What an adversary adds: a method's primary metric minus that of its ablation without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from crossmodal_bench.evaluation.metric_table import lookup
from crossmodal_bench.evaluation.statistics.comparisons import holm
from crossmodal_bench.evaluation.statistics.student_t import t_interval
from crossmodal_bench.jobs import experiments
from crossmodal_bench.reporting.rows.leaderboard import Row, Table


@dataclass(frozen=True)
class Effect:
    """A difference in the table's primary metric, in its unit.

    Attributes:
        row: the method.
        ablation: its counterpart without an adversary.
        metric: the primary metric.
        difference: the row's number minus the ablation's.
        low: lower end of the 95 % interval; None for a single seed if its results on single queries are
            unknown.
        high: its upper end.
        p: two-sided p of no difference, adjusted by Holm for all of the table's effects; None if the results
            on single queries are unknown.
        n: seeds of the row and of the ablation; if single queries are unknown, those both have.
    """

    row: Row
    ablation: Row
    metric: str
    difference: float
    low: float | None
    high: float | None
    p: float | None
    n: tuple[int, int]

    def __str__(self) -> str:
        digits = lookup(self.metric).unit.digits
        interval = ""
        if self.low is not None and self.high is not None:
            interval = f" [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"
        seeds = f"{self.n[0]} against {self.n[1]} seeds" if max(self.n) > 1 else "one seed each"
        if self.p is not None:
            basis = f", p = {self.p:.2g} ({seeds}, paired by image"
        elif interval:
            basis = f" ({self.n[0]} seeds, paired by seed, blind to other images"
        else:
            basis = " (one seed, no interval"
        parents = ", on top of its parents' training" if self.row.records[0].parents else ""
        return (
            f"{self.row.name} minus {self.ablation.name} ({self.row.preset}): "
            f"{self.metric} {self.difference:+.{digits}f}{interval}{basis}{parents})"
        )


def effects(table: Table) -> list[Effect]:
    """An effect for each row whose method names an ``ablation`` in its YAML, if the table has that, too.

    The ablation has the same preset and overrides, or, in a suite, the label "base", which marks the ablation
    trained in the same way.
    """
    measured = [
        effect
        for row, twin in _twins(table)
        if (effect := _effect(table, row, twin) or _effect_by_seed(table, row, twin)) is not None
    ]
    tested = [effect.p for effect in measured if effect.p is not None]
    adjusted = iter(holm(tested))
    return [effect if effect.p is None else replace(effect, p=next(adjusted)) for effect in measured]


def _twins(table: Table) -> Iterator[tuple[int, int]]:
    """The positions of each row with an adversary and of its ablation."""
    known = experiments.names("methods")
    for position, row in enumerate(table.rows):
        if row.reference:
            continue
        ablation = row.records[0].ablation
        if ablation is None and row.method in known:
            ablation = experiments.ablation_of(row.method)
        counterparts = [
            twin
            for twin, other in enumerate(table.rows)
            if (other.method, other.preset, other.ensemble) == (ablation, row.preset, row.ensemble)
            and not other.reference
            and (other.overrides == row.overrides or other.label == "base")
        ]
        # If a suite has trained the ablation in the same way, use that one.
        counterparts.sort(key=lambda twin: table.rows[twin].label != "base")
        if counterparts:
            yield position, counterparts[0]


def _effect(table: Table, position: int, twin: int) -> Effect | None:
    """The effect on the same queries, clustered by image, over all seeds; None if queries are unknown."""
    difference = table.difference(position, twin)
    if difference is None:
        return None
    return Effect(
        row=table.rows[position],
        ablation=table.rows[twin],
        metric=table.primary,
        difference=difference.value,
        low=difference.low,
        high=difference.high,
        p=difference.p,
        n=difference.n,
    )


def _effect_by_seed(table: Table, position: int, twin: int) -> Effect | None:
    """The effect from the records' numbers, paired by the seeds both rows have; None without any."""
    row, ablation = table.rows[position], table.rows[twin]
    metric = table.primary
    theirs = {record.job.seed: record.metrics.get(metric) for record in ablation.records}
    pairs = [(record.metrics.get(metric), theirs.get(record.job.seed)) for record in row.records]
    differences = [
        with_adversary - without
        for with_adversary, without in pairs
        if with_adversary is not None and without is not None
    ]
    if not differences:
        return None
    mean, half_width, n = t_interval(differences)
    return Effect(
        row=row,
        ablation=ablation,
        metric=metric,
        difference=mean,
        low=mean - half_width if n > 1 else None,
        high=mean + half_width if n > 1 else None,
        p=None,
        n=(n, n),
    )
