"""Leaderboards as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from answered import Answered

from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.table import shown_tables
from crossmodal_bench.reporting.tables.latex import escaped, latex
from crossmodal_bench.reporting.tables.shown import show

Maker = Callable[..., Record]


def rows(text: str) -> list[list[str]]:
    """The cells of the tabular's rows."""
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [[cell.strip() for cell in line.removesuffix(r"\\").split(" & ")] for line in lines]


def width(row: list[str]) -> int:
    spans = [re.match(r"\\multicolumn\{(\d+)\}", cell) for cell in row]
    return sum(int(span[1]) if span else 1 for span in spans)


def test_a_table_has_booktabs_rules_directions_and_margins(answered: Answered) -> None:
    records = [answered(0.3, method="timam_no_adversary", seed=seed) for seed in (0, 1)]
    (table,) = map(show, answered.tables([*records, answered(0.15, method="cca")]))
    text = latex([table])
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.splitlines().count(rule) == 1
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    directions, head, timam, cca = rows(text)
    assert directions[4:6] == [
        r"\multicolumn{3}{c}{image $\rightarrow$ text}",
        r"\multicolumn{3}{c}{text $\rightarrow$ image}",
    ]
    assert r"\cmidrule(lr){5-7} \cmidrule(lr){8-10}" in text
    assert head == ["method", "preset", "n", r"$\pm$ over", *["R@1", "R@5", "R@10"] * 2, "rsum"]
    assert {width(row) for row in rows(text)} == {len(head)}
    assert timam[:4] == [r"$\star$ timam\_no\_adversary", "small", "2", "images, seeds"]
    first, second = (line.values["rsum"] for line in table.lines)
    assert timam[-1] == rf"\textbf{{{first.text}}}{{\scriptsize\,$\pm${first.margin[1:]}}}"
    assert cca[-1] == rf"{second.text}{{\scriptsize\,$\pm${second.margin[1:]}}}"
    assert f"{{@{{}}llrl{'r' * 7}@{{}}}}" in text


def test_the_caption_says_protocol_and_margins_and_notes_are_comments(answered: Answered) -> None:
    records = [answered(0.3, method="cca"), answered(0.2, method="vse")]
    text = latex(map(show, answered.tables(records)))
    caption = next(line for line in text.splitlines() if line.startswith(r"\caption{"))
    assert "flickr8k-1k" in caption and r"$\pm$ is the longer side of a 95 \%" in caption
    assert r"$\star$ marks the rows" in caption
    assert "of this one model on other images" in caption
    assert "% preset small: small networks" in text
    end = text.splitlines().index(r"\end{table}")
    assert all(line.startswith("%") or not line for line in text.splitlines()[end + 1 :])


def test_published_lines_and_presets_are_set_apart(make_record: Maker) -> None:
    records = [make_record(protocol="wikipedia-1300-map", preset=preset) for preset in ("paper", "small")]
    text = latex(shown_tables(records))
    paper = next(row for row in rows(text) if row[0].startswith(r"\emph{ACMR Table 2"))
    assert paper[1:] == ["paper", "", "", "0.366", "0.277", "0.322", *paper[7:]]
    assert text.count(r"\midrule") == 2


def test_a_warning_is_no_comment(make_record: Maker) -> None:
    moved = {**make_record(seed=0).content["data"], "fingerprint": "f" * 64}
    text = latex(shown_tables([make_record(seed=0), make_record(seed=1, data=moved)]))
    assert text.count(r"\par\footnotesize\textbf{Warning: ") == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (r"\input{x}", r"{\textbackslash}input\{x\}"),
        ("50 % of $5 & #1_a^b~c", r"50 \% of \$5 \& \#1\_a{\textasciicircum}b{\textasciitilde}c"),
        ("a--b <c|d>", r"a-{}-b {\textless}c{\textbar}d{\textgreater}"),
        ("[1ex] *", "{[}1ex{]} {*}"),
        ("näive Čapek", r"n\"{a}ive \v{C}apek"),
        ("中 😀", r"\texttt{U+4E2D} \texttt{U+1F600}"),
        ("two\nlines\x1b", r"two lines{\textbackslash}x1b"),
        ("a ± b – c", r"a $\pm$ b {\textendash} c"),
    ],
)
def test_text_is_set_as_it_is(given: str, expected: str) -> None:
    assert escaped(given) == expected


@pytest.mark.parametrize("label", ["[2em] x", "*", "a & b", r"x \\ y", "%", "}", "$"])
def test_a_label_cannot_break_the_table(make_record: Maker, label: str) -> None:
    text = latex(shown_tables([make_record(label=label)]))
    assert {width(row) for row in rows(text)} == {4 + 6}
    unescaped = re.sub(r"\\[\\{}$&#_%]", "", text)
    assert unescaped.count("{") == unescaped.count("}")
    assert unescaped.count("$") % 2 == 0
    assert len(rows(text)) == 3
