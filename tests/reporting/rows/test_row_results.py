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
from crossmodal_bench.evaluation.metric_table import SIDES
from crossmodal_bench.evaluation.ranking.query_ranks import QueryRanks
from crossmodal_bench.evaluation.ranking.ranks import write_results
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.rows.row_results import read_query_results, read_results
from crossmodal_bench.reporting.tables.layout import notes, warnings

Maker = Callable[..., Record]
I2T = np.array([1, 2, 7, 30])
T2I = np.array([1, 1, 3, 8, 40, 1, 2, 6])


@pytest.fixture
def record(make_record: Maker) -> Record:
    metrics = rank_metrics(QueryRanks.untied(I2T), QueryRanks.untied(T2I))
    also = {
        "flickr8k-test-equal": {
            "protocol_version": 1,
            "metrics": {"i2t/R@1": 100.0},
            "intervals": {},
            "curves": {},
        }
    }
    return make_record(metrics=metrics, intervals={}, also=also)


def test_each_protocol_of_a_record_has_a_file_of_its_own(record: Record) -> None:
    main, other = record.by_protocol()
    write_ranks(main, I2T, T2I)
    assert read_query_results(main).per_query["i2t/R@1"].tolist() == [1, 0, 0, 0]
    with pytest.raises(MissingInput, match=r"ranks_flickr8k-test-equal\.npz is missing"):
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
    with pytest.raises(BadInput, match=r"ranks\.npz has inconsistent per-query results; run its"):
        read_query_results(record)
    results = read_results([record], read_query_results)
    assert results.runs == () and "inconsistent" in results.missing


def test_seeds_of_different_queries_are_no_row_of_queries(answered: Answered) -> None:
    records = [answered(0.3, images=images, seed=seed) for seed, images in enumerate((50, 60))]
    assert read_results(records, read_query_results).missing == "the seeds did not answer the same queries"


@pytest.mark.parametrize("protocol", ["a" * 400, "nul\0", "..", "no/such/folder"])
def test_a_protocol_that_names_no_file_has_no_results(record: Record, protocol: str) -> None:
    job = record.job.model_copy(update={"protocol": protocol})
    with pytest.raises(MissingInput, match="is missing"):
        read_query_results(record.model_copy(update={"job": job}))


def test_results_that_are_a_link_out_of_the_runs_are_not_read(answered: Answered, runs: Path) -> None:
    record = answered(0.3, images=12)
    read_query_results(record)
    outside = runs.parent / "private.npz"
    record.ranks.rename(outside)
    record.ranks.symlink_to(outside)
    with pytest.raises(BadInput, match=r"ranks\.npz cannot be read \(it is a link out of RUNS\)"):
        read_query_results(record)


# ---- draws of the split ------------------------------------------------------------------------------------


def on_draw(
    make_record: Maker, seed: int, method: str = "acmr", draw: int | None = None, **changes: Any
) -> Record:
    """A record of a seed, tested on a draw of 40 of 60 images, with the file of what its queries gave."""
    draw = seed if draw is None else draw
    rows = np.sort(np.random.default_rng(draw).permutation(60)[:40])
    ease = np.random.default_rng(99).random(60)[rows]
    spread = {side: np.random.default_rng([seed, len(method), number]) for number, side in enumerate(SIDES)}
    precision = {
        f"{side}/{metric}": np.clip(ease + 0.1 * spread[side].normal(size=40), 0, 1)
        for side in SIDES
        for metric in ("mAP", "mAP@50")
    }
    metrics = {key: float(values.mean()) for key, values in precision.items()}
    metrics |= {name: (metrics[f"i2t/{name}"] + metrics[f"t2i/{name}"]) / 2 for name in ("mAP", "mAP@50")}
    content = {
        "method": method,
        "dataset": "wikipedia-draws",
        "protocol": "wikipedia-1300-draws-map",
        "protocol_version": 1,
        "seed": seed,
        "metrics": metrics,
        "data": {
            "fingerprint": f"{draw:064}",
            "split_hash": f"{draw:016}",
            "counts": {"train": {"images": 20, "captions": 20}, "test": {"images": 40, "captions": 40}},
            "labels": {"kind": "real", "count": 10, "rule": "the category"},
            "features": None,
        },
    }
    record = make_record(**{**content, **changes})
    arrays = {f"ap/{key}": values for key, values in precision.items()}
    arrays |= {"image_cluster": np.arange(40), "text_cluster": np.arange(40)}
    names = [f"item {row}" for row in rows]
    write_results(record.ranks, arrays, names, names, (40, 40))
    return record


def test_draws_are_laid_out_over_all_images_that_any_of_them_tests(make_record: Maker) -> None:
    records = [on_draw(make_record, seed) for seed in range(3)]
    results = read_results(records, read_query_results)
    assert results.missing == ""
    seen = {name for run in results.runs for name in run.image_cluster.tolist()}
    assert len(seen) == len({*range(60)} & seen) > 50
    assert results.intervals["mAP"].clusters == len(seen)
    assert results.intervals["mAP"].target == "method"


def test_seeds_of_other_splits_are_not_averaged_unless_the_protocol_draws_them(make_record: Maker) -> None:
    records = [on_draw(make_record, seed, protocol="wikipedia-1300-map") for seed in range(3)]
    results = read_results(records, read_query_results)
    assert results.missing == "the seeds did not answer the same queries" and not results.intervals


def test_a_table_of_draws_says_so_and_compares_the_rows_of_the_same_draws(make_record: Maker) -> None:
    records = [on_draw(make_record, seed, method) for method in ("acmr", "cca") for seed in range(3)]
    (table,) = tables(leaderboard([*records, on_draw(make_record, 0, "sm")]))
    assert table.redrawn and [row.method for row in table.rows if row.seeds == (0,)] == ["sm"]
    assert {table.rows[position].method for position in table.tested} <= {"acmr", "cca"} or len(
        table.tested
    ) == 1
    assert [line for line in notes(table) if line.startswith("draws:")] == [
        "draws: seed s uses draw s of the split; ± over several seeds includes the draws"
    ]
    assert "data: train 20 images / 20 captions, test 40 images / 40 captions" in notes(table)
    assert not [line for line in warnings(table) if "split" in line or "fingerprints" in line]
    swapped = on_draw(make_record, 1, "sm", draw=2)
    (table,) = tables(leaderboard([*records, swapped]))
    assert [line for line in warnings(table) if "do not use the same data" in line]
