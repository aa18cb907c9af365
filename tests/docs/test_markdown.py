"""Tables are rectangular, links and pictures lead somewhere, and the site's navigation has every page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import ROOT, Document, documents

DOCUMENTS = {document.name: document for document in documents()}
GENERATED = {ROOT / "docs" / "leaderboard" / "index.html"}
"""What `make docs` makes; see tools/docs_site.py."""
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")


def cells(row: str) -> int:
    """How many cells GitHub makes of a line: pipes count unless a backslash stands before them."""
    return len(re.split(r"(?<!\\)\|", row.strip().removeprefix("|").removesuffix("|")))


def uneven_rows(text: str) -> Iterator[str]:
    """Every row of a table that has another number of cells than its header."""
    header = None
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.lstrip().startswith("|"):
            header = None
            continue
        if header is None:
            header = line
            if number + 1 == len(lines) or not re.fullmatch(r"[|:\- ]+", lines[number + 1].strip()):
                yield f"no rule below the header: {line}"
        if cells(line) != cells(header):
            yield line


def anchors(text: str) -> set[str]:
    """The ids of a page's headings, as Python-Markdown and GitHub make them of plain words."""
    found = set()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", plain, flags=re.ASCII).strip().lower()))
    return found


def links(document: Document) -> Iterator[str]:
    """The targets of a page's links and pictures, but for those on other hosts."""
    prose = re.sub(r"(?<!`)`[^`\n]+`(?!`)", "code", document.prose)
    for target in LINK.findall(prose):
        if not re.match(r"[a-z]+:", target):
            yield target


def dangling(document: Document) -> Iterator[str]:
    """The links that lead nowhere."""
    for target in links(document):
        name, _, anchor = target.partition("#")
        path = (document.path.parent / name).resolve() if name else document.path
        there = path.exists() or path in GENERATED
        if not there or (
            anchor and not (path.suffix == ".md" and anchor in anchors(path.read_text("utf-8")))
        ):
            yield target


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_row_of_a_table_has_as_many_cells_as_its_header(name: str) -> None:
    assert list(uneven_rows(DOCUMENTS[name].prose)) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_anchor_and_picture_exists(name: str) -> None:
    assert list(dangling(DOCUMENTS[name])) == []


def test_what_is_wrong_is_seen(tmp_path: Path) -> None:
    assert list(uneven_rows("| a | b |\n|---|---|\n| `x \\| y` | 1 |\n| 1 |\n| 1 | 2 | 3 |")) == [
        "| 1 |",
        "| 1 | 2 | 3 |",
    ]
    assert list(uneven_rows("| a | b |\n| 1 | 2 |")) == ["no rule below the header: | a | b |"]
    page = Document(
        "docs/index.md", "[a](nowhere.md) [b](index.md#nothing) ![c](no.png) `[d](x)` [e](https://x.org)"
    )
    assert list(dangling(page)) == ["nowhere.md", "index.md#nothing", "no.png"]


def test_every_picture_is_shown_somewhere() -> None:
    shown = {
        (document.path.parent / target.partition("#")[0]).resolve()
        for document in DOCUMENTS.values()
        for target in links(document)
    }
    pictures = [path for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".svg", ".ipynb")]
    assert pictures and [path.name for path in pictures if path not in shown] == []


def pages(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    else:
        for child in node.values() if isinstance(node, dict) else node:
            yield from pages(child)


def test_the_navigation_has_every_page_once_and_the_leaderboard() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = list(pages(site["nav"]))
    there = {name.removeprefix("docs/") for name in DOCUMENTS if name.startswith("docs/")}
    assert sorted(named) == sorted([*there, "leaderboard/index.html"])


def test_the_site_fetches_nothing_and_is_plain() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["theme"]["font"] is False
    plugins = [name for entry in site["plugins"] for name in ([entry] if isinstance(entry, str) else entry)]
    assert plugins == ["search", "mkdocstrings"]
    assert not {"hooks", "extra_javascript", "site_url"} & site.keys()


def test_the_readme_is_short() -> None:
    assert len(DOCUMENTS["README.md"].text.splitlines()) <= 150
