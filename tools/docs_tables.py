"""Write the tables and numbers of the documentation that come from ``results/`` and ``docs/perf.json``.

    make docs-tables                        # writes them; tools/docs_tables.py --check only checks

Markdown files contain marked blocks. The text between the two marks is rewritten:

    <!-- table: results protocol=wikipedia-2173-map methods=acmr,cca columns=ties,seeds,metrics -->
    ...
    <!-- end table -->

    mAP is <!-- value: results protocol=wikipedia-2173-map methods=acmr metric=mAP -->...<!-- end value -->
    it differs by <!-- value: difference protocol=flickr8k-1k methods=timam,cca -->...<!-- end value -->

Rows, order, numbers, ± and ★ are those of ``crossmodal-bench report`` over ``results/``: marks and tie groups
refer to all rows of the protocol, whichever of them a block shows. The settings of a block:

- ``protocol``: one, or several separated by commas, whose rows follow one another.
- ``datasets``, ``methods``, ``preset``: keep only these. A method stands for all of its rows; one with a
  label or overrides is named as in ``report``, without spaces.
- ``columns``: columns of a table, see ``COLUMNS``, or metrics. Default: ``ties,seeds,metrics``.
- ``metric``: metric of a value. Default: the one that ranks the protocol.

A difference is that of its two methods, the first minus the second, in the metric that ranks the protocol,
with its 95 % interval and p. If the second is the first one's ablation, p is adjusted by Holm for all
adversaries of the table, otherwise for all of its pairs: as ``report`` does.

A block whose protocol has no row yet says so instead of showing numbers.

Tables of speed come from a committed ``docs/perf.json``:

    <!-- table: perf modules=ranking,reward -->
    ...
    <!-- end table -->

``modules`` lists benchmarks, in this order. Default: all. The file is written by ``python benchmarks/perf.py
--json docs/perf.json``, with ``--base REF`` including the seconds of that revision.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_json
from crossmodal_bench.core.validation import Items, Model, validated
from crossmodal_bench.evaluation.metric_table import formatted, lookup
from crossmodal_bench.reporting.comparison.ablations import effects
from crossmodal_bench.reporting.comparison.tie_groups import tie_groups
from crossmodal_bench.reporting.rows.leaderboard import Row
from crossmodal_bench.reporting.table import shown_tables
from crossmodal_bench.reporting.tables.markdown import escaped
from crossmodal_bench.reporting.tables.shown import ABSENT, Line, ShownTable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PERF = ROOT / "docs" / "perf.json"

BLOCK = re.compile(
    r"(?P<head><!-- (?P<kind>table|value): (?P<source>results|perf|difference)(?P<settings>[^>]*?)\s*-->)"
    r"(?P<content>.*?)"
    r"(?P<tail><!-- end (?P=kind) -->)",
    re.DOTALL,
)
OPENING = re.compile(r"<!-- (?:table|value):")
KEYS = {
    "table": {"protocol", "datasets", "methods", "preset", "columns"},
    "value": {"protocol", "datasets", "methods", "preset", "metric"},
    "difference": {"protocol", "datasets", "methods", "preset"},
    "perf": {"modules"},
}
ALL_METRICS = "metrics"
"""The column that stands for every metric of the leaderboard, in its order."""


class Work(Model):
    """A line of ``benchmarks/perf.py``, as far as it is shown."""

    model_config = ConfigDict(extra="ignore")

    benchmark: str
    name: str
    plain_seconds: float
    seconds: float
    ratio: float
    share: float | None
    peak_bytes: int
    base_seconds: float | None = None


class Figures(Model):
    """What ``benchmarks/perf.py`` has measured, as far as it is shown."""

    model_config = ConfigDict(extra="ignore")

    lines: Items[Work]
    matrix_product_flops: float
    threads: int
    base: str | None
    rounds: int
    tiny: bool


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


def read_figures(path: Path = PERF) -> Figures | None:
    """The committed measurements of speed; None if there are none.

    Raises:
        BadInput: the file has another content, or was made with ``--tiny``.
    """
    if not path.exists():
        return None
    figures = validated(Figures, read_json(path), path)
    if figures.tiny:
        raise BadInput(f"{path} was made with --tiny, which measures nothing; make it again without")
    return figures


def rewritten(text: str, tables: Sequence[ShownTable], name: str, figures: Figures | None = None) -> str:
    """A document with every marked block rewritten.

    Args:
        text: the document.
        tables: the leaderboards.
        name: of the document, for errors.
        figures: of speed, where there are any.

    Raises:
        BadInput: a block is not closed, or names something unknown.
    """
    if len(OPENING.findall(text)) != len(list(BLOCK.finditer(text))):
        raise BadInput(
            f"{name}: a table or value is not closed; add <!-- end table --> or <!-- end value -->"
        )

    def block(match: re.Match[str]) -> str:
        where = f"{name}: {match['head']}"
        if match["source"] == "perf":
            if match["kind"] != "table":
                raise BadInput(f"{where}: speed is shown as a table; write <!-- table: perf -->")
            content = _speed(_settings(match["settings"], "perf", where), figures, where)
            return f"{match['head']}{content}{match['tail']}"
        kind = "difference" if match["source"] == "difference" else match["kind"]
        settings = _settings(match["settings"], kind, where)
        if "protocol" not in settings:
            raise BadInput(f"{where}: name the protocol, protocol=flickr30k-1k for example")
        write = {"table": _table, "value": _value, "difference": _difference}[kind]
        content = write(settings, tables, where)
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
    return settings


def _speed(settings: Mapping[str, list[str]], figures: Figures | None, where: str) -> str:
    """Seconds, ratios and memory of the benchmarks that a block asks for."""
    wanted = settings.get("modules")
    for module in wanted or ():
        if not (ROOT / "benchmarks" / f"{module}.py").exists():
            raise BadInput(f"{where}: there is no benchmarks/{module}.py; correct modules=")
    if figures is None:
        return "\n\n*No measurement of this table is in `docs/perf.json` yet.*\n\n"
    measured = list(dict.fromkeys(work.benchmark for work in figures.lines))
    missing = [f"`{module}`" for module in wanted or () if module not in measured]
    headers = ["work", "plain, ms", "here, ms", "ratio", "% of matrix product", "peak, MiB"]
    headers += [] if figures.base is None else ["before, ms", "before / here"]
    lines = [headers, ["---", *["---:"] * (len(headers) - 1)]]
    for module in wanted or measured:
        lines += [_work(work, figures) for work in figures.lines if work.benchmark == module]
    grid = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    rate = f"{figures.matrix_product_flops / 1e9:.0f} GFLOP/s"
    threads = "one thread" if figures.threads == 1 else f"{figures.threads} threads"
    note = f"Processor time on {threads}; matrix products of the machine: {rate}."
    if figures.base is not None:
        note += f" Medians of {figures.rounds} rounds in turns; before: `{figures.base}`."
    absent = f"\n\n*Not in `docs/perf.json` yet: {', '.join(missing)}.*" if missing else ""
    return f"\n\n{note}\n\n{grid}{absent}\n\n"


def _work(work: Work, figures: Figures) -> list[str]:
    cells = [
        escaped(work.name),
        _milliseconds(work.plain_seconds),
        _milliseconds(work.seconds),
        f"{work.ratio:.2f}",
        ABSENT if work.share is None else f"{100 * work.share:.0f}",
        f"{work.peak_bytes / 2**20:,.0f}",
    ]
    if figures.base is None:
        return cells
    if work.base_seconds is None:
        return [*cells, ABSENT, ABSENT]
    return [*cells, _milliseconds(work.base_seconds), f"{work.base_seconds / work.seconds:.2f}"]


def _milliseconds(seconds: float) -> str:
    """Three digits."""
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


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


def _difference(settings: Mapping[str, list[str]], tables: Sequence[ShownTable], where: str) -> str:
    """One row minus another, with its interval and p, for example "−0.3 (−3.2 to +2.6, p 0.82)"."""
    methods = settings.get("methods", [])
    if len(methods) != 2:
        raise BadInput(f"{where}: a difference has two rows; name them, methods=timam,cca for example")
    pair = []
    for method in methods:
        found = list(_rows({**settings, "methods": [method]}, tables))
        if len(found) != 1:
            raise BadInput(f"{where}: {len(found)} rows of results/ match {method} instead of one")
        pair.append(found[0])
    first, second = pair
    table = first.table.source
    effect = next(
        (each for each in effects(table) if each.row is first.row and each.ablation is second.row), None
    )
    if effect is not None and effect.p is not None:
        value, ends, p = effect.difference, (effect.low, effect.high), effect.p
    else:
        positions = [next(i for i, row in enumerate(table.rows) if row is each.row) for each in pair]
        measured = table.difference(positions[0], positions[1])
        if measured is None:
            raise BadInput(f"{where}: the two rows are not compared with each other in `report`")
        value, ends = measured.value, (measured.low, measured.high)
        p = next(each.adjusted_p for each in table.pairs if {each.first, each.second} == set(positions))
    digits = lookup(table.primary).unit.digits
    low, high = (f"{end:+.{digits}f}" for end in ends)
    return f"{value:+.{digits}f} ({low} to {high}, p {p:.2g})".replace("-", "−")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every block anew, or with ``--check`` say which are not as their sources have them."""
    parser = argparse.ArgumentParser(
        description="Write the documentation's tables from results/ and docs/perf.json."
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; status 1 where something differs"
    )
    check = parser.parse_args(arguments).check
    tables = read_tables()
    changed = []
    try:
        figures = read_figures()
        for path in documents():
            text = path.read_text(encoding="utf-8")
            new = rewritten(text, tables, str(path.relative_to(ROOT)), figures)
            if new != text:
                changed.append(str(path.relative_to(ROOT)))
                if not check:
                    path.write_text(new, encoding="utf-8")
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    what = "differ from results/ or docs/perf.json, run make docs-tables" if check else "written"
    print(f"{', '.join(changed)}: {what}" if changed else "Every table is as its source has it")
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
