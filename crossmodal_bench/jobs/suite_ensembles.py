"""The ensembles that a suite's file asks for, and whether a record is one of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from crossmodal_bench.data.datasets.precomputed import FAMILIAR
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.jobs.schema import EnsembleRow, SuiteFile, SuiteRow


def ensemble_rows(suite: SuiteFile) -> list[EnsembleRow]:
    """The ensembles of a suite in the order listed; members' overrides include those of the whole suite."""
    return [
        row.model_copy(
            update={"members": tuple(experiments.with_overrides(suite, member) for member in row.members)}
        )
        for row in suite.ensembles
    ]


def with_members(suite: SuiteFile) -> Iterator[SuiteRow]:
    """A suite's rows, and those members of its ensembles that are not among them."""
    seen = set()
    for row in experiments.suite_rows(suite):
        seen.add(key(row.method, row.overrides))
        yield row
    for ensemble in ensemble_rows(suite):
        for member in ensemble.members:
            identity = key(member.method, member.overrides)
            if identity not in seen:
                seen.add(identity)
                yield member


def is_suite_ensemble(record: Record) -> bool:
    """Whether an ensemble's members are exactly those that some suite specifies for that data set."""
    familiar = FAMILIAR.get(record.job.dataset, record.job.dataset)
    suites = (experiments.suite(name) for name in experiments.names("suites"))
    return any(
        row.method == record.job.method and _has_members(row, record)
        for suite in suites
        if familiar in suite.datasets
        for row in ensemble_rows(suite)
    )


def key(method: str, overrides: Mapping[str, Any]) -> str:
    """A key that is equal for jobs that differ only in data set, preset and seed."""
    return json.dumps([method, overrides], sort_keys=True, default=str)


def _has_members(row: EnsembleRow, record: Record) -> bool:
    ours = Counter((key(member.method, member.overrides), member.seed) for member in record.ensemble)
    return any(
        ours
        == Counter(
            (key(member.method, member.overrides), seed if member.seed is None else member.seed)
            for member in row.members
        )
        for seed in {member.seed for member in record.ensemble}
    )
