"""Tables of the documentation that come from ``results/`` and ``docs/perf.json`` are what these give."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from documents import ROOT, tool

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.reporting.comparison.ablations import effects
from crossmodal_bench.reporting.comparison.tie_groups import tie_groups
from crossmodal_bench.reporting.tables.markdown import leaderboard_grid
from crossmodal_bench.reporting.tables.shown import ShownTable

docs_tables = tool("docs_tables")
OFFICIAL = "<!-- table: results protocol=wikipedia-2173-map"
END = "<!-- end table -->"


@pytest.fixture(scope="module")
def tables() -> Sequence[ShownTable]:
    return list(docs_tables.read_tables())


def test_every_table_and_number_is_as_results_has_it(tables: Sequence[ShownTable]) -> None:
    blocks = 0
    figures = docs_tables.read_figures()
    for path in docs_tables.documents():
        text = path.read_text(encoding="utf-8")
        blocks += len(docs_tables.BLOCK.findall(text))
        # To Markdown, a line that begins with a comment is a block of HTML, which ends the sentence.
        assert not re.search(r"^\s*<!-- value", text, re.MULTILINE), f"{path}: a value begins a line"
        assert docs_tables.rewritten(text, tables, path.name, figures) == text, (
            f"{path}: run make docs-tables"
        )
    assert blocks > 5
    assert len(docs_tables.BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))) == 1


def test_a_table_has_the_cells_of_the_report(tables: Sequence[ShownTable]) -> None:
    text = f"before\n{OFFICIAL} columns=preset,seeds,over,ties,metrics,parameters -->\nold\n{END}\nafter\n"
    new = docs_tables.rewritten(text, tables, "page.md")
    assert new.startswith("before\n") and new.endswith(f"{END}\nafter\n") and "old" not in new
    assert docs_tables.rewritten(new, tables, "page.md") == new
    (table,) = (table for table in tables if table.source.protocol == "wikipedia-2173-map")
    theirs = leaderboard_grid(table, tie_groups(table.source)).splitlines()[2:]
    ours = [line for line in new.splitlines() if line.startswith("|")][2:]
    # The costs of the report are its last columns, of which ours has the first.
    assert [row.split("|")[:-2] for row in ours] == [
        row.split("|")[: len(row.split("|")) - 6] for row in theirs
    ]
    assert any("★" in row and "**" in row for row in ours)


def test_marks_are_of_all_rows_whichever_are_shown(tables: Sequence[ShownTable]) -> None:
    text = f"{OFFICIAL} methods=sm,bfan columns=ties,mAP -->{END}"
    new = docs_tables.rewritten(text, tables, "page.md")
    (row,) = [line for line in new.splitlines() if line.startswith("| sm")]
    # Not the first of the leaderboard, although it is the first here.
    assert "★" not in new and "| b |" in row
    assert "*Not in `results/` yet: `bfan`.*" in new


def test_what_has_no_row_yet_shows_no_number(tables: Sequence[ShownTable]) -> None:
    new = docs_tables.rewritten(f"<!-- table: results protocol=no-such -->| 1 |{END}", tables, "page.md")
    assert "No row of this table" in new and "|" not in new


def test_a_number_in_a_sentence(tables: Sequence[ShownTable]) -> None:
    head = "<!-- value: results protocol=wikipedia-2173-map methods=acmr"
    new = docs_tables.rewritten(f"mAP {head} -->?<!-- end value -->.", tables, "page.md")
    (table,) = (table for table in tables if table.source.protocol == "wikipedia-2173-map")
    (value,) = (line.values["mAP"] for line in table.lines if line.name == "acmr")
    assert f"-->{value.text} {value.margin}<!-- end value -->." in new
    with pytest.raises(BadInput, match=r"\d rows of results/ match"):
        docs_tables.rewritten(
            f"{head.removesuffix(' methods=acmr')} -->?<!-- end value -->", tables, "page.md"
        )


def difference(tables: Sequence[ShownTable], methods: str) -> str:
    head = f"<!-- value: difference protocol=wikipedia-2173-map methods={methods} -->"
    new: str = docs_tables.rewritten(f"{head}?<!-- end value -->", tables, "page.md")
    return new.removeprefix(head).removesuffix("<!-- end value -->")


def test_a_difference_is_that_of_the_report(tables: Sequence[ShownTable]) -> None:
    (table,) = (table for table in tables if table.source.protocol == "wikipedia-2173-map")
    (effect,) = effects(table.source)
    # The report prints its p with two digits, too, and its interval in brackets.
    number, _, p = str(effect).rpartition(": mAP ")[2].partition(" (")[0].partition(", p = ")
    ours = (
        difference(tables, "acmr,acmr_no_adversary").replace("−", "-").replace("(", "[").replace(" to ", ", ")
    )
    assert ours.partition(", p ")[0].rstrip() == number.removesuffix("]") and ours.endswith(f"p {p})")
    (pair,) = [line for line in table.differences if {line["row"], line["other_row"]} == {"sm", "cca"}]
    sign = 1 if pair["row"] == "sm" else -1
    assert difference(tables, "sm,cca").startswith(f"{sign * pair['difference']:+.3f} (")
    assert difference(tables, "sm,cca").endswith(f", p {pair['adjusted_p']:.2g})")
    assert difference(tables, "cca,sm")[1:6] == difference(tables, "sm,cca")[1:6]
    assert difference(tables, "cca,sm")[0] == "−"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"{OFFICIAL} -->", "is not closed"),
        (
            "<!-- value: difference protocol=wikipedia-2173-map methods=acmr --><!-- end value -->",
            "a difference has two rows; name them",
        ),
        (
            "<!-- value: difference protocol=wikipedia-2173-map methods=acmr,clip --><!-- end value -->",
            "0 rows of results/ match clip instead of one",
        ),
        (f"{OFFICIAL} colums=mAP -->{END}", "colums=mAP is not a setting"),
        (f"{OFFICIAL} columns=mAp -->{END}", "no row has a column mAp"),
        (f"<!-- table: results methods=acmr -->{END}", "name the protocol"),
        (f"<!-- table: perf modules=rankings -->{END}", "there is no benchmarks/rankings.py"),
        (
            f"<!-- table: perf protocol=flickr30k-1k -->{END}",
            "is not a setting; write KEY=VALUE with modules",
        ),
        ("<!-- value: perf --><!-- end value -->", "speed is shown as a table"),
    ],
)
def test_a_wrong_block_is_told(text: str, sentence: str, tables: Sequence[ShownTable]) -> None:
    with pytest.raises(BadInput, match=f"page.md.*{sentence}"):
        docs_tables.rewritten(text, tables, "page.md")


def test_the_command_writes_and_checks(
    tables: Sequence[ShownTable],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"{OFFICIAL} -->{END}\n")
    monkeypatch.setattr(docs_tables, "ROOT", tmp_path)
    monkeypatch.setattr(docs_tables, "documents", lambda: [page])
    monkeypatch.setattr(docs_tables, "read_tables", lambda: tables)
    assert docs_tables.main(["--check"]) == 1 and "run make docs-tables" in capsys.readouterr().out
    assert docs_tables.main([]) == 0 and "★ acmr" in page.read_text()
    assert docs_tables.main(["--check"]) == 0
    page.write_text(f"{OFFICIAL} -->")
    assert docs_tables.main([]) == 2 and "not closed" in capsys.readouterr().err


def test_a_method_stands_for_all_of_its_labels(tables: Sequence[ShownTable]) -> None:
    (table,) = (table for table in tables if table.source.protocol == "wikipedia-2173-map")
    labelled = replace(table.source.rows[0], label="five passes, constant rate")
    source = replace(table.source, rows=(labelled, *table.source.rows[1:]))
    changed = replace(table, source=source)
    text = f"{OFFICIAL} methods=acmr columns=mAP -->{END}"
    assert docs_tables.rewritten(text, [changed], "page.md").count("| ★ acmr |") == 1
    assert docs_tables.rewritten(text.replace("=acmr ", "=acmr_other "), [changed], "page.md").count("|") == 0


def perf_file(folder: Path, base: str | None, tiny: bool = False) -> Path:
    """As ``benchmarks/perf.py`` writes it."""
    work = {
        "benchmark": "reward",
        "name": "CIDEr-D | 2",
        "plain_seconds": 0.5,
        "seconds": 0.0125,
        "ratio": 40.0,
    }
    work |= {"flops": None, "share": None, "peak_bytes": 3 * 2**20, "note": ""}
    ranks = {**work, "benchmark": "ranking", "name": "ranks", "share": 0.48, "peak_bytes": 2**31}
    of_base = {"base_seconds": 0.05} if base else {}
    content = {
        "lines": [work | of_base, ranks | ({"base_seconds": None} if base else {})],
        "failed": {},
        "matrix_product_flops": 59.4e9,
        "threads": 1,
        "base": base,
        "rounds": 3 if base else 1,
        "tiny": tiny,
        "machine": {},
    }
    path = folder / "perf.json"
    path.write_text(json.dumps(content))
    return path


def test_speed_comes_from_what_make_perf_has_measured(tmp_path: Path) -> None:
    block = f"<!-- table: perf modules=ranking,reward,generation -->{END}"
    new = docs_tables.rewritten(block, [], "page.md", docs_tables.read_figures(perf_file(tmp_path, None)))
    rows = [line for line in new.splitlines() if line.startswith("|")]
    assert rows[2] == "| ranks | 500 | 12.5 | 40.00 | 48 | 2,048 |"
    assert rows[3] == "| CIDEr-D \\| 2 | 500 | 12.5 | 40.00 | – | 3 |"
    assert "Not in `docs/perf.json` yet: `generation`" in new and "59 GFLOP/s" in new
    assert docs_tables.rewritten(new, [], "page.md", docs_tables.read_figures(tmp_path / "perf.json")) == new


def test_speed_of_before_stands_beside_it(tmp_path: Path) -> None:
    figures = docs_tables.read_figures(perf_file(tmp_path, "v1.0"))
    new = docs_tables.rewritten(f"<!-- table: perf -->{END}", [], "page.md", figures)
    rows = [line for line in new.splitlines() if line.startswith("|")]
    assert rows[0].endswith("| before, ms | before / here |") and len(rows) == 4
    assert rows[2].endswith("| 50.0 | 4.00 |") and "Medians of 3 rounds in turns; before: `v1.0`." in new


def test_speed_that_nobody_has_measured_shows_no_number(tmp_path: Path) -> None:
    assert docs_tables.read_figures(tmp_path / "perf.json") is None
    new = docs_tables.rewritten(f"<!-- table: perf -->| 1 |{END}", [], "page.md")
    assert "No measurement of this table is in `docs/perf.json` yet." in new and "|" not in new
    with pytest.raises(BadInput, match="made with --tiny"):
        docs_tables.read_figures(perf_file(tmp_path, None, tiny=True))
