"""A page of nothing but the part with the queries, under the same policy as the report's."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

ASSETS = resources.files("crossmodal_bench.reporting.page") / "assets"
STYLE = """
:root { color-scheme: light dark; --ink: #1a1d21; --soft: #59616b; --line: #dfe3e8; --mark: #0b57a4;
  --page: #fff; --card: #f7f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7ec; --soft: #9ba5b1; --line: #2b313a; --mark: #8bbdf5; --page: #0f1216;
    --card: #171b21; }
}
body { margin: 1rem; background: var(--page); color: var(--ink); font: 0.875rem/1.45 sans-serif; }
.soft, small { color: var(--soft); }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
[hidden] { display: none !important; }
"""
STATE = """
(() => {
  const read = () => new URLSearchParams(location.hash.slice(1));
  window.getState = (key) => read().get(key) ?? "";
  window.setState = (key, value) => {
    const state = read();
    if (value) state.set(key, value); else state.delete(key);
    history.replaceState(null, "", `#${state}`);
    window.dispatchEvent(new Event("statechange"));
  };
  window.addEventListener("hashchange", () => window.dispatchEvent(new Event("statechange")));
})();
"""
MOUNT = """
mountQueries(
  document.getElementById("queries-browser"), JSON.parse(document.getElementById("queries-data").textContent)
);
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Queries</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src {{ hashes.scripts }};
style-src {{ hashes.styles }}; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
{% for style in styles %}<style>{{ style }}</style>{% endfor %}</head>
<body><main><h1>Queries</h1>{% if queries %}{% include "queries.html" %}{% endif %}</main>
{% for script in scripts %}<script>{{ script }}</script>{% endfor %}</body></html>
"""


def write_query_page(path: Path, queries: Mapping[str, Any] | None) -> None:
    """Write the page of what ``queries_context`` has given."""
    styles = [STYLE, (ASSETS / "queries.css").read_text()]
    scripts = [STATE, (ASSETS / "queries.js").read_text(), MOUNT]
    hashes = {"styles": " ".join(map(_hash, styles)), "scripts": " ".join(map(_hash, scripts))}
    environment = Environment(
        loader=PackageLoader("crossmodal_bench.reporting.page"), autoescape=True, undefined=StrictUndefined
    )
    text = environment.from_string(PAGE).render(
        hashes=hashes,
        styles=list(map(Markup, styles)),
        scripts=list(map(Markup, scripts)),
        queries=queries,
    )
    path.write_text(text, encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
