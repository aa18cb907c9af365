"""The built site in a browser: what its scripts ask for when it is read, which no file of it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from documents import ROOT

SITE = ROOT / "site"
HERE = ("file:", "data:", "blob:", "about:")
"""How addresses begin that are of this machine."""


def asked_elsewhere(browser: Any, page: Path) -> list[str]:
    """The addresses that a page asks of a network while it is opened, searched and scrolled."""
    # Offline, a request is still made, and fails.
    context = browser.new_context(offline=True)
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    opened = context.new_page()
    opened.goto(page.as_uri())
    search = opened.locator("input[type=text][name=query]")
    if search.count():
        search.first.fill("protocol", force=True)
    opened.mouse.wheel(0, 4000)
    opened.wait_for_load_state("networkidle")
    context.close()
    return [address for address in asked if not address.startswith(HERE)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index.html", "api/index.html", "leaderboard/index.html"])
def test_a_page_of_the_site_asks_no_network_for_anything(name: str, browser: Any) -> None:
    page = SITE / name
    if not page.is_file():
        pytest.skip(f"site/{name} is not there; build the site first: make docs")
    assert asked_elsewhere(browser, page) == []


@pytest.mark.slow
def test_a_script_that_asks_a_network_is_seen(browser: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<script>fetch('https://example.invalid/' + 'a.json').catch(() => 0)</script>")
    assert asked_elsewhere(browser, page) == ["https://example.invalid/a.json"]
