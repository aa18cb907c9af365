"""Finished jobs whose files agree with each other: record, ranks and configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from answered import CAPTIONS, Answered

from crossmodal_bench.evaluation.protocols.splits import SplitItems, split_hash
from crossmodal_bench.evaluation.statistics.intervals import intervals
from crossmodal_bench.evaluation.stored_results import load_query_results
from crossmodal_bench.jobs.fingerprints.sources import fingerprint_of
from crossmodal_bench.jobs.provenance import environment
from crossmodal_bench.jobs.record import Record, read_record, write_record

IMAGES = 40
CONFIG = {"data": {"root": "/home/somebody/data", "cache": "/home/somebody/runs/cache", "batch_size": 8}}


def finished(make_record: Callable[..., Record], share: float = 0.3, **changes: Any) -> Record:
    """A job on a data set of one's own; ``changes`` as of ``make_record``."""
    items = SplitItems(
        image_ids=[f"image {row}" for row in range(IMAGES)],
        caption_image=np.repeat(np.arange(IMAGES), CAPTIONS),
    )
    data = {
        "fingerprint": "d" * 64,
        "split_hash": split_hash(items),
        "counts": {"test": {"images": IMAGES, "captions": CAPTIONS * IMAGES}},
        "labels": {},
        "features": None,
    }
    fingerprint = fingerprint_of(CONFIG)
    defaults = {
        "dataset": "mine",
        "protocol": "mine-test",
        "data": data,
        "environment": {**environment("cpu"), "precision": "32-true", "processes": "1"},
        "source_fingerprint": fingerprint.digest,
        "made_from": fingerprint.model_dump(),
    }
    record = Answered(make_record)(share, images=IMAGES, **{**defaults, **changes})
    record.files.config.write_text(yaml.safe_dump(CONFIG))
    if "intervals" in changes:
        return record
    content = {name: value for name, value in record.content.items() if name != "schema"}
    measured = intervals([load_query_results(record.ranks)])
    content["intervals"] = {key: [each.low, each.high] for key, each in measured.items()}
    return read_record(write_record(record.directory, content))


def edit(record: Record, old: str, new: str) -> Path:
    """Put one text in place of another, where it first stands in the record's file."""
    path = record.files.record
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path
