"""Leaderboards as Markdown."""

from __future__ import annotations

from collections.abc import Callable

from answered import Answered

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.charts.collection import collect
from crossmodal_bench.reporting.report import html
from crossmodal_bench.reporting.table import shown_tables
from crossmodal_bench.reporting.tables.markdown import markdown, readme
from crossmodal_bench.reporting.tables.shown import show

Maker = Callable[..., Record]


def rectangular(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_published_numbers_stand_in_their_own_row(make_record: Maker) -> None:
    tables = shown_tables([make_record(protocol="wikipedia-1300-map", preset="paper")])
    for text, first in ((markdown(tables), 5), (readme(tables), 4)):
        paper = next(line for line in text.splitlines() if line.startswith("| *ACMR Table 2"))
        assert [cell.strip() for cell in paper.split("|")][first : first + 3] == ["0.366", "0.277", "0.322"]
        assert rectangular(text)
    assert "ACMR Table 2" in html(tables, collect([table.source for table in tables]), "runs")


def test_tables_are_rectangular_and_escape_labels(make_record: Maker) -> None:
    tables = shown_tables([make_record(label="a|b <i>*c*")])
    for text in (markdown(tables), readme(tables)):
        assert r"a\|b \<i\>\*c\*" in text
        assert rectangular(text)


def test_a_readmes_block_says_what_its_numbers_mean_and_no_more(answered: Answered) -> None:
    records = [answered(0.3, method="scan", seed=seed) for seed in (0, 1)]
    tables = [show(table) for table in answered.tables([*records, answered(0.15, method="cca")])]
    text = readme(tables)
    caption, _, head, _, scan, cca = text.splitlines()
    title = "flickr8k · flickr8k-1k@1 · test · ranked by rsum"
    assert caption.startswith(f"{title}. Preset small. ± is the longer side of a 95 % interval; over images")
    assert head.startswith("| method | n | ± over | i2t/R@1 |") and head.endswith("| rsum |")
    assert scan.startswith("| ★ scan | 2 | images, seeds |") and scan.count("±") == 1
    first, second = (line.values["rsum"] for line in tables[0].lines)
    assert scan.endswith(f"| **{first.text} {first.margin}** |")
    assert cca.startswith("| cca | 1 | images |") and cca.endswith(f"| {second.text} {second.margin} |")
    assert "training samples/s" in markdown(tables) and "training samples/s" not in text


def test_warnings_stand_beneath_a_readmes_block(make_record: Maker) -> None:
    moved = {**make_record(seed=0).content["data"], "fingerprint": "f" * 64}
    tables = shown_tables([make_record(seed=0), make_record(seed=1, data=moved)])
    assert "- **Warning: acmr (small) averages seeds of different data" in readme(tables)
