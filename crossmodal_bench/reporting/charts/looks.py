"""How a row looks wherever it is drawn: one colour for its method, and a dash and a point's shape beside it.

The colours are told apart on white and on near-black (each has at least 3:1 against both, by WCAG's formula)
and never carry a meaning alone: a line also has its dash, and a point its shape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from crossmodal_bench.core.errors import printable
from crossmodal_bench.reporting.rows.leaderboard import Row

COLOURS = (
    "#2f78c4",
    "#d1560f",
    "#12875f",
    "#a05cc4",
    "#a8781b",
    "#c9488b",
    "#1b8a9a",
    "#d0484b",
    "#6a6ad8",
    "#5f8a1f",
    "#6b7a8f",
    "#a5673f",
)
DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
_LONGEST_ID = 80
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


@dataclass(frozen=True)
class Look:
    """Of one row.

    Attributes:
        colour: that of the row's method, as ``#rrggbb``.
        number: of that colour.
        dash: lengths of strokes and gaps in pixels.
        shape: of a point, as Vega names it.
    """

    colour: str
    number: int
    dash: tuple[int, ...]
    shape: str


@dataclass(frozen=True)
class Series:
    """A row as it is drawn.

    Attributes:
        id: names the row within the page.
        label: names it to a reader.
        look: how it is drawn.
        row: its numbers.
    """

    id: str
    label: str
    look: Look
    row: Row


class Looks:
    """Colours for the methods of a page, dealt out in the order of its rows.

    Args:
        rows: every row of the page.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        methods: dict[str, dict[tuple[str, str], None]] = {}
        presets = set()
        for row in rows:
            methods.setdefault(row.method, {})[row.name, row.preset] = None
            presets.add(row.preset)
        self._presets_differ = len(presets) > 1
        self._looks = {}
        for number, (method, variants) in enumerate(methods.items()):
            for variant, key in enumerate(variants):
                # Methods beyond the last colour begin again with the first, in another dash.
                step = number + number // len(COLOURS) + variant
                self._looks[method, *key] = Look(
                    colour=COLOURS[number % len(COLOURS)],
                    number=number % len(COLOURS),
                    dash=DASHES[step % len(DASHES)],
                    shape=SHAPES[step % len(SHAPES)],
                )

    def of(self, row: Row) -> Look:
        """The row's look, the same in every chart and table."""
        return self._looks[row.method, row.name, row.preset]

    def series(self, rows: Sequence[Row], table: str) -> list[Series]:
        """The rows as they are drawn.

        Args:
            rows: of one table.
            table: its id, with which theirs begin.
        """
        names = distinct_ids([f"{table} {row.name} {row.preset}" for row in rows])
        return [
            Series(
                id=name,
                label=printable(f"{row.name}, {row.preset}" if self._presets_differ else row.name),
                look=self.of(row),
                row=row,
            )
            for name, row in zip(names, rows, strict=True)
        ]


def distinct_ids(texts: Sequence[str]) -> list[str]:
    """An id of letters, digits and hyphens for each text; texts that give the same one are numbered."""
    seen: dict[str, int] = {}
    ids = []
    for text in texts:
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_ID] or "x"
        seen[name] = seen.get(name, 0) + 1
        ids.append(name if seen[name] == 1 else f"{name}--{seen[name]}")
    return ids
