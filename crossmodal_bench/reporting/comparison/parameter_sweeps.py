"""Parameter sweeps: rows of a suite that differ in a single override."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crossmodal_bench.reporting.rows.leaderboard import Row


@dataclass(frozen=True)
class ParameterSweep:
    """Rows of one suite, method and preset in which ``key`` varies; ``lines`` by the other overrides."""

    suite: str
    method: str
    preset: str
    key: str
    lines: dict[str, list[Row]]

    @property
    def rows(self) -> list[Row]:
        """The rows of all lines."""
        return [row for rows in self.lines.values() for row in rows]

    @property
    def values(self) -> list[Any]:
        """The distinct values of ``key``: numbers ascending, anything else alphabetically."""
        return _values(self.rows, self.key)


def sweeps(rows: Sequence[Row]) -> list[ParameterSweep]:
    """The sweeps among one table's rows: at least two values of one override, all else being equal.

    Only single models of a suite count, and only rows that state the override: a row without it has a default
    whose value is not in the record.
    """
    groups: dict[tuple[str, str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row.ensemble:
            continue
        for suite in sorted({record.job.suite for record in row.records if record.job.suite}):
            for key in row.overrides:
                rest = ", ".join(
                    f"{short(name)} = {value}" for name, value in sorted(row.overrides.items()) if name != key
                )
                groups.setdefault((suite, row.method, row.preset, key), {}).setdefault(rest, []).append(row)
    parameter_sweeps = []
    for (suite, method, preset, key), lines in groups.items():
        varied = {rest: members for rest, members in lines.items() if len(_values(members, key)) > 1}
        if varied:
            parameter_sweeps.append(ParameterSweep(suite, method, preset, key, varied))
    return parameter_sweeps


def short(key: str) -> str:
    """The last part of a dotted override key."""
    return key.rpartition(".")[2]


def _values(rows: Sequence[Row], key: str) -> list[Any]:
    distinct = {json.dumps(row.overrides[key]): row.overrides[key] for row in rows}
    numeric = all(isinstance(value, int | float) for value in distinct.values())
    return sorted(distinct.values(), key=None if numeric else str)
