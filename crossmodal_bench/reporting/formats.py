"""The forms of a report and their files; without heavy imports, for the command line names them too."""

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
"""By format, the name of its file below ``RUNS/report/``."""

FORMATS = ("terminal", *FILES)
"""Every format; ``terminal`` is printed."""

QUERIES = ("embedded", "all")
"""What a report keeps of single queries: what the page holds, or also all, in ``RUNS/report/queries/``."""
