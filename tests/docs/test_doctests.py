"""The examples in docstrings say what really comes out."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re

import pytest
from documents import ROOT

PUBLIC = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
OF_FINISHED_RUNS = {"load", "table", "differences"}
"""They read what a bench leaves; the notebook, which a test executes, shows them."""


def functions() -> list[str]:
    return [
        path
        for path in PUBLIC
        if inspect.isfunction(_object(path)) and path.rpartition(".")[2] not in OF_FINISHED_RUNS
    ]


def _object(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("path", functions())
def test_every_public_function_has_an_example_that_is_true(path: str) -> None:
    module = importlib.import_module(path.rpartition(".")[0])
    (test,) = doctest.DocTestFinder(recurse=False).find(_object(path), path, globs=dict(vars(module)))
    assert test.examples, f"{path} has no example"
    printed: list[str] = []
    outcome = doctest.DocTestRunner().run(test, out=printed.append)
    assert outcome.failed == 0, "".join(printed)
