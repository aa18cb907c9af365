"""The Markdown files that readers are shown, and what stands in them."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<content>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
SHELLS = ("bash", "sh", "console")


@dataclass(frozen=True)
class Document:
    """One file: its path below the repository's root, and its text."""

    name: str
    text: str

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def prose(self) -> str:
        """The text without fenced blocks, each line where it was."""
        return FENCE.sub(lambda block: "\n" * block[0].count("\n"), self.text)

    def blocks(self, *languages: str) -> Iterator[str]:
        """The contents of the fenced blocks of these languages."""
        for block in FENCE.finditer(self.text):
            if block["language"] in languages:
                yield block["content"]

    @property
    def inline_code(self) -> list[str]:
        return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", self.prose)


def tool(name: str) -> ModuleType:
    """A module of ``tools/``, which is no package."""
    full = f"tools_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, ROOT / "tools" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # Dataclasses look their module up.
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


def documents() -> list[Document]:
    """README, changelog, guides and every page of the site."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "leaderboard" not in path.parts]
    templates = (ROOT / ".github").rglob("*.md")
    return [
        Document(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
        for path in sorted([*ROOT.glob("*.md"), *pages, *templates])
    ]
