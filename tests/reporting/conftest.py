"""Records of which it is known what each query gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from crossmodal_bench.core.errors import MissingInput
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.leaderboard import Table, leaderboard, tables

CAPTIONS = 5


class Answered:
    """Makes records of recalls together with the results of their queries, and reads these.

    Queries have a difficulty that all runs share, beside what is a run's own.
    """

    def __init__(self, make_record: Callable[..., Record]) -> None:
        self._make = make_record
        self._results: dict[str, QueryResults] = {}

    def __call__(self, share: float, *, own: float = 0.1, images: int = 200, **changes: Any) -> Record:
        """A record whose recalls lie about ``share``, twice and three times of it.

        own: how much of a query's outcome is the run's own.
        """
        shared = np.random.default_rng(0)
        key = repr(sorted(changes.items(), key=str)).encode()
        single = np.random.default_rng(list(key))
        per_query = {}
        for side, count in (("i2t", images), ("t2i", CAPTIONS * images)):
            difficulty = (1 - own) * shared.random(count) + own * single.random(count)
            for k, factor in ((1, 1), (5, 2), (10, 3)):
                per_query[f"{side}/R@{k}"] = (difficulty < factor * share).astype(np.float64)
        results = QueryResults(
            per_query, np.arange(images), np.repeat(np.arange(images), CAPTIONS), ("ranks",)
        )
        return self.with_results(results, **changes)

    def with_results(self, results: QueryResults, **changes: Any) -> Record:
        """A record with the metrics that the results have."""
        means = {key: results.metric(key).average(values) for key, values in results.per_query.items()}
        metrics = means | dict(metric_table.combinations(means, results.families))
        defaults = {
            "dataset": "flickr8k",
            "protocol": "flickr8k-1k",
            "curves": {},
            "metrics": metrics,
            "bootstrap": {},
        }
        record = self._make(**{**defaults, **changes})
        self._results[record.job.id] = results
        return record

    def read(self, record: Record) -> QueryResults:
        if record.job.id not in self._results:
            raise MissingInput("ranks.npz is not there")
        return self._results[record.job.id]

    def tables(self, records: Iterable[Record]) -> list[Table]:
        return tables(leaderboard(records, self.read))


@pytest.fixture
def answered(make_record: Callable[..., Record]) -> Answered:
    return Answered(make_record)
