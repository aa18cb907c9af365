"""What the documentation repeats of the sources is what they say."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
from collections.abc import Iterator

import pytest
import yaml
from documents import ROOT, Document, documents, tool

import crossmodal_bench
from crossmodal_bench.cli.listing import KINDS
from crossmodal_bench.evaluation import PROTOCOLS
from crossmodal_bench.jobs import experiments

PAGES = {document.name: document for document in documents()}


@functools.cache
def sentences() -> str:
    """The strings of the package outside docstrings, with … for what is filled in; and the Makefile's errors.

    Neither a comment nor a docstring is a message.
    """
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"\$\(error (.*)\)$", makefile, re.MULTILINE)
    for path in sorted((ROOT / "crossmodal_bench").rglob("*.py")):
        found += strings(ast.parse(path.read_text(encoding="utf-8")))
    return "\n".join(found)


def strings(tree: ast.Module) -> Iterator[str]:
    """The string constants that an expression uses, those of an f-string as one."""
    # A statement that is a string alone documents something.
    unused = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in unused:
            yield node.value


def messages(document: Document) -> Iterator[str]:
    for table in re.split(r"\| the message says \|.*\n", document.text)[1:]:
        for row in table.split("\n\n")[0].splitlines()[1:]:
            yield row.split("|")[1].strip().strip("`")


@pytest.mark.parametrize("message", list(messages(PAGES["docs/troubleshooting.md"])))
def test_a_message_of_the_troubleshooting_page_is_one_of_the_program(message: str) -> None:
    assert message in sentences()


def test_comments_and_docstrings_are_no_messages() -> None:
    module = ast.parse('"""alpha"""\n# beta\nx: int = 0\n"""gamma"""\nsay(f"delta {x} " "epsilon")\n')
    assert "delta … epsilon" in strings(module)
    assert not {"alpha", "beta", "gamma"} & {*strings(module)}


def test_the_changelog_has_every_protocol_with_its_version() -> None:
    table = re.findall(r"^\| `([a-z0-9-]+)@(\d+)` \|", PAGES["CHANGELOG.md"].text, re.MULTILINE)
    assert {name: int(version) for name, version in table} == {
        name: protocol.version for name, protocol in PROTOCOLS.items()
    }


def test_every_protocol_method_and_data_set_is_described() -> None:
    for page, names in {
        "docs/protocols.md": list(PROTOCOLS),
        "docs/running.md": experiments.names("methods"),
        "docs/datasets.md": experiments.names("datasets"),
    }.items():
        text = PAGES[page].text
        missing = [
            name
            for name in names
            if f"`{name}`" not in text and not re.match(r"(united|multiple|addr)_(scan|bfan|vsrn)$", name)
        ]
        assert missing == [], page
    assert all(f"`{kind}`" in PAGES["docs/running.md"].text for kind in KINDS)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == crossmodal_bench.__version__ and citation["license"] == "MIT"
    assert f"version = {{{crossmodal_bench.__version__}}}" in PAGES["docs/citing.md"].text


def test_every_name_of_the_api_page_is_there() -> None:
    names = re.findall(r"^::: (\S+)$", PAGES["docs/api.md"].text, re.MULTILINE)
    for name in names:
        module, _, last = name.rpartition(".")
        assert getattr(importlib.import_module(module), last).__doc__, name
    called = crossmodal_bench._CALLED
    homes = {
        f"crossmodal_bench.{home}.{called.get(name, name)}" for name, home in crossmodal_bench._HOMES.items()
    }
    assert homes <= set(names)


def test_a_page_that_loads_from_a_network_is_seen() -> None:
    loads = tool("docs_site").loads_from_elsewhere
    assert loads(
        '<script src="//cdn.org/a.js"></script><link rel="stylesheet" href="https://x.org/a.css">'
    ) == [
        "//cdn.org/a.js",
        "https://x.org/a.css",
    ]
    assert loads('<link href="https://fonts.org" rel="preconnect"><img src="http://x.org/a.png">') == [
        "https://fonts.org",
        "http://x.org/a.png",
    ]
    assert loads("<style>@font-face { src: url('https://x.org/a.woff2') }</style>") == [
        "https://x.org/a.woff2"
    ]
    assert loads('<p style="background: url(https://x.org/b.png)">') == ["https://x.org/b.png"]
    assert not loads(
        '<a href="https://x.org">x</a><link rel="canonical" href="https://x.org"><script src="a.js">'
    )


def test_every_record_has_the_version_and_the_commit() -> None:
    """As docs/citing.md says."""
    for path in sorted((ROOT / "results").rglob("record.json")):
        made_by = json.loads(path.read_text(encoding="utf-8"))["environment"]
        assert made_by["crossmodal_bench"] and made_by["commit"], path
