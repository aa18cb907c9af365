"""The report: leaderboards in every form, all from the records alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TextIO

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.errors import BadInput, nearest, warn_once
from crossmodal_bench.jobs.directory import check_own, read_own
from crossmodal_bench.jobs.record import Record, unreadable_records
from crossmodal_bench.reporting.comparison.parameter_sweeps import short, sweeps
from crossmodal_bench.reporting.figures import result_figures, training_figures
from crossmodal_bench.reporting.figures.qualitative import panels
from crossmodal_bench.reporting.formats import FILES, FORMATS
from crossmodal_bench.reporting.page.queries import write_queries
from crossmodal_bench.reporting.rows.leaderboard import Table
from crossmodal_bench.reporting.table import csv, difference_csv, shown_tables
from crossmodal_bench.reporting.tables.html import Figure, Section, page
from crossmodal_bench.reporting.tables.latex import latex
from crossmodal_bench.reporting.tables.markdown import markdown, readme
from crossmodal_bench.reporting.tables.shown import ShownTable
from crossmodal_bench.reporting.tables.terminal import print_tables

LARGEST_PICTURE = 16 * 2**20
"""Bytes of a picture that the page takes in."""
PNG = b"\x89PNG\r\n\x1a\n"
"""What every PNG begins with."""


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

    ``references``: records of others that stand beside those of ``runs``. ``queries``: one of ``QUERIES``.
    ``data_root``: where captions and pictures of queries are read from that are not kept beside the records.

    Records that cannot be read are left out with a warning, as ``read_records`` says, and so are figures of
    damaged files.

    Raises ``BadInput`` for an unknown format, a directory without a finished job or without a single record
    that can be read, and a report that cannot be written.
    """
    for name in formats:
        if name not in FORMATS:
            raise BadInput(f"'{name}' is no report format{nearest(name, FORMATS)}")
    tables = shown_tables(runs, references)
    if "terminal" in formats:
        print_tables(tables)
    shown = [record.directory for table in tables for record in table.source.records]
    left_out = unreadable_records(runs, shown)
    writers: Mapping[str, Callable[[Sequence[ShownTable]], str]] = {
        "markdown": markdown,
        "readme": readme,
        "csv": csv,
        "differences": difference_csv,
        "latex": latex,
        "html": partial(html, warnings=left_out),
    }
    files = []
    for name, file in FILES.items():
        if name in formats:
            files.append(report_folder(runs) / file)
            _write(files[-1], writers[name](tables))
    written = []
    if queries == "all":
        sources = [table.source for table in tables]
        written = write_queries(sources, report_folder(runs) / "queries", Path(runs), data_root)
    return Report(tables, files, written)


def print_leaderboard(
    records: Iterable[Record], stream: TextIO | None = None, *, with_notes: bool = True
) -> None:
    """Print the leaderboards of the records so far; says so when there is none yet."""
    print_tables(shown_tables(records), stream, with_notes=with_notes)


def html(tables: Sequence[ShownTable], warnings: Sequence[str] = ()) -> str:
    """The self-contained page: tables, notes, every metric on demand, and the figures that records allow.

    Args:
        tables: what it shows.
        warnings: what it does not show, and why.
    """
    records = [record for table in tables for record in table.source.records]
    last = max((record.finished_at for record in records), default="")
    summary = f"{len(records)} finished jobs, the last at {last}. Different protocols are never compared."
    sections = [Section(table, _figures(table.source)) for table in tables]
    return page("crossmodal-bench leaderboard", summary, sections, warnings)


def _figures(table: Table) -> list[Figure]:
    # A sweep has a figure of its own; its many settings would bury the methods in the others.
    methods = [row for row in table.own if not row.overrides] or table.own
    drawn: list[tuple[bytes | None, str]] = [
        (
            result_figures.precision_scope(methods),
            "Precision against scope, mean over seeds (as ACMR, Figure 3)",
        )
    ]
    # What does not depend on the protocol is shown once, with the protocol that the job is named by.
    mains = [row for row in methods if row.records[0].is_main]
    drawn += [
        (
            training_figures.discriminator_accuracy(mains),
            "Discriminator accuracy over the epochs, mean over seeds",
        ),
        (
            training_figures.validation_curves(mains),
            "Validation over the epochs, mean over seeds: how often the best-scored caption is right "
            "(as ADDR, Figure 3(b))",
        ),
        (
            training_figures.pair_risks(mains),
            "How far a pair's own discriminator and another pair's are from accepting the pair, mean over "
            "seeds: where the lines part, each pair's domain is its own (ADDR, Eq. 4-7)",
        ),
    ]
    for row in mains:
        label = f"{row.name}, preset {row.preset}"
        curves = "losses and discriminator accuracy over the epochs (as ACMR, Figure 5)"
        drawn.append((training_figures.training_curves(row), f"{label}: {curves}"))
        # One seed's map is enough: t-SNE coordinates of different runs cannot be compared or averaged.
        maps = (_projection(record) for record in row.records)
        scatter = "t-SNE of image and text representations (as ACMR, Figure 4)"
        drawn.append((next(filter(None, maps), None), f"{label}: {scatter}"))
        # The first seed's, likewise.
        for path, what in panels(row.records[0].files).items():
            drawn.append((_picture(path), f"{label}: {what}"))
    for sweep in sweeps(table.own):
        caption = f"{sweep.method}: sweep of {short(sweep.key)} (as ACMR, Figure 6)"
        drawn.append((result_figures.parameter_sweep(sweep), caption))
    return [Figure(png, caption) for png, caption in drawn if png is not None]


def _projection(record: Record) -> bytes | None:
    path = record.files.projection
    try:
        check_own(path)
        return result_figures.projection(record)
    except BadInput as error:
        warn_once(f"{error}; its figure is left out meanwhile")
    except OSError as error:
        warn_once(f"{path} is left out of the page ({error.strerror}); delete it or copy it again")
    return None


def _picture(path: Path) -> bytes | None:
    """A picture of a job's directory; None where there is none, or something else."""
    if not os.path.lexists(path):
        return None
    try:
        content = read_own(path, LARGEST_PICTURE)
    except OSError as error:
        reason = error.strerror
    else:
        if content.startswith(PNG):
            return content
        reason = "it is no PNG"
    warn_once(f"{path} is left out of the page ({reason}); delete it or copy it again")
    return None


def report_folder(runs: str | Path) -> Path:
    """Where the report of a folder of runs is written, which need not exist.

    Raises:
        BadInput: it is a link out of the folder, to where files may lie that are not the report's.
    """
    folder = Path(runs) / "report"
    if not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(runs)):
        raise BadInput(f"{folder} is a link out of {runs}; put a folder in its place, or remove it")
    return folder


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What is a link under that name is replaced, and not what it leads to.
        replace_file(path, lambda stream: stream.write(text.encode()))
    except OSError as error:
        raise BadInput(
            f"{path} cannot be written ({error.strerror or error}): free some space or make it writable"
        ) from error
