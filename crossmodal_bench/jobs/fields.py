"""Typed access to a JSON file's fields; a fault is one sentence that names the file and the field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any, cast

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import shown, stays_below

LARGEST = 2**63
"""Whole numbers below it are numbers to everyone who reads them further on."""


def damaged(path: Path, what: str) -> BadInput:
    """The exception for a file that holds something else than was written."""
    return BadInput(f"{path} is damaged ({what}): delete it and run the bench again")


class Fields:
    """One JSON object of the file ``path``; ``BadInput`` for a field that is missing or of another type."""

    def __init__(self, path: Path, content: Mapping[str, Any], prefix: str = "") -> None:
        self.path, self.content, self.prefix = path, content, prefix

    def get(self, name: str, kind: type, optional: bool = False) -> Any:
        """The value of field ``name``, of type ``kind``; None where an optional one is missing."""
        value = self.content.get(name)
        if value is None and optional:
            return None
        if not isinstance(value, kind) or isinstance(value, bool):
            raise damaged(self.path, f"field '{self.prefix}{name}' is missing or not of type {kind.__name__}")
        if isinstance(value, int) and abs(value) >= LARGEST:
            raise damaged(self.path, f"field '{self.prefix}{name}' is beyond {LARGEST}")
        return value

    def text(self, name: str) -> str:
        """A string."""
        return cast(str, self.get(name, str))

    def name(self, name: str) -> str:
        """A string that a folder can have for its name: it stands in paths that are written and removed."""
        text = self.text(name)
        if not stays_below(text) or len(PureWindowsPath(text).parts) > 1 or any(c in text for c in "*?["):
            raise damaged(self.path, f"field '{self.prefix}{name}' is {shown(text)}, which is no name")
        return text

    def objects(self, name: str) -> dict[str, dict[str, Any]]:
        """An object of objects; empty where it is missing."""
        if self.get(name, dict, optional=True) is None:
            return {}
        part = self.part(name)
        return {key: part.get(key, dict) for key in part.content}

    def curves(self, name: str) -> dict[str, dict[str, list[float]]]:
        """An object of curves: lists of numbers, by what is measured along them, all of one length."""
        found = self.objects(name)
        for key, curve in found.items():
            lists = [one for one in curve.values() if isinstance(one, list)]
            if key.endswith("precision_scope") and not {"scope", "precision"} <= curve.keys():
                raise damaged(self.path, f"field '{self.prefix}{name}.{key}' lacks 'scope' or 'precision'")
            numbers = all(_is_number(value) for one in lists for value in one)
            if len(lists) < len(curve) or not numbers or len({len(one) for one in lists}) > 1:
                raise damaged(
                    self.path,
                    f"field '{self.prefix}{name}.{shown(key)}' holds no lists of numbers of one length",
                )
        return found

    def part(self, name: str) -> Fields:
        """An object."""
        return Fields(self.path, self.get(name, dict), f"{self.prefix}{name}.")

    def parts(self, name: str) -> list[Fields]:
        """A list of objects; empty where it is missing."""
        found = self.get(name, list, optional=True) or []
        if not all(isinstance(one, dict) for one in found):
            raise damaged(self.path, f"field '{self.prefix}{name}' holds something that is not an object")
        return [Fields(self.path, one, f"{self.prefix}{name}[{at}].") for at, one in enumerate(found)]

    def numbers(self, name: str) -> dict[str, float]:
        """An object of numbers; those that were not finite are absent."""
        return self._finite(name, self.get(name, dict))

    def rows(self, name: str) -> list[dict[str, float]]:
        """A list of objects of numbers."""
        rows = self.get(name, list)
        if not all(isinstance(row, dict) for row in rows):
            raise damaged(self.path, f"field '{self.prefix}{name}' holds something that is not an object")
        return [self._finite(name, row) for row in rows]

    def intervals(self, name: str) -> dict[str, tuple[float, float]]:
        """An object of (low, high) pairs."""
        intervals = {}
        for key, pair in self.get(name, dict).items():
            if not isinstance(pair, list) or len(pair) != 2:
                raise damaged(self.path, f"field '{self.prefix}{name}.{key}' is not a pair")
            finite = self._finite(name, dict(zip(("low", "high"), pair, strict=True)))
            if len(finite) == 2:
                intervals[key] = (finite["low"], finite["high"])
        return intervals

    def _finite(self, name: str, values: Mapping[str, Any]) -> dict[str, float]:
        numbers = {}
        for key, value in values.items():
            if value is None:
                continue
            if not _is_number(value):
                raise damaged(self.path, f"field '{self.prefix}{name}.{key}' is not a number")
            if math.isfinite(value):
                numbers[key] = float(value)
        return numbers


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < LARGEST
    return isinstance(value, float)
