"""The leaderboard as a data frame, for a notebook or a script of one's own.

    >>> from crossmodal_bench.reporting.table import table
    >>> numbers = table("runs")
    >>> numbers[numbers.metric == "rsum"][["method", "mean", "low", "high"]]

Printed tables, Markdown, LaTeX and page come from the same ``ShownTable``s, which ``shown_tables`` gives.
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

    The lines are in the leaderboards' order. Their columns:

    - ``dataset``, ``protocol``, ``protocol_version``, ``evaluated_on``: the table; ``preset``, ``method``,
      ``label``, ``overrides`` (JSON), ``seeds`` (separated by spaces) and ``reference`` (whether it is one of
      results/): the row; ``metric``, or ``cost/...``.
    - ``mean`` over ``n`` seeds, and the 95 % interval from ``low`` to ``high``; ``half_width``, which tables
      print behind ±, is its longer side. ``target`` says what it is about: "method" (on other images and with
      other seeds), "model" (one seed; on other images) or "seeds" (with other seeds on these very images).
      ``items_error`` and ``seeds_error`` are the standard errors that stem from the choice of test images
      and of seeds. All in the metric's unit.
    - ``in_best_set``, of the table's primary metric alone: whether the row is not significantly behind the
      first, with ``p_against_first``, adjusted to all pairs of the table; both missing where the row, or the
      first, could not be tested. ``differences`` has all pairs.
    - ``published`` and ``published_source``: a paper's number that may stand beside it; else
      ``not_comparable`` says why there is none, and ``published_apart`` what is published in other settings.

    What is not known is missing (NaN).

    Args:
        source: the folder of the runs, or their records.

    Raises:
        BadInput: the folder has no finished job, or none whose record can be read.
    """
    return frame(shown_tables(source))


def differences(source: Source) -> pd.DataFrame:
    """What separates each two rows of a leaderboard in its primary metric, one line per pair.

    Both rows have answered the same queries, which are paired; they are clustered by image, and seeds count
    too where a row has several. Rows whose single queries are not known are left out. The columns:

    - ``dataset``, ``protocol``, ``protocol_version``, ``evaluated_on`` and ``metric``: the table.
    - ``row``, ``preset``, ``n`` and ``other_row``, ``other_preset``, ``other_n``: the two, with their seeds.
    - ``difference``: of the first named minus the other, in the metric's unit, with its 95 % interval from
      ``low`` to ``high`` and the standard errors ``items_error`` and ``seeds_error`` that stem from images
      and from seeds.
    - ``p``: two-sided; ``adjusted_p``: by Holm, to all pairs of the table.

    Args:
        source: the folder of the runs, or their records.

    Raises:
        BadInput: the folder has no finished job, or none whose record can be read.
    """
    return difference_frame(shown_tables(source))


def shown_tables(source: Source, references: Iterable[Record] = ()) -> list[ShownTable]:
    """The leaderboards as they are shown, from a folder of runs or from records.

    ``references``: records of others, marked as such, which stand beside them.

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
    """What ``table`` gives, from tables as they are shown."""
    # Most commands print a table and make no data frame of it.
    import pandas as pd

    return pd.DataFrame([cell for ranked in shown for cell in ranked.cells])


def difference_frame(shown: Iterable[ShownTable]) -> pd.DataFrame:
    """What ``differences`` gives, from tables as they are shown."""
    lines = [line for ranked in shown for line in ranked.differences]
    import pandas as pd

    return pd.DataFrame(lines, columns=DIFFERENCE_COLUMNS)


def csv(shown: Iterable[ShownTable]) -> str:
    """``frame`` as a file, in which no text is a formula to a spreadsheet: an apostrophe goes before it."""
    return frame(shown).map(_no_formula).to_csv(index=False)


def difference_csv(shown: Iterable[ShownTable]) -> str:
    """``difference_frame`` as a file, likewise."""
    return difference_frame(shown).map(_no_formula).to_csv(index=False)


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{printable(value)}" if value.lstrip().startswith(("=", "+", "-", "@")) else printable(value)
