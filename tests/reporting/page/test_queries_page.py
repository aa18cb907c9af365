"""The part with the queries in a browser: headless Chromium, from disk, without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from query_page import write_query_page
from ranked import ranked_record, scores_of, split_corpus

from crossmodal_bench.data import Corpus
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.page.gallery import keep_gallery
from crossmodal_bench.reporting.page.queries import queries_context
from crossmodal_bench.reporting.rows.leaderboard import Table, leaderboard, tables

IMAGES, PER_IMAGE = 12, 3
OWNER = np.repeat(np.arange(IMAGES), PER_IMAGE)
HOSTILE = "</script><img src=x onerror=alert(1)> dog"


@pytest.fixture(scope="module")
def written() -> list[str]:
    """The page's text, once it has been made."""
    return []


@pytest.fixture
def page(
    browser: Any,
    written: list[str],
    make_record: Callable[..., Record],
    make_content: Callable[..., dict[str, Any]],
    runs: Path,
    tmp_path: Path,
) -> Iterator[Any]:
    """Two methods on a split with pictures, and one protocol without; what goes wrong ends the test."""
    path = tmp_path / "index.html"
    if not written:
        write_query_page(path, queries_context(_tables(make_record, make_content), runs))
        written.append(path.read_text())
    path.write_text(written[0])
    context = browser.new_context(viewport={"width": 1440, "height": 900}, offline=True)
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda message: wrong.append(message.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.on(
        "request",
        lambda request: wrong.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    opened.set_default_timeout(5000)
    opened.goto(path.as_uri())
    yield opened
    context.close()
    assert wrong == []


def _tables(make_record: Callable[..., Record], make_content: Callable[..., dict[str, Any]]) -> list[Table]:
    captions = [*split_corpus().captions]  # type: ignore[misc]
    captions[12 + 3] = HOSTILE
    corpus = Corpus(**{**split_corpus(like={7: 3}).__dict__, "captions": tuple(captions)})
    names = [f"{4 + row}.jpg" for row in range(IMAGES)]
    ids = (names, [f"{name}#{k}" for name in names for k in range(PER_IMAGE)])
    data = {**make_content()["data"], "fingerprint": corpus.fingerprint}
    right = np.eye(IMAGES, dtype=np.float32)[:, OWNER]
    records = []
    for method, weight, seed in (("vse", 0.6, 1), ("cca", 0.1, 2)):
        scores = scores_of(IMAGES, IMAGES * PER_IMAGE, seed) + weight * right
        records.append(ranked_record(make_record, scores, ids, OWNER, method=method, data=data))
    keep_gallery(records[0].files, corpus, "test")
    plain = (
        [f"<b>{row // 2}" + " \u00a0"[row % 2] for row in range(5)],
        [f"text {row}" for row in range(10)],
    )
    scores = scores_of(5, 10, tied=True)
    records.append(ranked_record(make_record, scores, plain, np.arange(10) // 2, dataset="own"))
    return tables(leaderboard(records))


def query_of(page: Any) -> str:
    return str(page.locator(".query code").inner_text())


def test_queries_are_browsed_by_buttons_and_keys(page: Any) -> None:
    position = page.locator(".queries-position")
    assert position.inner_text() == "1 of 36"
    first = query_of(page)
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.get_by_role("button", name="Next").click()
    assert position.inner_text() == "2 of 36" and query_of(page) != first
    assert "query=" in page.url
    page.keyboard.press("ArrowLeft")
    assert position.inner_text() == "1 of 36" and query_of(page) == first
    page.locator(".queries-view").focus()
    page.keyboard.press("End")
    assert position.inner_text() == "36 of 36" and page.get_by_role("button", name="Next").is_disabled()
    status = page.get_by_role("status").inner_text()
    assert status.startswith("Query 36 of 36. vse: First correct answer at rank")
    images = page.locator(".answers.t2i img")
    assert images.count() == 5 and all(
        image.evaluate("image => image.naturalWidth") for image in images.all()
    )
    page.get_by_label("Direction").select_option("i2t")
    assert position.inner_text() == "1 of 12"
    assert page.locator(".answers.i2t li").count() == 5 and page.locator(".query li").count() == 3
    page.get_by_role("button", name="Draw again").click()
    drawn = query_of(page)
    link = page.url
    page.reload()
    assert (page.url, query_of(page)) == (link, drawn)


def test_two_methods_stand_side_by_side_and_right_answers_are_marked(page: Any) -> None:
    page.get_by_label("Compare with").select_option("cca, small")
    page.get_by_label("Order").select_option("disagreeing")
    columns = page.locator(".queries-method")
    assert columns.count() == 2
    left, right = (columns.nth(at).bounding_box() for at in (0, 1))
    assert left["y"] == right["y"] and left["x"] < right["x"]
    ranks = [int(columns.nth(at).locator(".rank").inner_text().split()[5]) for at in (0, 1)]
    apart = abs(np.log(ranks[0] / ranks[1]))
    assert apart > 0
    owner = query_of(page).removeprefix("caption ").partition("#")[0]
    for column, rank in zip(columns.all(), ranks, strict=True):
        marks = column.locator(".answers li").all_text_contents()
        assert len(marks) == 5
        assert [place for place, text in enumerate(marks, 1) if "✓" in text] == ([rank] if rank <= 5 else [])
        titles = column.locator(".answers img").evaluate_all("images => images.map((image) => image.title)")
        assert [title == owner for title in titles] == ["correct: " in text for text in marks]
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Next").click()
    ranks = [int(columns.nth(at).locator(".rank").inner_text().split()[5]) for at in (0, 1)]
    assert abs(np.log(ranks[0] / ranks[1])) <= apart
    page.get_by_label("Order").select_option("worst")
    worst = int(columns.first.locator(".rank").inner_text().split()[5])
    page.get_by_label("Order").select_option("best")
    assert int(columns.first.locator(".rank").inner_text().split()[5]) == 1 < worst
    page.get_by_label("Compare with").select_option("")
    assert columns.count() == 1
    assert page.get_by_label("Order").locator("option[value=disagreeing]").is_disabled()


def test_slices_and_the_fragment_choose_queries(page: Any) -> None:
    page.get_by_label("Direction").select_option("i2t")
    page.get_by_label("Only").select_option("near")
    assert page.locator(".queries-position").inner_text() == "1 of 2"
    assert "with a near-duplicate" in page.locator(".queries-meaning").inner_text()
    seen = {query_of(page)}
    page.get_by_role("button", name="Next").click()
    assert seen | {query_of(page)} == {"7.jpg", "11.jpg"}
    assert page.get_by_label("Only").locator("option[value=ties]").is_disabled()
    # A link that somebody has sent, in the page that is open.
    page.evaluate("location.hash = 'query-direction=t2i&query-method=cca, small&query=5.jpg%230'")
    page.get_by_role("heading", name=HOSTILE).wait_for()
    assert page.get_by_label("Method").input_value() == "cca, small"
    assert page.locator(".query img").count() == 1
    page.get_by_label("Protocol").select_option(label="own, flickr8k-1k@1")
    page.get_by_label("Direction").select_option("i2t")
    assert page.locator(".queries-view img").count() == 0
    assert query_of(page).startswith("<b>")
    # Ids that look alike are different queries.
    page.locator(".queries-view").focus()
    for place in range(2, 6):
        page.keyboard.press("ArrowRight")
        assert page.locator(".queries-position").inner_text() == f"{place} of 5"
    page.get_by_label("Only").select_option("ties")
    assert "tied with it" in page.locator(".rank").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_label("Compare with").select_option("cca, small")
    for direction in ("t2i", "i2t"):
        page.get_by_label("Direction").select_option(direction)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
    ground, ink = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (sum(map(int, ground[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))) == (
        scheme == "light"
    )
