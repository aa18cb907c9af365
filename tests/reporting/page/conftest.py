"""One page and one browser for all tests of the page: both take seconds to make."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium that the system has, without a network."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is on the PATH; install your system's (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox needs rights that a container's root lacks; the page is ours.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()
