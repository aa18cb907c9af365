"""How large the report's page is, how long it takes to make, and when a reader can use it.

    python benchmarks/page.py [--records 30 300] [--browser]

Records are fake ones of a recall protocol, three seeds a row and ten rows a leaderboard, each with the ranks
of 200 images and 1,000 captions and a history of 30 epochs; one row has a map of 400 points. The page is made
by ``build_report`` as `crossmodal-bench report` makes it, in a process that has its imports. Interactive is
the moment when sorting works: when the page's first two scripts have run, counted from the start of the
navigation, in a headless Chromium that opens the file from disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from answered import Answered
from boards import history, save_map
from conftest import content

from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.reporting.report import build_report

SEEDS = 3
ROWS = 10
"""Of a leaderboard."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[30, 300])
    parser.add_argument("--browser", action="store_true", help="also open each page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # What is imported or compiled once a process is no part of a page.
        _timed(_runs(Path(folder) / "first", SEEDS))
        for records in arguments.records:
            runs = _runs(Path(folder) / str(records), records)
            wall, processor = _timed(runs)
            page = runs / "report" / "index.html"
            megabytes = page.stat().st_size / 1e6
            line = f"{records} records: {megabytes:.2f} MB, made in {wall:.1f} s ({processor:.1f} s of CPU)"
            if arguments.browser:
                line += f", interactive after {_interactive(page):.2f} s"
            print(line, flush=True)


def _timed(runs: Path) -> tuple[float, float]:
    """Seconds by the clock, and of all threads of this process."""
    start, busy = time.perf_counter(), time.process_time()
    build_report(runs, ["html"])
    return time.perf_counter() - start, time.process_time() - busy


def _runs(runs: Path, records: int) -> Path:
    def make(**changes: Any) -> Record:
        record = content(**changes)
        job = record["job"]
        return read_record(write_record(runs / job["dataset"] / job["method"] / job["id"], record))

    answered = Answered(make)
    for row in range(records // SEEDS):
        own = f"mine{row // ROWS:02}"
        for seed in range(SEEDS):
            share = 0.1 + 0.02 * (row % ROWS) + 0.004 * seed
            epochs = [{**history("timam", seed)[epoch % 12], "epoch": epoch} for epoch in range(30)]
            named = {"dataset": own, "protocol": f"{own}-test", "method": f"method_{row % ROWS}"}
            record = answered(share, seed=seed, history=epochs, **named)
            record.files.config.write_text("model: {}\n")
    save_map(record, points=200)
    return runs


def _interactive(page: Path) -> float:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.goto(page.as_uri())
        seconds = opened.evaluate("performance.getEntriesByName('interactive')[0].startTime / 1000")
        browser.close()
    return float(seconds)


if __name__ == "__main__":
    main()
