"""Rows are paired query by query, whatever order their runs have kept them in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from crossmodal_bench import evaluate_embeddings
from crossmodal_bench.jobs.record import Record, read_records
from crossmodal_bench.reporting.comparison.run_comparison import compare_rows
from crossmodal_bench.reporting.rows.leaderboard import Table, leaderboard, tables

N, EACH = 60, 3
IDS = [f"image{row}" for row in range(N)]
CAPTIONS = [f"{name}#{k}" for name in IDS for k in range(EACH)]


def vectors(noise: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images and captions of a model that is worse with more ``noise``."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N, 8)).astype(np.float32)
    texts = images.repeat(EACH, 0) + 0.6 * rng.normal(size=(N * EACH, 8)).astype(np.float32)
    return images + noise * rng.normal(size=images.shape).astype(np.float32), texts


def given(name: str, noise: float, runs: Path, *, permuted: bool = False, **words: Any) -> None:
    images, texts = vectors(noise)
    rng = np.random.default_rng(1)
    rows = rng.permutation(N) if permuted else np.arange(N)
    columns = rng.permutation(N * EACH) if permuted else np.arange(N * EACH)
    evaluate_embeddings(
        images[rows],
        texts[columns],
        image_ids=[IDS[row] for row in rows],
        caption_ids=[CAPTIONS[column] for column in columns],
        dataset="mine",
        name=name,
        runs=runs,
        **words,
    )


def only(records: list[Record]) -> Table:
    (table,) = tables(leaderboard(records))
    return table


def named(runs: Path) -> dict[str, Record]:
    return {record.job.method: record for record in read_records(runs)}


def test_rows_in_two_orders_are_paired_as_those_in_one(tmp_path: Path) -> None:
    given("better", 0.0, tmp_path)
    given("worse", 0.5, tmp_path)
    given("elsewhere", 0.5, tmp_path, permuted=True)
    records = named(tmp_path)
    assert len({record.data.fingerprint for record in records.values()}) == 1
    (expected,) = only([records["better"], records["worse"]]).pairs
    (found,) = only([records["better"], records["elsewhere"]]).pairs
    assert found.difference.p == expected.difference.p and found.difference.value > 0
    assert (found.difference.low, found.difference.high) == pytest.approx(
        (expected.difference.low, expected.difference.high)
    )
    (itself,) = only([records["worse"], records["elsewhere"]]).pairs
    assert itself.difference.value == pytest.approx(0) and itself.difference.p == 1
    (compared,) = compare_rows([records["better"]], [records["elsewhere"]])
    (paired,) = compare_rows([records["better"]], [records["worse"]])
    found_p, expected_p = (
        {each.metric: each.difference.p for each in comparison.metrics if each.difference is not None}
        for comparison in (compared, paired)
    )
    assert found_p == expected_p and "rsum" in found_p


def test_seeds_in_two_orders_are_one_row_as_those_in_one(tmp_path: Path) -> None:
    for seed in range(2):
        given("model", 0.1 + seed, tmp_path, seed=seed, permuted=bool(seed))
        given("same", 0.1 + seed, tmp_path, seed=seed)
    rows = {row.method: row for row in leaderboard(read_records(tmp_path))}
    assert not rows["model"].results.missing
    for key, interval in rows["same"].results.intervals.items():
        found = rows["model"].results.intervals[key]
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high)), key


def test_other_captions_of_the_same_images_are_not_paired(tmp_path: Path) -> None:
    given("better", 0.0, tmp_path)
    images, texts = vectors(0.5)
    others = [f"{name}#{k + 7}" for name in IDS for k in range(EACH)]
    words = {"image_ids": IDS, "caption_ids": others, "dataset": "mine", "name": "other"}
    evaluate_embeddings(images, texts, **words, runs=tmp_path)
    table = only(read_records(tmp_path))
    assert len(table.rows) == 2 and not table.pairs
