"""The size of the report's page, the time to build it, and the time until a reader can use it.

    python benchmarks/page.py [--records 30 300] [--browser]

The first page has 30 methods on one test split of 1,000 images and as many captions, with full rankings and
captions and thumbnails of maximum size, so that queries can be browsed. The records of the other pages are
fake ones of a recall protocol, three seeds per row and ten rows per leaderboard, each with the ranks of 200
images and 1,000 captions and a history of 30 epochs; one row has a projection of 400 points. The page is
built by ``build_report``, as in `crossmodal-bench report`, in a process with all imports done. "Interactive"
is when the page's last script has run, counted from the start of the navigation, in a headless Chromium that
opens the file from disk. The exit status is 1 if a page exceeds its ``LIMITS``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from answered import Answered
from boards import history, save_map
from conftest import content
from numpy.typing import NDArray
from PIL import Image
from ranked import Pictures, ranked_record, scores_of, split_corpus

from crossmodal_bench.jobs.record import Record, read_record, write_record
from crossmodal_bench.reporting.page.gallery import keep_gallery
from crossmodal_bench.reporting.report import build_report

SEEDS = 3
ROWS = 10
"""Rows of a leaderboard."""
BROWSED = 30
"""Methods with queries to browse, of which a page includes 20."""
QUERIES = 1000
"""Number of images, and of captions, of the split with queries to browse."""
LIMITS = {30: (10.0, 10.0, 2.0), 300: (10.0, 20.0, 2.0)}
"""By number of records: the limits of megabytes, seconds to build, and seconds until interactive."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[30, 300])
    parser.add_argument("--browser", action="store_true", help="also open each page")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # One-time imports and compilation are not part of a page's cost.
        _timed(_runs(Path(folder) / "first", SEEDS))
        browsed = _browsed_runs(Path(folder) / "browsed")
        name = f"{BROWSED} records x {QUERIES:,} queries with thumbnails"
        within = [_report(name, browsed, arguments.browser, BROWSED)]
        for records in arguments.records:
            runs = _runs(Path(folder) / str(records), records)
            within.append(_report(f"{records} records", runs, arguments.browser, records))
    return 0 if all(within) else 1


def _report(name: str, runs: Path, browser: bool, records: int) -> bool:
    """Print a page's line; return whether it is within the limits for this number of records, if any."""
    wall, processor = _timed(runs)
    page = runs / "report" / "index.html"
    megabytes = page.stat().st_size / 1e6
    line = f"{name}: {megabytes:.2f} MB, made in {wall:.1f} s ({processor:.1f} s of CPU)"
    figures = [megabytes, wall]
    if browser:
        figures.append(_interactive(page))
        line += f", interactive after {figures[-1]:.2f} s"
    limits = LIMITS.get(records, ())
    within = all(figure <= limit for figure, limit in zip(figures, limits, strict=False))
    print(line if within else f"{line}: OVER THE LIMIT", flush=True)
    return within


def _timed(runs: Path) -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of this process."""
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


class _Photographs(Pictures):
    """Pictures as hard to compress as detailed photographs."""

    def __getitem__(self, row: int) -> Image.Image:
        noise = np.random.default_rng(self.looks[row]).integers(0, 60, (120, 160, 3))
        return Image.fromarray((np.asarray(super().__getitem__(row)) // 2 + noise).astype(np.uint8))

    def subset(self, rows: NDArray[np.int64]) -> Pictures:
        chosen = _Photographs(0, {})
        chosen.looks = [self.looks[row] for row in rows]
        return chosen


def _browsed_runs(runs: Path) -> Path:
    """Methods ranked on one split, with stored captions and pictures."""
    corpus = split_corpus(images=QUERIES, per_image=1)
    corpus = replace(corpus, images=_Photographs(len(corpus.image_ids), {}))
    images, captions = corpus.image_rows("test"), corpus.caption_rows("test")
    ids = [corpus.image_ids[row] for row in images], [corpus.caption_ids[row] for row in captions]

    def make(**changes: Any) -> Record:
        record = content(**changes)
        record["data"] |= {"fingerprint": corpus.fingerprint}
        job = record["job"]
        return read_record(write_record(runs / job["dataset"] / job["method"] / job["id"], record))

    owner = np.arange(QUERIES)
    for row in range(BROWSED):
        scores = scores_of(QUERIES, QUERIES, seed=row)
        scores[owner, owner] += 0.7 + 0.01 * row
        record = ranked_record(make, scores, ids, owner, method=f"method_{row}")
        record.files.config.write_text("model: {}\n")
    keep_gallery(record.files, corpus, "test")
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
    sys.exit(main())
