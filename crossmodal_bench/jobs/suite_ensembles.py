"""The ensembles that a suite's file asks for, and whether a record is one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.data.datasets.precomputed import FAMILIAR
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.experiments import Config
from crossmodal_bench.jobs.record import Record


@dataclass(frozen=True)
class MemberRow:
    """A job of an ensemble; ``seed`` None: that of the ensemble. ``label``: of its row as a single model."""

    method: str
    overrides: dict[str, Any]
    seed: int | None
    label: str = ""


@dataclass(frozen=True)
class EnsembleRow:
    """Models whose similarities are summed, and which of our methods they are together.

    ``label`` says what is summed, as in "t2i + i2t".
    """

    method: str
    label: str
    members: tuple[MemberRow, ...]


def ensemble_rows(suite: str) -> list[EnsembleRow]:
    """The ensembles of a suite, as listed; a member's overrides include those of the whole suite.

    Raises BadInput for a key that is unknown or missing, and for fewer than two members.
    """
    content = experiments.suite(suite)
    return [_row(f"suite {suite}, ensemble {at}", one, content) for at, one in enumerate(_listed(content), 1)]


def with_members(content: Config) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(method, overrides, label) of a suite's rows, and of the members of its ensembles among no rows."""
    seen = set()
    for method, overrides, label in experiments.suite_rows(content):
        seen.add(key(method, overrides))
        yield method, overrides, label
    for at, one in enumerate(_listed(content), 1):
        for member in _row(f"ensemble {at} of a suite", one, content).members:
            if key(member.method, member.overrides) not in seen:
                seen.add(key(member.method, member.overrides))
                yield member.method, member.overrides, member.label


def is_a_suites(record: Record) -> bool:
    """Whether an ensemble's members are exactly those that some suite asks for on that data set."""
    job = record.job
    familiar = FAMILIAR.get(job.dataset, job.dataset)
    return any(
        row.method == job.method and _same(row, record)
        for suite in experiments.names("suites")
        if familiar in experiments.suite(suite).get("datasets", ())
        for row in ensemble_rows(suite)
    )


def key(method: str, overrides: Mapping[str, Any]) -> str:
    """Equal for jobs that differ in nothing but data set, preset and seed."""
    return json.dumps([method, overrides], sort_keys=True, default=str)


def _same(row: EnsembleRow, record: Record) -> bool:
    def listed(found: list[tuple[str, dict[str, Any], int]]) -> list[str]:
        return sorted(f"{key(method, overrides)} {seed}" for method, overrides, seed in found)

    ours = listed([(one.method, one.overrides, one.seed) for one in record.ensemble])
    return any(
        ours == listed([(m.method, m.overrides, seed if m.seed is None else m.seed) for m in row.members])
        for seed in {member.seed for member in record.ensemble}
    )


def _listed(content: Config) -> list[Any]:
    return content.get("ensembles") or []


def _row(where: str, content: Any, suite: Config) -> EnsembleRow:
    _check(where, content, ("method", "label", "members"), ())
    members = []
    for at, one in enumerate(content["members"], 1):
        _check(f"{where}, member {at}", one, ("method",), ("overrides", "seed", "label"))
        overrides = {**suite.get("overrides", {}), **one.get("overrides", {})}
        members.append(MemberRow(one["method"], overrides, one.get("seed"), one.get("label", "")))
    if len(members) < 2:
        raise BadInput(f"{where}: 'members' lists {len(members)}; an ensemble needs at least two")
    return EnsembleRow(content["method"], str(content["label"]), tuple(members))


def _check(where: str, content: Any, required: tuple[str, ...], optional: tuple[str, ...]) -> None:
    known = (*required, *optional)
    if not isinstance(content, dict):
        raise BadInput(f"{where} is {content!r}; give it the keys {', '.join(known)}")
    for name in content:
        if name not in known:
            raise BadInput(f"{where}: key '{name}' is unknown{nearest(str(name), known)}")
    for name in required:
        if not content.get(name):
            raise BadInput(f"{where}: key '{name}' is missing; add it")
