"""Fake records: complete ones to which a test gives only what it is about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossmodal_bench.bench.record import Record, read_record, write_record

MAP = {"i2t/mAP": 0.5, "t2i/mAP": 0.4, "mAP": 0.45, "i2t/mAP@50": 0.55, "t2i/mAP@50": 0.45, "mAP@50": 0.5}
RECALL = {f"{side}/R@{k}": 10.0 + k for side in ("i2t", "t2i") for k in (1, 5, 10)} | {"rsum": 92.0}


def content(**changes: Any) -> dict[str, Any]:
    """A whole record as JSON; ``changes`` are its top-level fields, or the job's."""
    job = {
        "id": "",
        "method": "acmr",
        "dataset": "wikipedia",
        "protocol": "wikipedia-2173-map",
        "preset": "small",
        "seed": 0,
        "suite": None,
        "label": "",
        "overrides": {},
    }
    job |= {name: changes.pop(name) for name in list(changes) if name in job}
    job["id"] = job["id"] or hashlib.sha256(repr(sorted(job.items(), key=str)).encode()).hexdigest()[:16]
    pairs = {"train": 2173, "test": 693}
    record = {
        "job": job,
        "evaluated_on": "test",
        "data": {
            "fingerprint": "d" * 64,
            "split_hash": "5" * 16,
            "counts": {split: {"images": count, "captions": count} for split, count in pairs.items()},
            "labels": {"kind": "real", "count": 10, "rule": "the category"},
            "features": None,
        },
        "source_fingerprint": "e" * 64,
        "selection": {"metric": None, "epoch": None, "rule": "last epoch: no validation split"},
        "metrics": dict(MAP),
        "bootstrap": {name: [value - 0.02, value + 0.04] for name, value in MAP.items()},
        "curves": {
            f"{side}/precision_scope": {"scope": [50, 100, 200], "precision": [0.5, 0.4, 0.3]}
            for side in ("i2t", "t2i")
        },
        "history": [
            {"epoch": epoch, "train/loss_embedding": 1 / (1 + epoch), "train/loss_adversarial": 0.69}
            for epoch in range(4)
        ],
        "cost": {"parameters": 1234567, "train_samples_per_second": 1500.0, "train_seconds": 12.5},
        "environment": {"python": "3.11.7", "device": "cpu"},
        "started_at": "2026-01-01T00:00:00+00:00",
        "finished_at": "2026-01-01T00:01:00+00:00",
    }
    return record | changes


@pytest.fixture
def make_content() -> Callable[..., dict[str, Any]]:
    return content


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def make_record(runs: Path) -> Callable[..., Record]:
    """Writes a fake record where the bench would, and reads it back."""

    def make(**changes: Any) -> Record:
        record = content(**changes)
        job = record["job"]
        return read_record(write_record(runs / job["dataset"] / job["method"] / job["id"], record))

    return make


@pytest.fixture
def make_recall_record(make_record: Callable[..., Record]) -> Callable[..., Record]:
    """A record of a recall protocol, its metrics shifted by ``by`` points."""

    def make(by: float = 0.0, **changes: Any) -> Record:
        metrics = {name: value + by for name, value in RECALL.items()}
        bounds = {name: [value - 2.0, value + 2.0] for name, value in metrics.items()}
        defaults = {"dataset": "flickr8k", "protocol": "flickr8k-1k", "metrics": metrics, "bootstrap": bounds}
        return make_record(**{**defaults, "curves": {}, **changes})

    return make
