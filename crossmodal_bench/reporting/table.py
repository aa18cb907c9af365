"""The leaderboard as a data frame, for a notebook or a script of one's own.

    >>> from crossmodal_bench.reporting.table import table
    >>> numbers = table("runs")
    >>> numbers[numbers.metric == "rsum"][["method", "mean", "low", "high"]]

Printed tables, Markdown, LaTeX and page come from the same ``ShownTable``s, which ``shown_tables`` gives.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from crossmodal_bench.core.errors import BadInput, printable
from crossmodal_bench.jobs.record import Record, read_records
from crossmodal_bench.reporting.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.shown import ShownTable, show

Source = str | Path | Iterable[Record]
"""A folder of runs, or records."""


def table(source: Source) -> pd.DataFrame:
    """Every number of the leaderboards, one line per row and metric.

    The lines are in the leaderboards' order. Their columns:

    - ``dataset``, ``protocol``, ``evaluated_on``: the table; ``preset``, ``method``, ``label``,
      ``overrides`` (JSON) and ``seeds`` (separated by spaces): the row; ``metric``, or ``cost/...``.
    - ``mean`` over ``n`` seeds, and the 95 % interval from ``low`` to ``high``; ``half_width``, which tables
      print behind ±, is its longer side. ``target`` says what it is about: "method" (on other images and with
      other seeds), "model" (one seed; on other images) or "seeds" (with other seeds on these very images).
      ``items_error`` and ``seeds_error`` are the standard errors that stem from the choice of test images
      and of seeds. All in the metric's unit.
    - ``in_best_set``: whether the row is not significantly behind the first by the table's primary metric;
      true at that metric's line alone.
    - ``published`` and ``published_source``: a paper's number that may stand beside it; else
      ``not_comparable`` says why there is none.

    What is not known is missing (NaN).

    Args:
        source: the folder of the runs, or their records.

    Raises:
        BadInput: the folder has no finished job, or a damaged record.
    """
    return frame(shown_tables(source))


def shown_tables(source: Source) -> list[ShownTable]:
    """The leaderboards as they are shown, from a folder of runs or from records.

    Raises:
        BadInput: the folder has no finished job, or a damaged record.
    """
    if isinstance(source, str | Path):
        records = read_records(source)
        if not records:
            raise BadInput(
                f"{source} has no finished job: run `crossmodal-bench bench --runs {source}` first"
            )
    else:
        records = list(source)
    return [show(ranked) for ranked in tables(leaderboard(records))]


def frame(shown: Iterable[ShownTable]) -> pd.DataFrame:
    """What ``table`` gives, from tables as they are shown."""
    return pd.DataFrame([cell for ranked in shown for cell in ranked.cells])


def csv(shown: Iterable[ShownTable]) -> str:
    """``frame`` as a file, in which no text is a formula to a spreadsheet: an apostrophe goes before it."""
    return frame(shown).map(_no_formula).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.lstrip().startswith(("=", "+", "-", "@")) else printable(value)
