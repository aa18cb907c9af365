"""Write the tables and numbers of the documentation that come from ``results/``.

    make docs-tables                        # writes them; tools/docs_tables.py --check only checks

Markdown files contain marked blocks. The text between the two marks is rewritten:

    <!-- table: results protocol=wikipedia-2173-map methods=acmr,cca columns=ties,seeds,metrics -->
    ...
    <!-- end table -->

    mAP is <!-- value: results protocol=wikipedia-2173-map methods=acmr metric=mAP -->...<!-- end value -->

Rows, order, numbers, ± and ★ are those of ``crossmodal-bench report`` over ``results/``: marks and tie groups
refer to all rows of the protocol, whichever of them a block shows. The settings of a block:

- ``protocol``: one, or several separated by commas, whose rows follow one another.
- ``datasets``, ``methods``, ``preset``: keep only these. A method stands for all of its rows; one with a
  label or overrides is named as in ``report``, without spaces.
- ``columns``: columns of a table, see ``COLUMNS``, or metrics. Default: ``ties,seeds,metrics``.
- ``metric``: metric of a value. Default: the one that ranks the protocol.

A block whose protocol has no row yet says so instead of showing numbers.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation.metric_table import formatted
from crossmodal_bench.reporting.comparison.tie_groups import tie_groups
from crossmodal_bench.reporting.rows.leaderboard import Row
from crossmodal_bench.reporting.table import shown_tables
from crossmodal_bench.reporting.tables.markdown import escaped
from crossmodal_bench.reporting.tables.shown import ABSENT, Line, ShownTable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"

BLOCK = re.compile(
    r"(?P<head><!-- (?P<kind>table|value): results (?P<settings>[^>]*?)\s*-->)"
    r"(?P<content>.*?)"
    r"(?P<tail><!-- end (?P=kind) -->)",
    re.DOTALL,
)
OPENING = re.compile(r"<!-- (?:table|value):")
KEYS = {
    "table": {"protocol", "datasets", "methods", "preset", "columns"},
    "value": {"protocol", "datasets", "methods", "preset", "metric"},
}
ALL_METRICS = "metrics"
"""The column that stands for every metric of the leaderboard, in its order."""


@dataclass(frozen=True)
class Shown:
    """A row of a leaderboard as shown in a block.

    Attributes:
        table: the leaderboard.
        row: the row.
        line: the same row as printed by ``report``.
        ties: the letters it shares with the rows it cannot be told apart from.
    """

    table: ShownTable
    row: Row
    line: Line
    ties: str


@dataclass(frozen=True)
class Column:
    """A column other than a metric: its header and the cell of a row."""

    header: str
    cell: Callable[[Shown], str]


def _minutes(shown: Shown) -> str:
    seconds = shown.row.cost.get("train_seconds")
    if seconds is None:
        return ABSENT
    # Closed-form solutions take milliseconds, whose exact number is of no interest.
    return f"{seconds / 60:.1f}" if seconds >= 3 else "under 0.1"


def _primary(shown: Shown) -> str:
    return _number(shown, shown.table.primary)


COLUMNS: Mapping[str, Column] = {
    "protocol": Column("protocol", lambda shown: f"{shown.row.protocol}@{shown.row.version}"),
    "dataset": Column("data set", lambda shown: shown.row.dataset),
    "preset": Column("preset", lambda shown: shown.row.preset),
    "seeds": Column("seeds", lambda shown: str(shown.line.n)),
    "over": Column("± over", lambda shown: shown.line.over),
    "ties": Column("tied", lambda shown: shown.ties),
    "primary": Column("result", _primary),
    "metric": Column("metric", lambda shown: shown.table.primary),
    "minutes": Column("training, min", _minutes),
    "parameters": Column("parameters", lambda shown: shown.line.costs["parameters"]),
    "paper": Column("paper", lambda shown: shown.line.paper),
}
"""The columns other than metrics, by their names in a block."""
TEXT_COLUMNS = ("protocol", "dataset", "preset", "over", "metric", "ties")
"""Left-aligned columns; numbers are right-aligned."""


def documents(root: Path = ROOT) -> list[Path]:
    """The Markdown files of the repository meant for readers."""
    pages = [path for path in (root / "docs").rglob("*.md") if "leaderboard" not in path.parts]
    return sorted([*root.glob("*.md"), *pages])


def read_tables(results: Path = RESULTS) -> list[ShownTable]:
    """The leaderboards of ``results/``, as shown by ``report``."""
    return shown_tables(results)


def rewritten(text: str, tables: Sequence[ShownTable], name: str) -> str:
    """A document with every marked block rewritten.

    Args:
        text: the document.
        tables: the leaderboards.
        name: the document's name, for errors.

    Raises:
        BadInput: a block is not closed, or names something unknown.
    """
    if len(OPENING.findall(text)) != len(list(BLOCK.finditer(text))):
        raise BadInput(
            f"{name}: a table or value is not closed; add <!-- end table --> or <!-- end value -->"
        )

    def block(match: re.Match[str]) -> str:
        where = f"{name}: {match['head']}"
        settings = _settings(match["settings"], match["kind"], where)
        content = (_table if match["kind"] == "table" else _value)(settings, tables, where)
        return f"{match['head']}{content}{match['tail']}"

    return BLOCK.sub(block, text)


def _settings(written: str, kind: str, where: str) -> dict[str, list[str]]:
    settings = {}
    for pair in written.split():
        key, equals, value = pair.partition("=")
        if not equals or key not in KEYS[kind]:
            raise BadInput(
                f"{where}: {pair} is not a setting; write KEY=VALUE with {', '.join(sorted(KEYS[kind]))}"
            )
        settings[key] = value.split(",")
    if "protocol" not in settings:
        raise BadInput(f"{where}: name the protocol, e.g. protocol=flickr30k-1k")
    return settings


def _rows(settings: Mapping[str, list[str]], tables: Sequence[ShownTable]) -> Iterator[Shown]:
    """The rows that a block asks for: by protocol in the given order, and best first."""
    for protocol in settings["protocol"]:
        for table in tables:
            if table.source.protocol != protocol:
                continue
            letters = tie_groups(table.source)
            for position, (row, line) in enumerate(zip(table.source.rows, table.lines, strict=True)):
                wanted = {"datasets": {row.dataset}, "methods": _names(row), "preset": {row.preset}}
                if all(values & set(settings.get(key, values)) for key, values in wanted.items()):
                    yield Shown(table, row, line, letters.get(position, ""))


def _names(row: Row) -> set[str]:
    """The names a block may use for a row: its method, for all of its labels and overrides, or its name."""
    return {row.method, row.name.replace(" ", "")}


def _table(settings: Mapping[str, list[str]], tables: Sequence[ShownTable], where: str) -> str:
    rows = list(_rows(settings, tables))
    if not rows:
        return "\n\n*No row of this table is in `results/` yet.*\n\n"
    named = settings.get("columns", ["ties", "seeds", ALL_METRICS])
    metrics = list(dict.fromkeys(metric for shown in rows for metric in shown.table.metrics))
    columns = [column for word in named for column in (metrics if word == ALL_METRICS else [word])]
    known = {metric for shown in rows for metric in shown.row.cells}
    for column in columns:
        if column not in COLUMNS and column not in known:
            raise BadInput(f"{where}: no row has a column {column}; use {', '.join((*COLUMNS, *known))}")
    # Columns that distinguish tables come before the rows' names.
    first = [column for column in columns if column in ("protocol", "dataset")]
    others = [column for column in columns if column not in first]
    order = [*first, "method", *others]
    lines = []
    for shown in rows:
        lines.append([_cell(shown, column) for column in order])
        for published in shown.line.published if ALL_METRICS in named else ():
            theirs = {**published.values, "method": f"*{escaped(published.source)}*"}
            lines.append([theirs.get(column, "") for column in order])
    # Print a protocol's name once, for all of its rows.
    for column in range(len(first)):
        for number in range(len(lines) - 1, 0, -1):
            if lines[number][column] == lines[number - 1][column]:
                lines[number][column] = ""
    headers = [COLUMNS[column].header if column in COLUMNS else escaped(column) for column in order]
    rules = ["---" if column in ("method", *TEXT_COLUMNS) else "---:" for column in order]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in [headers, rules, *lines])
    present = {name for shown in rows for name in _names(shown.row)}
    missing = [f"`{method}`" for method in settings.get("methods", []) if method not in present]
    absent = f"\n\n*Not in `results/` yet: {', '.join(missing)}.*" if missing else ""
    return f"\n\n{grid}{absent}\n\n"


def _cell(shown: Shown, column: str) -> str:
    if column == "method":
        return escaped(shown.line.marked_name)
    if column == "primary":
        return _primary(shown)
    if column in COLUMNS:
        return escaped(COLUMNS[column].cell(shown))
    return _number(shown, column)


def _number(shown: Shown, metric: str) -> str:
    """A metric with its interval, as ``report`` prints it; bold if the row is one of the best."""
    if metric in shown.line.values:
        value = shown.line.values[metric]
        text = escaped(f"{value.text} {value.margin}")
        return f"**{text}**" if value.marked else text
    cell = shown.row.cells.get(metric)
    if cell is None:
        return ABSENT
    margin = "" if cell.half_width is None else f" ±{formatted(metric, cell.half_width)}"
    return escaped(f"{formatted(metric, cell.mean)}{margin}")


def _value(settings: Mapping[str, list[str]], tables: Sequence[ShownTable], where: str) -> str:
    rows = list(_rows(settings, tables))
    if len(rows) != 1:
        raise BadInput(
            f"{where}: {len(rows)} rows of results/ match instead of one; set methods=, datasets= or preset="
        )
    (metric,) = settings.get("metric", [rows[0].table.primary])
    return _number(rows[0], metric).strip("*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite every block, or with ``--check`` list those that differ from ``results/``."""
    parser = argparse.ArgumentParser(description="Write the documentation's tables from results/.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if something differs")
    check = parser.parse_args(arguments).check
    tables = read_tables()
    changed = []
    try:
        for path in documents():
            text = path.read_text(encoding="utf-8")
            new = rewritten(text, tables, str(path.relative_to(ROOT)))
            if new != text:
                changed.append(str(path.relative_to(ROOT)))
                if not check:
                    path.write_text(new, encoding="utf-8")
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    what = "differ from results/, run make docs-tables" if check else "written"
    print(f"{', '.join(changed)}: {what}" if changed else "Every table matches results/")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
