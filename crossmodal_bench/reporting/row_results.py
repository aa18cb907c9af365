"""What single queries gave in the runs behind a row, on which its intervals and comparisons rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.evaluation.query_results import QueryResults, check_same_queries
from crossmodal_bench.jobs.record import Record

Reader = Callable[[Record], QueryResults]
"""Reads the results of a record's queries under the record's protocol; BadInput where there are none."""

_TOLERANCE = 1e-3
"""By how much, in units of a function's value, a mean over queries may miss the record's number.

Folds of unequal numbers of captions weigh their queries a little differently; another run differs by more.
"""


@dataclass(frozen=True)
class RowResults:
    """The runs of one row, in the order of its seeds; or why they are not known.

    Attributes:
        runs: of each seed; empty where they are not known for all.
        missing: why they are not known, as the end of a sentence; empty where they are.
    """

    runs: tuple[QueryResults, ...] = ()
    missing: str = ""


def read_query_results(record: Record) -> QueryResults:
    """From the record's directory; MissingInput or BadInput where they are not there, or not readable."""
    raise MissingInput(f"{record.files.ranks} is not there")


def read_results(records: Sequence[Record], read: Reader) -> RowResults:
    """The results of all runs of one row.

    They count only where they give the numbers of the records: a file of another run, or one that was written
    under other rules, says nothing about these.

    Args:
        records: the row's, of one protocol.
        read: reads one record's results.
    """
    runs = []
    for record in records:
        try:
            results = read(record)
        except MissingInput:
            return RowResults(missing="there is no file of them")
        except BadInput as error:
            return RowResults(missing=str(error))
        for key, number in record.metrics.items():
            if key in results.keys and not _gives(results, key, number):
                return RowResults(missing=f"they do not give the record's {key}")
        runs.append(results)
    for key in runs[0].keys:
        try:
            if all(key in run.keys for run in runs):
                check_same_queries(runs, key)
        except ValueError:
            return RowResults(missing="the seeds did not answer the same queries")
    return RowResults(tuple(runs))


def _gives(results: QueryResults, key: str, number: float) -> bool:
    """Whether the results have the record's number as their mean."""
    metric = results.metric(key)
    terms = [results.metric(term) for term in metric.terms] or [metric]
    if any(np.isnan(results.per_query[term.key]).all() for term in terms):
        return False
    means = [term.average(results.per_query[term.key]) for term in terms]
    mean = metric.combined(means) if metric.terms else means[0]
    return abs(mean - number) <= _TOLERANCE * metric.unit.scale * len(terms)
