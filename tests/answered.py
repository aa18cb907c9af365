"""Records of which it is known what each query gave."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation import rank_metrics
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.evaluation.ranking.ranks import Ranks, write_results
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import Table, leaderboard, tables
from crossmodal_bench.reporting.rows.row_results import read_query_results

CAPTIONS = 5
MADE_WITH = ("environment", "made_from", "source_fingerprint")
"""What changes with every edit of the sources: chance must not follow it."""


class Answered:
    """Makes records of recalls and, beside each, the file of what its queries gave.

    Queries have a difficulty that all runs share, beside what is a run's own.
    """

    def __init__(self, make_record: Callable[..., Record]) -> None:
        self._make = make_record

    def __call__(self, share: float, *, own: float = 0.1, images: int = 200, **changes: Any) -> Record:
        """A record whose recalls lie about ``share``, twice and three times of it.

        own: how much of a query's outcome is the run's own.
        """
        shared = np.random.default_rng(0)
        what = sorted((key, value) for key, value in changes.items() if key not in MADE_WITH)
        single = np.random.default_rng(list(repr(what).encode()))
        ranks = []
        for count in (images, CAPTIONS * images):
            difficulty = (1 - own) * shared.random(count) + own * single.random(count)
            ranks.append(np.array([1, 5, 10, 50])[np.searchsorted([share, 2 * share, 3 * share], difficulty)])
        i2t, t2i = ranks
        defaults = {
            "dataset": "flickr8k",
            "protocol": "flickr8k-1k",
            "protocol_version": 1,
            "curves": {},
            "metrics": rank_metrics(QueryRanks.untied(i2t), QueryRanks.untied(t2i)),
            "intervals": {},
        }
        record = self._make(**{**defaults, **changes})
        write_ranks(record, i2t, t2i)
        return record

    def read(self, record: Record) -> QueryResults:
        return read_query_results(record)

    def tables(self, records: Iterable[Record]) -> list[Table]:
        return tables(leaderboard(records))


def write_ranks(
    record: Record, i2t: NDArray[np.int64], t2i: NDArray[np.int64], **changes: NDArray[Any]
) -> None:
    """Write a record's file of ranks without ties; ``changes`` are of its arrays."""
    images, texts = len(i2t), len(t2i)
    ranks = Ranks(
        i2t=i2t,
        t2i=t2i,
        i2t_expected=i2t.astype(np.float64),
        t2i_expected=t2i.astype(np.float64),
        i2t_tied=np.zeros(images, np.int64),
        t2i_tied=np.zeros(texts, np.int64),
        i2t_tied_positives=np.ones(images, np.int64),
        t2i_tied_positives=np.ones(texts, np.int64),
        i2t_top=np.zeros((images, 1), np.int64),
        t2i_top=np.zeros((texts, 1), np.int64),
        i2t_top_scores=np.zeros((images, 1)),
        t2i_top_scores=np.zeros((texts, 1)),
    )
    clusters = {
        "image_cluster": np.arange(images),
        "text_cluster": np.repeat(np.arange(images), texts // images),
    }
    image_ids = [f"image {row}" for row in range(images)]
    caption_ids = [f"caption {row}" for row in range(texts)]
    write_results(
        record.ranks, {**ranks.arrays(), **clusters, **changes}, image_ids, caption_ids, (images, texts)
    )
