"""Trained runs on synthetic scenes, made once: one that compares vectors, one fragments, one pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dual_encoders
import pytest

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.training.worker import run_job


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Record]:
    """The record of a method's job, after one epoch on twenty scenes."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    records: dict[str, Record] = {}

    def train(method: str) -> Record:
        if method not in records:
            options = BenchOptions(
                dataset="synthetic-20",
                data_root=Path("no data root"),
                runs=runs,
                methods=method,
                seeds=1,
                network=dual_encoders.tiny() if method == "clip" else None,
                overrides={"trainer.max_epochs": 1},
            )
            # Parents come first.
            for planned in make_plan(options, gpu=False):
                planned.directory.mkdir(parents=True, exist_ok=True)
                if not planned.files.is_done():
                    run_job(planned, "cpu")
                records[planned.job.method] = read_record(planned.directory)
        return records[method]

    return train
