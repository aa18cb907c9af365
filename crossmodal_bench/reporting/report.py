"""The report: leaderboards in every format, from the records alone."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.jobs.record import Record, unreadable_records
from crossmodal_bench.reporting.formats import FILES, FORMATS
from crossmodal_bench.reporting.table import csv, difference_csv, shown_tables
from crossmodal_bench.reporting.tables.latex import latex
from crossmodal_bench.reporting.tables.markdown import markdown, readme
from crossmodal_bench.reporting.tables.shown import ShownTable
from crossmodal_bench.reporting.tables.terminal import print_tables

if TYPE_CHECKING:
    from crossmodal_bench.reporting.charts.collection import TableCharts
    from crossmodal_bench.reporting.rows.leaderboard import Table


@dataclass(frozen=True)
class Report:
    """What was built: the tables, the files in the order of ``FILES``, and the files of single queries."""

    tables: list[ShownTable]
    files: list[Path]
    queries: list[Path] = field(default_factory=list)


def build_report(
    runs: str | Path,
    formats: Sequence[str] = FORMATS,
    references: Sequence[Record] = (),
    *,
    queries: str = "embedded",
    data_root: Path | None = None,
) -> Report:
    """Print (``terminal``) or write (``runs/report/``, under the names of ``FILES``) the leaderboards.

    ``references``: records of others, shown alongside those of ``runs``. ``queries``: one of ``QUERIES``.
    ``data_root``: where to read captions and pictures of queries that are not kept with the records.

    Unreadable records are skipped with a warning, as in ``read_records``, and so are figures from damaged
    files.

    Raises ``BadInput`` for an unknown format, a directory without a finished job or without any readable
    record, and a report that cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise BadInput(f"'{name}' is not a report format{nearest(name, FORMATS)}")
    tables = shown_tables(runs, references)
    if "terminal" in formats:
        print_tables(tables)
    shown = [record.directory for table in tables for record in table.source.records]
    left_out = unreadable_records(runs, shown)
    sources = [table.source for table in tables]
    collections: list[TableCharts] = []
    if not {"html", "charts"}.isdisjoint(formats):
        # Altair takes a second to import, and a bench's workers do not need it.
        from crossmodal_bench.reporting.charts.collection import collect

        collections = collect(sources)
    writers: Mapping[str, Callable[[], str]] = {
        "markdown": lambda: markdown(tables),
        "readme": lambda: readme(tables),
        "csv": lambda: csv(tables),
        "differences": lambda: difference_csv(tables),
        "latex": lambda: latex(tables),
        "html": lambda: html(tables, collections, runs, left_out, _queries(sources, runs, data_root)),
        "charts": lambda: _charts(collections),
    }
    files = []
    for name, file in FILES.items():
        if name in formats:
            files.append(report_folder(runs) / file)
            _write(files[-1], writers[name]())
    written = []
    if queries == "all":
        from crossmodal_bench.reporting.page.queries import write_queries

        written = write_queries(sources, report_folder(runs) / "queries", Path(runs), data_root)
    return Report(tables, files, written)


def print_leaderboard(
    records: Iterable[Record], stream: TextIO | None = None, *, with_notes: bool = True
) -> None:
    """Print the leaderboards of the records so far; or say that there is none yet."""
    print_tables(shown_tables(records), stream, with_notes=with_notes)


def html(
    tables: Sequence[ShownTable],
    collections: Sequence[TableCharts],
    runs: str | Path,
    left_out: Sequence[str] = (),
    queries: Mapping[str, Any] | None = None,
) -> str:
    """The self-contained page: leaderboards, charts, and how to reproduce each row.

    Args:
        tables: the tables to show.
        collections: the charts of each table.
        runs: the folder of runs, as the user names it.
        left_out: what is not shown, and why.
        queries: single queries with their answers, from ``queries_context``.
    """
    from crossmodal_bench.reporting.page.contents import page_tables
    from crossmodal_bench.reporting.page.document import document

    records = [record for table in tables for record in table.source.records]
    last = (
        max((record.finished_at for record in records), default="")
        .replace("T", " ")
        .replace("+00:00", " UTC")
    )
    summary = f"{len(records)} finished jobs, the last at {last}. Different protocols are never compared."
    contents = page_tables(tables, collections, runs)
    # Without rows of others none are shown, whatever results/ holds by the time somebody runs the command.
    company = any(row.reference for table in tables for row in table.source.rows)
    options = shlex.join(["--runs", str(runs)]) + ("" if company else " --reference off")
    return document("crossmodal-bench leaderboard", summary, contents, options, left_out, queries)


def _queries(sources: Sequence[Table], runs: str | Path, data_root: Path | None) -> Mapping[str, Any] | None:
    from crossmodal_bench.reporting.page.queries import queries_context

    return queries_context(sources, Path(runs), data_root)


def _charts(collections: Sequence[TableCharts]) -> str:
    from crossmodal_bench.reporting.charts.collection import charts_json

    return charts_json(collections)


def report_folder(runs: str | Path) -> Path:
    """The folder of the report of a folder of runs; it need not exist.

    Raises:
        BadInput: it is a link out of the folder of runs, where it could overwrite unrelated files.
    """
    folder = Path(runs) / "report"
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(runs)):
        raise BadInput(f"{folder} is a link out of {runs}; replace it with a folder, or remove it")
    return folder


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Replaces a link of that name rather than its target.
        replace_file(path, lambda stream: stream.write(text.encode()))
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written ({error.strerror or error}): free space or make it writable"
        ) from error
