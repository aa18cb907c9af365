"""What an adversary adds: a method's primary metric minus that of its ablation without one, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from crossmodal_bench.evaluation.metric_table import lookup
from crossmodal_bench.evaluation.statistics import t_interval
from crossmodal_bench.jobs import experiments
from crossmodal_bench.reporting.leaderboard import Row, Table


@dataclass(frozen=True)
class Effect:
    """Mean difference over the ``n`` seeds that both rows have; ``half_width`` of its 95 % t-interval.

    nan with one seed.
    """

    row: Row
    ablation: Row
    metric: str
    mean: float
    half_width: float
    n: int

    def __str__(self) -> str:
        digits = lookup(self.metric).unit.digits
        interval = "" if math.isnan(self.half_width) else f" ± {self.half_width:.{digits}f}"
        seeds = f"{self.n} seeds, paired" if self.n > 1 else "one seed, no interval"
        seeds += ", on top of its parents' training" if self.row.records[0].parents else ""
        return (
            f"{self.row.name} minus {self.ablation.name} ({self.row.preset}): "
            f"{self.metric} {self.mean:+.{digits}f}{interval} ({seeds})"
        )


def effects(table: Table) -> Iterator[Effect]:
    """An effect for each row of the table whose method names an ``ablation`` in its YAML, if that is there.

    The ablation has the same preset and overrides; or, in a suite, the label "base": the ablation in that
    training.
    """
    known = experiments.names("methods")
    for row in table.rows:
        ablation = experiments.ablation_of(row.method) if row.method in known else None
        counterparts = [
            other
            for other in table.rows
            if (other.method, other.preset, other.ensemble) == (ablation, row.preset, row.ensemble)
            and (other.overrides == row.overrides or other.label == "base")
        ]
        # Where a suite has trained the ablation alike, that one is meant.
        for other in sorted(counterparts, key=lambda counterpart: counterpart.label != "base")[:1]:
            theirs = {record.job.seed: record.metrics.get(table.primary) for record in other.records}
            pairs = [
                (record.metrics.get(table.primary), theirs.get(record.job.seed)) for record in row.records
            ]
            differences = [
                with_adversary - without
                for with_adversary, without in pairs
                if with_adversary is not None and without is not None
            ]
            if differences:
                mean, half_width, n = t_interval(differences)
                yield Effect(row, other, table.primary, mean, half_width, n)
