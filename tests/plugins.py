"""The plugins of the documentation, as its readers write them into a folder of their own."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<content>.*?)^```$", re.DOTALL | re.MULTILINE)


def fenced(page: str, language: str) -> list[str]:
    """The contents of a page's blocks of one language, word for word."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return [block["content"] for block in FENCE.finditer(text) if block["language"] == language]


def write_plugin(folder: Path) -> None:
    """``my_package.py`` and ``bilinear.yaml``, the method of the documentation."""
    (folder / "my_package.py").write_text(fenced("own_method.md", "python")[0])
    (folder / "bilinear.yaml").write_text(fenced("own_method.md", "yaml")[0])


def command() -> list[str]:
    """The words of the method's command, without the program's name."""
    return _words("own_method.md")


def write_dataset(folder: Path) -> None:
    """``shop_reader.py`` and ``shop.yaml``, the data set of the documentation."""
    (folder / "shop_reader.py").write_text(fenced("own_dataset.md", "python")[0])
    (folder / "shop.yaml").write_text(fenced("own_dataset.md", "yaml")[0])


def dataset_command() -> list[str]:
    """The words of the data set's command, without the program's name."""
    return _words("own_dataset.md")


def _words(page: str) -> list[str]:
    (line,) = fenced(page, "bash")[0].strip().splitlines()
    program, *words = line.split()
    assert program == "crossmodal-bench"
    return words
