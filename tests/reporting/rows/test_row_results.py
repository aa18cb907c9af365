"""What single queries gave, as it is read from the files beside records."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answered import Answered, write_ranks
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.evaluation import rank_metrics
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.row_results import read_query_results, read_results

Maker = Callable[..., Record]
I2T = np.array([1, 2, 7, 30])
T2I = np.array([1, 1, 3, 8, 40, 1, 2, 6])


@pytest.fixture
def record(make_record: Maker) -> Record:
    metrics = rank_metrics(QueryRanks.untied(I2T), QueryRanks.untied(T2I))
    also = {"flickr8k-test-equal": {"metrics": {"i2t/R@1": 100.0}, "bootstrap": {}, "curves": {}}}
    return make_record(metrics=metrics, bootstrap={}, also=also)


def test_each_protocol_of_a_record_has_a_file_of_its_own(record: Record) -> None:
    main, other = record.by_protocol()
    write_ranks(main, I2T, T2I)
    assert read_query_results(main).per_query["i2t/R@1"].tolist() == [1, 0, 0, 0]
    with pytest.raises(MissingInput, match=r"ranks_flickr8k-test-equal\.npz is not there"):
        read_query_results(other)
    write_ranks(other, np.ones(4, np.int64), np.ones(8, np.int64))
    assert read_query_results(other).per_query["i2t/R@1"].tolist() == [1, 1, 1, 1]
    assert read_results([other], read_query_results).intervals["i2t/R@1"].value == 100.0


def test_a_file_is_read_again_when_it_changes(record: Record) -> None:
    write_ranks(record, I2T, T2I)
    first = read_query_results(record)
    assert read_query_results(record) is first
    write_ranks(record, I2T[::-1].copy(), T2I)
    os.utime(record.ranks, ns=(0, 0))
    assert read_query_results(record).per_query["i2t/R@1"].tolist() == [0, 0, 0, 1]


def test_intervals_are_of_the_metrics_of_the_record(record: Record) -> None:
    write_ranks(record, I2T, T2I)
    fewer = record.model_copy(update={"metrics": {"i2t/R@5": 50.0}})
    assert list(read_results([fewer], read_query_results).intervals) == ["i2t/R@5"]
    results = read_results([record], read_query_results)
    assert results.missing == "" and len(results.runs) == 1
    assert set(record.metrics) - set(results.intervals) == {f"{s}/{m}" for s in ("i2t", "t2i") for m in RANKS}


RANKS = ("MedR", "MeanR")


@pytest.mark.parametrize(
    "changes",
    [
        {"image_cluster": np.arange(5)},
        {"text_cluster": np.zeros((8, 1), np.int64)},
        {"image_cluster": np.array(list("abcd"))},
        {"i2t_tied": np.full(4, 99)},
        {"t2i_tied_positives": np.zeros(8, np.int64)},
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(
    record: Record, changes: dict[str, NDArray[Any]]
) -> None:
    write_ranks(record, I2T, T2I, **changes)
    with pytest.raises(BadInput, match=r"ranks\.npz holds no results of queries that fit together; run its"):
        read_query_results(record)
    results = read_results([record], read_query_results)
    assert results.runs == () and "fit together" in results.missing


def test_seeds_of_different_queries_are_no_row_of_queries(answered: Answered) -> None:
    records = [answered(0.3, images=images, seed=seed) for seed, images in enumerate((50, 60))]
    assert read_results(records, read_query_results).missing == "the seeds did not answer the same queries"


@pytest.mark.parametrize("protocol", ["a" * 400, "nul\0", "..", "no/such/folder"])
def test_a_protocol_that_names_no_file_has_no_results(record: Record, protocol: str) -> None:
    job = record.job.model_copy(update={"protocol": protocol})
    with pytest.raises(MissingInput, match="is not there"):
        read_query_results(record.model_copy(update={"job": job}))


def test_results_that_are_a_link_out_of_the_runs_are_not_read(answered: Answered, runs: Path) -> None:
    record = answered(0.3, images=12)
    read_query_results(record)
    outside = runs.parent / "private.npz"
    record.ranks.rename(outside)
    record.ranks.symlink_to(outside)
    with pytest.raises(BadInput, match=r"ranks\.npz cannot be read \(it is a link out of RUNS\)"):
        read_query_results(record)
