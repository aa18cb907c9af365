"""The leaderboard as a data frame, for notebooks and scripts.

    from crossmodal_bench.reporting.table import table
    numbers = table("runs")
    numbers[numbers.metric == "rsum"][["method", "mean", "low", "high"]]

Printed tables, Markdown, LaTeX and page come from the same ``ShownTable``s, returned by ``shown_tables``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmodal_bench.core.errors import BadInput, printable
from crossmodal_bench.jobs.record import Record, read_records
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.shown import DIFFERENCE_COLUMNS, ShownTable, show

if TYPE_CHECKING:
    import pandas as pd

Source = str | Path | Iterable[Record]
"""A folder of runs, or records."""


def table(source: Source) -> pd.DataFrame:
    """Every number of the leaderboards, one line per row and metric.

    The lines are in leaderboard order. The columns:

    - ``dataset``, ``protocol``, ``protocol_version``, ``evaluated_on``: the table; ``preset``, ``method``,
      ``label``, ``overrides`` (JSON), ``seeds`` (separated by spaces) and ``reference`` (whether it is from
      results/): the row; ``metric``, or ``cost/...``.
    - ``mean`` over ``n`` seeds, and the 95 % interval from ``low`` to ``high``; ``half_width``, which tables
      print after ±, is its longer side. ``target`` says what it covers: "method" (other images and other
      seeds), "model" (one seed; other images) or "seeds" (other seeds on the same images). ``items_error``
      and ``seeds_error`` are the standard errors due to the choice of test images and of seeds. All in the
      metric's unit.
    - ``in_best_set``, for the table's primary metric only: whether the row is not significantly behind the
      first, with ``p_against_first``, adjusted for all pairs of the table; both missing if the row or the
      first could not be tested. ``differences`` has all pairs.
    - ``published`` and ``published_source``: a comparable number from a paper; otherwise ``not_comparable``
      says why there is none, and ``published_apart`` has numbers published in other settings.

    Unknown values are missing (NaN).

    Args:
        source: the folder of the runs, or their records.

    Raises:
        BadInput: the folder has no finished job, or none whose record can be read.
    """
    return frame(shown_tables(source))


def differences(source: Source) -> pd.DataFrame:
    """The differences between all pairs of rows of a leaderboard in its primary metric, one line per pair.

    The rows' results are paired on the same queries and clustered by image; if a row has several seeds, the
    seeds count too. Rows whose single queries are unknown are left out. The columns:

    - ``dataset``, ``protocol``, ``protocol_version``, ``evaluated_on`` and ``metric``: the table.
    - ``row``, ``preset``, ``n`` and ``other_row``, ``other_preset``, ``other_n``: the two rows, seeds.
    - ``difference``: the first row minus the other, in the metric's unit, with its 95 % interval from ``low``
      to ``high`` and the standard errors ``items_error`` and ``seeds_error`` due to images and seeds.
    - ``p``: two-sided; ``adjusted_p``: adjusted by Holm for all pairs of the table.

    Args:
        source: the folder of the runs, or their records.

    Raises:
        BadInput: the folder has no finished job, or none whose record can be read.
    """
    return difference_frame(shown_tables(source))


def shown_tables(source: Source, references: Iterable[Record] = ()) -> list[ShownTable]:
    """The leaderboards as displayed, from a folder of runs or from records.

    ``references``: records of others, shown alongside and marked as such.

    Raises:
        BadInput: the folder has no finished job, or none whose record can be read.
    """
    if isinstance(source, str | Path):
        records = read_records(source)
        if not records:
            raise BadInput(
                f"{source} has no finished job: run `crossmodal-bench bench --runs {source}` first"
            )
    else:
        records = list(source)
    return [show(ranked) for ranked in tables(leaderboard([*records, *references]))]


def frame(shown: Iterable[ShownTable]) -> pd.DataFrame:
    """The result of ``table``, from displayed tables."""
    # Most commands print a table and do not need a data frame.
    import pandas as pd

    return pd.DataFrame([cell for ranked in shown for cell in ranked.cells])


def difference_frame(shown: Iterable[ShownTable]) -> pd.DataFrame:
    """The result of ``differences``, from displayed tables."""
    lines = [line for ranked in shown for line in ranked.differences]
    import pandas as pd

    return pd.DataFrame(lines, columns=DIFFERENCE_COLUMNS)


def csv(shown: Iterable[ShownTable]) -> str:
    """``frame`` as CSV; an apostrophe prefix keeps spreadsheets from reading text as a formula."""
    return frame(shown).map(_no_formula).to_csv(index=False)


def difference_csv(shown: Iterable[ShownTable]) -> str:
    """``difference_frame`` as CSV, likewise."""
    return difference_frame(shown).map(_no_formula).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.lstrip().startswith(("=", "+", "-", "@")) else printable(value)
