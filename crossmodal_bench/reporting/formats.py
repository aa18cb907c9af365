"""The formats of a report and their files; no heavy imports, since the command line needs the names, too."""

from __future__ import annotations

from collections.abc import Mapping

FILES: Mapping[str, str] = {
    "markdown": "leaderboard.md",
    "readme": "leaderboard.readme.md",
    "csv": "leaderboard.csv",
    "differences": "differences.csv",
    "latex": "leaderboard.tex",
    "html": "index.html",
    "charts": "charts.json",
}
"""The file name of each format in ``RUNS/report/``."""

FORMATS = ("terminal", *FILES)
"""All formats; ``terminal`` is printed."""

QUERIES = ("embedded", "all")
"""Which single queries a report includes: those in the page, or also all, in ``RUNS/report/queries/``."""
