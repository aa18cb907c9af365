"""How a row looks in every chart: a colour for its method, plus a dash and a point shape.

All colours are distinguishable on white and on near-black (contrast at least 3:1 against both, by WCAG's
formula) and never carry meaning alone: a line also has its dash, and a point its shape.
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
    """The look of one row.

    Attributes:
        colour: the colour of the row's method, as ``#rrggbb``.
        number: the index of that colour.
        dash: lengths of strokes and gaps in pixels.
        shape: shape of a point, by Vega's name.
    """

    colour: str
    number: int
    dash: tuple[int, ...]
    shape: str


@dataclass(frozen=True)
class Series:
    """A row with its look.

    Attributes:
        id: its name within the page.
        label: its name for readers.
        look: how it is drawn.
        row: the row itself.
    """

    id: str
    label: str
    look: Look
    row: Row


class Looks:
    """Colours for the methods of a page, assigned in the order of its rows.

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
                # Methods beyond the last colour start over with the first, with another dash.
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
        """The rows with their looks.

        Args:
            rows: the rows of one table.
            table: its id, the prefix of the rows' ids.
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
    """An id of letters, digits and hyphens for each text; equal ids are numbered."""
    seen: dict[str, int] = {}
    ids = []
    for text in texts:
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST_ID] or "x"
        seen[name] = seen.get(name, 0) + 1
        ids.append(name if seen[name] == 1 else f"{name}--{seen[name]}")
    return ids
