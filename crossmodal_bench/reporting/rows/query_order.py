"""Queries of several runs side by side: by their ids, in whatever order each run has kept them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS, id_scheme
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.given.records import PRESET
from crossmodal_bench.jobs.query_ids import load_query_ids, spelled_alike
from crossmodal_bench.jobs.record import Record


@dataclass(frozen=True)
class QueryOrder:
    """The queries of a run, in its order, by ids that are spelled alike.

    Attributes:
        images: their ids.
        captions: likewise.
    """

    images: tuple[str, ...]
    captions: tuple[str, ...]

    def rows_like(self, wanted: QueryOrder) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """For each image and each caption of ``wanted`` its row here; None where they are others."""
        sides = []
        for ours, theirs in ((self.images, wanted.images), (self.captions, wanted.captions)):
            position = {name: row for row, name in enumerate(ours)}
            if len(ours) != len(theirs) or position.keys() != set(theirs):
                return None
            sides.append(np.array([position[name] for name in theirs], dtype=np.int64))
        return sides[0], sides[1]


def surely_alike(records: Sequence[Record]) -> bool:
    """Whether the records keep their queries in one order for certain: jobs of the bench, on the same data.

    Vectors of a user's are kept in the order in which they were given, where the data set is not at hand.
    """
    return (
        all(record.job.preset != PRESET for record in records)
        and len({record.data.fingerprint for record in records}) == 1
    )


def query_order(record: Record) -> QueryOrder:
    """The queries whose results are in the record's file, kept until the file changes.

    Raises:
        MissingInput: there is no file of them.
        BadInput: the file is damaged.
    """
    path = record.ranks
    state = path.stat() if path.is_file() else None
    when = (0, 0) if state is None else (state.st_mtime_ns, state.st_size)
    return _kept(record.directory, path, record.job.protocol, record.job.dataset, *when)


def in_order_of(
    results: QueryResults, ours: QueryOrder, like: QueryResults, theirs: QueryOrder
) -> QueryResults | None:
    """The results as they would be had their run kept its queries in the order of another one.

    Args:
        results: of the run.
        ours: its queries.
        like: the results of the other run.
        theirs: its queries.

    Returns:
        None where the two have answered other queries, or queries that belong together otherwise.
    """
    if ours == theirs:
        return results
    rows = ours.rows_like(theirs)
    if rows is None or (results.sizes, like.sizes) != (tuple(map(len, rows)),) * 2:
        return None
    images, captions = rows
    clusters = np.concatenate([results.image_cluster[images], results.text_cluster[captions]])
    if not _grouped_alike(clusters, np.concatenate([like.image_cluster, like.text_cluster])):
        return None
    taken = {"images": images, "texts": captions}
    per_query = {}
    for key, values in results.per_query.items():
        queries = results.metric(key).queries
        per_query[key] = values[taken[queries]] if queries in taken else values
    return replace(
        results, per_query=per_query, image_cluster=like.image_cluster, text_cluster=like.text_cluster
    )


def _grouped_alike(clusters: NDArray[np.int64], wanted: NDArray[np.int64]) -> bool:
    """Whether two numberings put the same queries together."""
    groups = {*zip(clusters.tolist(), wanted.tolist(), strict=True)}
    return len(groups) == len({*clusters.tolist()}) == len({*wanted.tolist()})


# A few only: those of MS-COCO take megabytes each.
@functools.lru_cache(maxsize=32)
def _kept(directory: Path, path: Path, protocol: str, dataset: str, modified: int, size: int) -> QueryOrder:
    """The queries in a file of that time and size."""
    named = PROTOCOLS.get(protocol)
    scheme = id_scheme(dataset.partition("-")[0]) if named is None else named.split.ids
    images, captions = spelled_alike(load_query_ids(JobDirectory(directory), path), scheme)
    return QueryOrder(tuple(images), tuple(captions))
