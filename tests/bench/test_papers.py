"""docs/papers.md: every row of the papers' tables is there; a command makes what it is said to make."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from crossmodal_bench.bench.option_checks import check_options, method_names
from crossmodal_bench.bench.options import BenchOptions, add_options, read_options
from crossmodal_bench.bench.plan import preset_for
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.published import PublishedRow, published_rows
from crossmodal_bench.jobs.schema import SuiteFile

PAGE = Path(__file__).parents[2] / "docs" / "papers.md"
OF_DEEP_FEATURES = "wikipedia_deep"
"""Our data set of Wikipedia's deep features, which the papers' tables do not call another one."""


@dataclass(frozen=True)
class Entry:
    """A line of the page."""

    paper: str
    what: str
    made: str
    commands: tuple[str, ...]
    published_only: tuple[str, ...]

    @property
    def table(self) -> str | None:
        """As the catalogue calls it; None for figures and sections."""
        if self.what.startswith("in-text"):
            return self.what
        return self.what.removeprefix("Table ") if self.what.startswith("Table ") else None


def entries() -> list[Entry]:
    found = []
    paper = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            paper = line.split()[1].lower()
        elif line.startswith("| ") and not line.startswith("| table or figure"):
            what, made, commands, published_only = (cell.strip() for cell in line.strip("|").split("|"))
            found.append(
                Entry(paper, what, made, tuple(re.findall("`([^`]+)`", commands)), names(published_only))
            )
    return found


def names(cell: str) -> tuple[str, ...]:
    return tuple(name for name in cell.split("; ") if name)


ENTRIES = entries()
TABLES = {(entry.paper, entry.table): entry for entry in ENTRIES if entry.table is not None}
CATALOGUE = sorted({(row.paper, row.table) for row in published_rows()})


def options_of(command: str) -> BenchOptions:
    """What `make` makes of its variables."""
    program, target, *variables = shlex.split(command)
    assert (program, target) == ("make", "bench")
    parser = argparse.ArgumentParser()
    add_options(parser)
    words = []
    for variable in variables:
        name, value = variable.split("=", 1)
        words += [f"--{name.lower().replace('_', '-')}", value]
    return read_options(parser.parse_args(words))


def suite_of(options: BenchOptions) -> SuiteFile:
    if options.methods in experiments.names("suites"):
        return experiments.suite(options.methods)
    return SuiteFile(methods=tuple(method_names(options.methods)))


def rows_of(options: BenchOptions) -> set[tuple[str, str, str, bool]]:
    """Data set, method, label and whether it is a sum of models, of every row that a command makes."""
    suite = suite_of(options)
    made = {(row.method, row.label, False) for row in experiments.suite_rows(suite)}
    # An ensemble's label says of what it is a sum; published sums have none.
    made |= {(row.method, "", True) for row in suite.ensembles}
    datasets = [options.dataset] if options.dataset else suite.datasets
    return {(dataset, *row) for dataset in datasets for row in made}


def wanted(row: PublishedRow) -> tuple[str, str, str, bool]:
    """The row of ours that a published one is of."""
    deep = row.dataset == "wikipedia" and row.image is not None and row.image.network == "vgg"
    dataset = OF_DEEP_FEATURES if deep else "acmr_coco" if row.protocol == "acmr-coco" else row.dataset
    assert row.ours is not None
    return dataset, row.ours, row.label, bool(row.ensemble)


@pytest.mark.parametrize(("paper", "table"), CATALOGUE, ids="-".join)
def test_a_table_has_all_of_its_rows_and_commands_that_make_ours(paper: str, table: str) -> None:
    entry = TABLES[paper, table]
    rows = [row for row in published_rows() if (row.paper, row.table) == (paper, table)]
    ours = [row for row in rows if row.ours is not None]
    shown = [name for name in names(entry.made) if not name.startswith("also ")]
    assert shown == list(dict.fromkeys(row.method for row in ours))
    others = [row.method for row in rows if row.ours is None]
    assert list(entry.published_only) == list(dict.fromkeys(others))
    made = set().union(*(rows_of(options_of(command)) for command in entry.commands))
    missing = {wanted(row) for row in ours} - made
    assert not missing, f"no command of {entry.what} makes {sorted(missing)}"


def test_every_table_and_figure_of_the_papers_is_there() -> None:
    counts = {"acmr": (5, 6), "gxn": (4, 6), "timam": (5, 5), "addr": (3, 4)}
    roman = {"I": 1, "II": 2, "III": 3}
    for paper, (tables, figures) in counts.items():
        lines = [entry for entry in ENTRIES if entry.paper == paper]
        numbers = {roman.get(str(entry.table), entry.table) for entry in lines if entry.table is not None}
        assert {str(number) for number in numbers if "in-text" not in str(number)} == {
            str(number) for number in range(1, tables + 1)
        }
        drawn = {
            int(number)
            for entry in lines
            if entry.what.startswith("Figure")
            for number in re.findall(r"\d+", entry.what)
        }
        assert drawn == set(range(1, figures + 1))


@pytest.mark.parametrize("command", sorted({command for entry in ENTRIES for command in entry.commands}))
def test_a_command_means_something_and_has_the_papers_settings(command: str) -> None:
    options = options_of(command)
    check_options(options)
    suite = suite_of(options)
    datasets = [options.dataset] if options.dataset else suite.datasets
    assert datasets
    assert {preset_for(options.preset, name, gpu=False, suite=suite) for name in datasets} == {"paper"}


def test_what_has_no_command_is_a_drawing_or_a_size() -> None:
    bare = {(entry.paper, entry.what) for entry in ENTRIES if not entry.commands}
    assert bare == {
        *(("acmr", what) for what in ("Table 1", "Figures 1, 2")),
        ("gxn", "Figures 1, 2"),
        ("timam", "Figures 1, 2, 3"),
        ("addr", "Figures 1, 2"),
    }


def test_every_suite_of_the_papers_is_named() -> None:
    page = PAGE.read_text()
    of_papers = [name for name in experiments.names("suites") if re.search("_(table|figure)", name)]
    assert of_papers and all(f"METHODS={name} " in page for name in of_papers)
