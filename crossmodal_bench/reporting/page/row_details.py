"""How to reproduce one row of a leaderboard, and to cite it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmodal_bench.core.errors import printable, warn_once
from crossmodal_bench.jobs.directory import read_own
from crossmodal_bench.jobs.published import citations
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import Row, features_text, labels_text
from crossmodal_bench.reporting.tables.latex import row_lines
from crossmodal_bench.reporting.tables.shown import Line

LARGEST_CONFIGURATION = 256 * 2**10
"""Maximum size of a resolved configuration in the page, in bytes."""
_PAPERS: Mapping[str, str] = {"united": "addr", "multiple": "addr"}
"""Prefixes of methods' names that are not part of the paper's name."""


@dataclass(frozen=True)
class RowDetails:
    """The details of one row; every text may have several lines.

    Attributes:
        command: creates the row, or one like it from the current sources.
        reproduce: reruns its jobs as their records say, and compares the results.
        configuration: the resolved one of the first seed, as YAML; empty if missing.
        latex: the row of a booktabs table.
        citation: of the method's paper; empty for methods of none of the four papers.
        facts: names and texts of data, split, selection and the like.
        environment: names and texts of versions and hardware.
    """

    command: str
    reproduce: str
    configuration: str
    latex: str
    citation: str
    facts: tuple[tuple[str, str], ...]
    environment: tuple[tuple[str, str], ...]


def row_details(row: Row, line: Line, metrics: Sequence[str], runs: str | Path) -> RowDetails:
    """The details of a row.

    Args:
        row: the row.
        line: the row as displayed.
        metrics: the columns of its table.
        runs: the folder of runs, as the user names it.
    """
    record = row.records[0]
    folder = "results" if row.reference else str(runs)
    return RowDetails(
        command=command_of(row, folder),
        reproduce="\n".join(_reproduce(row, folder)),
        configuration=_configuration(record),
        latex="\n".join(row_lines(line, metrics)),
        citation=_citation(row.method),
        facts=tuple((name, text) for name, text in _facts(row) if text),
        environment=tuple(_environment(row.records)),
    )


def command_of(row: Row, folder: str) -> str:
    """The command that creates a row, or one like it from the current sources; ``folder`` is that of runs."""
    record = row.records[0]
    job = record.job
    if record.ensemble:
        members = dict.fromkeys(f"{folder}/{member.directory}" for member in record.ensemble)
        return shlex.join(["crossmodal-bench", "ensemble", *members])
    if job.preset == "given":
        return "crossmodal-bench evaluate --help  # the vectors of your own model"
    suite = job.suite if job.suite and job.label else None
    command = ["crossmodal-bench", "bench", "--dataset", job.dataset, "--methods", suite or job.method]
    command += ["--preset", job.preset, "--seeds", str(max(row.seeds) + 1)]
    # A suite has its own overrides.
    for key, value in () if suite else job.overrides.items():
        command += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(command)


def _reproduce(row: Row, folder: str) -> Iterable[str]:
    if row.ensemble:
        return
    for record in row.records:
        yield shlex.join(
            ["crossmodal-bench", "reproduce", f"{folder}/{'/'.join(record.directory.parts[-3:])}"]
        )


def _configuration(record: Record) -> str:
    try:
        return read_own(record.files.config, LARGEST_CONFIGURATION).decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        warn_once(f"{record.files.config} is left out of the page ({reason}); run its job again")
        return ""


def _citation(method: str) -> str:
    key = method.partition("_")[0]
    return citations().get(_PAPERS.get(key, key), "").strip()


def _facts(row: Row) -> Iterable[tuple[str, str]]:
    record = row.records[0]
    counts = record.data.counts.get(record.evaluated_on, {})
    items = ", ".join(f"{number:,} {name}" for name, number in counts.items())
    yield "protocol", f"{record.protocol_label}{' (split unverified)' if row.unverified else ''}"
    yield "evaluated on", f"{record.evaluated_on}: {items}" if items else record.evaluated_on
    yield "data fingerprint", _each(each.data.fingerprint for each in row.records)
    yield "split hash", _each(each.data.split_hash for each in row.records)
    yield "sources", _each(each.source_fingerprint for each in row.records)
    yield "selection", _each(_selection(each) for each in row.records)
    yield "seeds", ", ".join(map(str, row.seeds))
    yield "jobs", _each(each.job.id for each in row.records)
    yield "suite", record.job.suite or ""
    yield "label", record.job.label
    yield "overrides", json.dumps(row.overrides, sort_keys=True) if row.overrides else ""
    yield "features", _each(map(features_text, row.records))
    yield "labels", _each(map(labels_text, row.records))
    yield "started from", ", ".join(dict.fromkeys(name for each in row.records for name in each.parents))
    yield "members", str(len(record.ensemble)) if record.ensemble else ""
    yield "finished", max(each.finished_at for each in row.records)


def _selection(record: Record) -> str:
    epoch = record.selection.epoch
    # Records count epochs from 0, but the page always from 1.
    return record.selection.rule if epoch is None else f"{record.selection.rule}, epoch {epoch + 1}"


def _environment(records: Sequence[Record]) -> Iterable[tuple[str, str]]:
    for name in dict.fromkeys(name for record in records for name in record.environment):
        yield name, _each(record.environment.get(name, "unknown") for record in records)


def _each(texts: Iterable[str]) -> str:
    """The common value of all seeds, or the value of each."""
    return " / ".join(dict.fromkeys(printable(text) for text in texts))
