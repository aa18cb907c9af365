"""Build the documentation's site into ``site/``, strictly, with the leaderboard page of ``results/`` in it.

    make docs

Nothing is fetched during the build, and a page that would load a script, style, font or picture from the
network when read is an error.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from crossmodal_bench.cli.main import main as crossmodal_bench

ROOT = Path(__file__).parents[1]
LEADERBOARD = Path("leaderboard") / "index.html"
"""The path of the page in ``docs/`` during the build, and in ``site/``."""
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
"""Attributes that make a page load something."""
LOADING_LINKS = {"stylesheet", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch", "icon"}
"""Relations of a <link> that a browser loads."""
ELSEWHERE = re.compile(r"(?:https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


class _Loads(HTMLParser):
    """Collects what a page loads from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        address = attributes.get(LOADED.get(tag, ""))
        if tag == "link" and LOADING_LINKS & set((attributes.get("rel") or "").lower().split()):
            address = attributes.get("href")
        if address and ELSEWHERE.match(address):
            self.addresses.append(address)
        self.addresses += IN_STYLES.findall(attributes.get("style") or "")


def loads_from_elsewhere(page: str) -> list[str]:
    """The URLs of other hosts that a browser requests when it opens this HTML."""
    parser = _Loads()
    parser.feed(page)
    styles = re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL)
    return [*parser.addresses, *(address for style in styles for address in IN_STYLES.findall(style))]


def network_loads(site: Path) -> Iterator[tuple[Path, str]]:
    """Each file of a built site that loads something from the network, with the URL."""
    for path in sorted(site.rglob("*.html")):
        for address in loads_from_elsewhere(path.read_text(encoding="utf-8")):
            yield path, address
    for path in sorted(site.rglob("*.css")):
        for address in IN_STYLES.findall(path.read_text(encoding="utf-8")):
            yield path, address


def write_leaderboard(page: Path) -> None:
    """Write the page of ``results/``, as ``report`` creates it from a copy."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # Relative, so that the page does not name folders of this machine.
        shutil.copytree(ROOT / "results", "results")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            words = ["report", "--runs", "results", "--reference", "off", "--format", "html"]
            status = crossmodal_bench(words)
        if status != 0:
            sys.exit(f"crossmodal-bench {' '.join(words)} ended with status {status}: {printed.getvalue()}")
        page.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path("results") / "report" / "index.html", page)


def main() -> int:
    """Build the site; return 1 if mkdocs warns, or if a page loads from the network."""
    write_leaderboard(ROOT / "docs" / LEADERBOARD)
    mkdocs = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean"]
    built = subprocess.run(mkdocs, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False)
    if built.returncode != 0:
        return 1
    loads = list(network_loads(ROOT / "site"))
    for path, address in loads:
        print(f"{path.relative_to(ROOT)} loads {address}; store it next to the page", file=sys.stderr)
    if not loads:
        print(
            "The site is in site/; open site/index.html, or serve it: python -m http.server --directory site"
        )
    return 1 if loads else 0


if __name__ == "__main__":
    sys.exit(main())
