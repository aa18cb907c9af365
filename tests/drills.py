"""What a bench that was disturbed has found, and how far it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crossmodal_bench.jobs.directory import read_json
from crossmodal_bench.jobs.record import read_records


def results(runs: Path) -> dict[str, Any]:
    """What every job of a bench has found, without what its clock says."""
    found = {}
    for record in read_records(runs):
        content = json.loads(json.dumps(dict(record.content)))
        for name in ("started_at", "finished_at", "environment", "cost"):
            del content[name]
        for parent in content.get("parents", {}).values():
            del parent["finished_at"]
        with np.load(record.directory / "ranks.npz") as ranks:
            arrays = {name: ranks[name].tolist() for name in ranks}
        found[f"{record.job.method} {record.job.seed}"] = (content, arrays)
    return found


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def in_epoch(runs: Path, epoch: int, since: float = 0.0) -> bool:
    """Whether a job is that far, by what it has noted after ``since``."""
    paths = [path for path in runs.glob("*/*/*/progress.json") if path.stat().st_mtime > since]
    return any(read_json(path).get("epoch", -1) >= epoch for path in paths)
