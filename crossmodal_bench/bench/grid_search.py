"""The last step of a grid-search suite: its table on validation, and a file with the best combination."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import read_record_or_warn
from crossmodal_bench.jobs.schema import GridSearch
from crossmodal_bench.jobs.state import state_of


@dataclass
class _Combination:
    """One value for each key of a grid, and its results: one number per finished job."""

    values: dict[str, Any]
    numbers: list[float] = field(default_factory=list)
    failed: bool = False

    @property
    def mean(self) -> float | None:
        """Over seeds and protocols; None if a run failed, so that the combination is not a candidate."""
        return fmean(self.numbers) if self.numbers and not self.failed else None


def choose(plan: Sequence[PlannedJob], options: BenchOptions, log: Callable[[str], None]) -> list[Path]:
    """Print a grid's table and write its best combination as a method's file, for each data set.

    The best has the highest mean of the primary metric over seeds and protocols; ties go to the first in the
    grid. Nothing is chosen while runs are missing. A failed run, as happens in some corners of a grid,
    removes its combination. Does nothing for plain methods, and for suites without a grid.

    Args:
        plan: the bench's jobs.
        options: the bench's options.
        log: prints a line.

    Returns:
        The files, ``RUNS/<data set>/<writes>.yaml``; ``METHODS`` takes their paths.
    """
    if options.methods not in experiments.names("suites"):
        return []
    grid = experiments.suite(options.methods).grid
    if grid is None:
        return []
    searched = [planned for planned in plan if set(grid.keys) <= planned.job.overrides.keys()]
    written = []
    for dataset in dict.fromkeys(planned.job.dataset for planned in searched):
        jobs = [planned for planned in searched if planned.job.dataset == dataset]
        states = [state_of(planned).name for planned in jobs]
        open_jobs = sum(state not in ("done", "stale", "failed") for state in states)
        if open_jobs:
            log(
                f"{options.methods} on {dataset}: nothing is chosen yet; {open_jobs} of {len(jobs)} "
                "runs are not done"
            )
            continue
        combinations = _combinations(jobs, states, grid)
        best = max(
            (each for each in combinations if each.mean is not None),
            key=lambda each: each.mean or 0.0,
            default=None,
        )
        if best is None:
            continue
        setting = _setting(jobs, grid)
        primary = jobs[0].protocols[0].primary
        log("")
        log(f"{options.methods} on {dataset}: {primary} on validation; {setting}")
        for line in _table(combinations, grid, primary):
            log(line)
        path = _write(best, len(combinations), jobs[0], grid, primary, setting, options)
        written.append(path)
        log(f"chosen: {_named(best.values)}, {primary} {_shown(primary, best.mean)} on validation")
        log(
            f"written to {path}; to test it: crossmodal-bench bench --dataset {dataset} "
            f"--preset {jobs[0].job.preset} --methods {path}"
        )
    return written


def _combinations(jobs: Sequence[PlannedJob], states: Sequence[str], grid: GridSearch) -> list[_Combination]:
    combinations: dict[str, _Combination] = {}
    for planned, state in zip(jobs, states, strict=True):
        values = {key: planned.job.overrides[key] for key in grid.keys}
        combination = combinations.setdefault(json.dumps(values, default=str), _Combination(values))
        record = read_record_or_warn(planned.directory) if state in ("done", "stale") else None
        if record is None:
            combination.failed = True
        else:
            combination.numbers.append(record.metrics[planned.protocols[0].primary])
    return list(combinations.values())


def _setting(jobs: Sequence[PlannedJob], grid: GridSearch) -> str:
    """The data and the other overrides with which a grid was searched."""
    protocols = dict.fromkeys(planned.job.protocol for planned in jobs)
    seeds = len({planned.job.seed for planned in jobs})
    others = {key: value for key, value in jobs[0].job.overrides.items() if key not in grid.keys}
    counts = jobs[0].counts
    parts = [
        f"preset {jobs[0].job.preset}",
        f"{counts['train']['images']} training images, {counts['val']['images']} validation images",
        f"split of {' and '.join(protocols)}",
        f"{seeds} seed{'s' * (seeds > 1)}",
        *(f"{key} = {value}" for key, value in others.items()),
    ]
    return ", ".join(parts)


def _table(combinations: Sequence[_Combination], grid: GridSearch, primary: str) -> Iterator[str]:
    """The last key's values as columns, the second-to-last key's as rows, a block for the others."""
    keys = list(grid.keys)
    across, others = keys[-1], keys[:-2]
    down = keys[-2] if len(keys) > 1 else None
    heads = list(dict.fromkeys(json.dumps(each.values[across]) for each in combinations))
    corner = " \\ ".join(key.rpartition(".")[2] for key in (down, across) if key is not None)

    def block(each: _Combination) -> str:
        return _named({key: each.values[key] for key in others})

    def row(each: _Combination) -> str:
        return "" if down is None else json.dumps(each.values[down])

    width = max(len(corner), *(len(row(each)) for each in combinations)) + 2
    for name, members in groupby(combinations, block):
        yield f"  {name}".rstrip()
        yield f"  {corner:{width}s}" + "".join(f"{head:>9s}" for head in heads)
        for first, line in groupby(members, row):
            cells = {json.dumps(each.values[across]): _shown(primary, each.mean) for each in line}
            yield f"  {first:{width}s}" + "".join(f"{cells.get(head, ''):>9s}" for head in heads)


def _write(
    best: _Combination,
    candidates: int,
    planned: PlannedJob,
    grid: GridSearch,
    primary: str,
    setting: str,
    options: BenchOptions,
) -> Path:
    job = planned.job
    path = options.runs / job.dataset / f"{grid.writes}.yaml"
    content = {
        "title": f"{experiments.title_of(grid.method)}, chosen on {job.dataset}",
        "base": grid.method,
        "override": experiments.expand(best.values),
    }
    head = [
        f"Chosen by METHODS={options.methods} on {job.dataset}: {primary} {_shown(primary, best.mean)} on "
        f"validation, the best of {candidates}.",
        f"{setting}.",
        f"Data fingerprint {planned.data_fingerprint}. The test split was not used.",
    ]
    text = "".join(f"# {line}\n" for line in head) + yaml.safe_dump(content, sort_keys=False)
    replace_file(path, lambda stream: stream.write(text.encode()))
    return path


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in values.items())


def _shown(primary: str, value: float | None) -> str:
    return "failed" if value is None else metric_table.formatted(primary, value)
