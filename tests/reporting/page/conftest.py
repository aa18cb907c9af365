"""One page for all tests of it: it takes seconds to make. The browser is of tests/conftest.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from boards import write_board
from conftest import content

from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.reporting.report import build_report


@pytest.fixture(scope="session")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with its page and its charts."""
    runs = tmp_path_factory.mktemp("board") / "runs"

    def make(**changes: Any) -> Record:
        record = content(**changes)
        job = record["job"]
        return read_record(write_record(runs / job["dataset"] / job["method"] / job["id"], record))

    write_board(make, images=60, hostile=True)
    build_report(runs, ["html", "charts"])
    return runs


@pytest.fixture(scope="session")
def page_file(board: Path) -> Path:
    return board / "report" / "index.html"
