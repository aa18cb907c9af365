"""The page in a browser without a network, opened from disk: what people see, click, print and link to."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossmodal_bench.cli.main import main

TABLE = "flickr8k-1k-test"
WIDTHS = (390, 1440, 2560)


class Watched:
    """A page with what its browser has complained of and asked for."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.address = address
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, fragment: str = "") -> Any:
        # From another page, or only the fragment would change.
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}{fragment}")
        return self.page

    def check(self) -> None:
        """It has complained of nothing, and asked for nothing but the page itself."""
        assert self.said == []
        fetched = [url for url in self.asked if not url.startswith(("data:", "about:"))]
        assert {url.partition("#")[0] for url in fetched} == {self.address}


@pytest.fixture(scope="module")
def watched(browser: Any, page_file: Path) -> Iterator[Watched]:
    context = browser.new_context(offline=True, viewport={"width": 1440, "height": 900})
    yield Watched(context.new_page(), page_file.as_uri())
    context.close()


def methods(page: Any, table: str = TABLE) -> list[str]:
    """The names of a leaderboard's rows that are shown, in their order."""
    return page.eval_on_selector_all(
        f"#{table} table.rows tbody tr:not([hidden]) th", "cells => cells.map(cell => cell.dataset.value)"
    )


def test_the_first_screen_answers_who_is_ahead_and_what_adversaries_add(watched: Watched) -> None:
    page = watched.open()
    page.wait_for_selector(".forest .plot svg.marks")
    for selector in (".findings", "table.rows tbody tr:last-child", ".forest .plot svg"):
        box = page.locator(f"#{TABLE} {selector}").first.bounding_box()
        assert box["y"] + box["height"] <= 900, selector
    assert "cannot be told apart" in page.inner_text(f"#{TABLE} .findings") or "ahead of" in page.inner_text(
        f"#{TABLE} .findings"
    )
    page.wait_for_function("document.querySelectorAll('.forest .vega-embed, .forest .plot div').length > 0")
    watched.check()


def test_names_stand_on_one_line_and_nothing_is_wider_than_the_screen(watched: Watched) -> None:
    page = watched.open()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        lines = page.eval_on_selector_all(
            "table.rows tbody th .name",
            """names => names.map(name =>
                 name.getBoundingClientRect().height / parseFloat(getComputedStyle(name).lineHeight))""",
        )
        assert lines and max(lines) < 1.5
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1440, "height": 900})
    watched.check()


def test_a_click_sorts_and_a_link_shows_the_same(watched: Watched) -> None:
    page = watched.open()
    before = methods(page)
    header = page.locator(f"#{TABLE} th[data-key='t2i/R@1']")
    header.locator("button").click()
    values = page.eval_on_selector_all(
        f"#{TABLE} table.rows tbody tr",
        "(rows, column) => rows.map(row => parseFloat(row.cells[column].dataset.value))",
        header.evaluate("header => header.cellIndex"),
    )
    assert values == sorted(values, reverse=True) and header.get_attribute("aria-sort") == "descending"
    header.locator("button").press("Enter")
    assert header.get_attribute("aria-sort") == "ascending" and methods(page)[0] != before[0]
    again, link = methods(page), page.url
    watched.open(link.removeprefix(watched.address))
    assert methods(page) == again
    page.locator(f"#{TABLE} th[data-key='t2i/R@1'] button").click()
    assert methods(page) == before and "sort" not in page.url
    watched.check()


def test_filters_leave_rows_out_of_table_and_charts(watched: Watched) -> None:
    page = watched.open()
    page.fill("input[name=find]", "timam")
    assert methods(page) == ["timam", "timam_no_adversary"]
    assert methods(page, "wikipedia-2173-map-test") == []
    assert page.is_visible("#wikipedia-2173-map-test .empty")
    assert "find=timam" in page.url and page.inner_text("output").startswith("2 of ")
    page.locator(f"#chart-{TABLE}-recall-i2t").scroll_into_view_if_needed()
    page.wait_for_function(
        f"document.querySelectorAll('#chart-{TABLE}-recall-i2t .plot div svg .mark-line path').length === 2"
    )
    page.select_option("select[name=dataset]", "wikipedia")
    assert not page.is_visible(f"#{TABLE}") and page.is_visible("#wikipedia-2173-map-test")
    watched.open("#dataset=flickr8k")
    assert page.is_visible(f"#{TABLE}") and not page.is_visible("#wikipedia-2173-map-test")
    watched.check()


def test_a_rows_link_opens_how_to_get_it_and_copies(watched: Watched) -> None:
    page = watched.open()
    page.locator(f"#{TABLE} table.rows a").first.click()
    row = page.url.partition("row=")[2]
    details = page.locator(f"details.row[data-row='{row}']")
    assert details.get_attribute("open") is not None
    text = details.inner_text()
    assert "crossmodal-bench bench --dataset flickr8k" in text and "data fingerprint" in text
    assert "flickr8k-1k@1" in text and "crossmodal-bench reproduce" in text
    for label in ("Command", "LaTeX", "Citation"):
        page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
        details.get_by_role("button", name=f"Copy: {label}", exact=True).click()
        copied = page.evaluate("window.copied")
        assert copied == details.locator(f"pre[aria-label='{label}']").text_content()
    watched.open(f"#row={row}")
    assert page.locator(f"details.row[data-row='{row}']").get_attribute("open") is not None
    watched.check()


def test_every_chart_is_drawn_when_it_is_looked_at(watched: Watched) -> None:
    page = watched.open()
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    charts = page.locator("figure.chart")
    assert charts.count() > 20
    for number in range(charts.count()):
        charts.nth(number).scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('figure.chart .plot')].every(plot => plot.querySelector('div svg'))"
    )
    clipped = page.evaluate(
        """() => [...document.querySelectorAll("figure.chart .plot svg")].filter(drawing => {
             const edge = drawing.getBoundingClientRect();
             return [...drawing.querySelectorAll("text")].some(text => {
               const box = text.getBoundingClientRect();
               return box.left < edge.left - 1 || box.right > edge.right + 1;
             });
           }).length"""
    )
    assert clipped == 0
    watched.check()


def test_print_has_every_column(watched: Watched) -> None:
    page = watched.open()
    page.emulate_media(media="print")
    # A4 landscape without its margins, at 96 dots per inch.
    page.set_viewport_size({"width": 1062, "height": 733})
    boxes = page.eval_on_selector_all(
        "table.rows thead th",
        "cells => cells.map(cell => cell.getBoundingClientRect()).map(box => [box.width, box.right])",
    )
    assert len(boxes) > 20 and all(width > 0 and right <= 1062 for width, right in boxes)
    assert not page.is_visible("form.filters")
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize(
    ("scheme", "rules"),
    [("light", {}), pytest.param("dark", {"runOnly": ["color-contrast"]}, marks=pytest.mark.slow)],
)
def test_axe_finds_nothing(watched: Watched, scheme: str, rules: dict[str, list[str]]) -> None:
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe

    # One row of every part of the page: more of the same would only take longer.
    page = watched.open(f"#dataset=flickr8k&find=gxn_finetune&row={TABLE}-gxn-finetune-small")
    page.wait_for_selector("details.row[open] .plot div svg")
    # What is hidden is not looked at, and a drawing is one picture with a text: both would only take time.
    page.evaluate("document.querySelectorAll('[hidden], .plot > *').forEach(part => part.remove())")
    page.emulate_media(color_scheme=scheme)
    found = Axe().run(page, options=rules)
    page.emulate_media(color_scheme="light")
    assert found.violations_count == 0, found.generate_report()


def test_without_script_the_tables_say_the_same(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator(f"#{TABLE} table.rows tbody tr").count() == 8
    assert page.locator(".forest .plot svg").count() >= 1 and not page.is_visible("form.filters")
    context.close()


def test_hostile_text_is_text(watched: Watched, page_file: Path) -> None:
    page = watched.open()
    text = page_file.read_text()
    assert not set(text) & {"\x1b", "\u202e"} and "<img src=x" not in text and "<script>alert" not in text
    (name,) = [each for each in methods(page) if each.startswith("vse")]
    assert "<script>alert(1)</script>" in name and "{{7*7}}" in name
    assert page.locator("img[src='x']").count() == 0
    watched.check()


def test_the_charts_of_the_page_are_those_that_the_command_writes(board: Path, watched: Watched) -> None:
    page = watched.open()
    (command,) = set(
        page.eval_on_selector_all(".data code:first-of-type", "all => all.map(c => c.textContent)")
    )
    program, *words = shlex.split(command)
    assert program == "crossmodal-bench" and main(words) == 0
    written = json.loads((board / "report" / "charts.json").read_text())
    shown = page.eval_on_selector_all(
        "figure.chart",
        "figures => figures.map(each => [each.id, each.querySelector('script').textContent])",
    )
    assert {name.removeprefix("chart-") for name, _ in shown} == set(written)
    for name, text in shown:
        assert json.loads(text)["data"] == written[name.removeprefix("chart-")]["data"]
