"""The table of all benchmarks of speed: which take part, what a line has, and that each of them runs."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
OF_COMMANDS = ("commands", "evaluate")
"""Benchmarks that start whole commands, which takes seconds however little these have to do."""


def loaded(name: str) -> ModuleType:
    """A module of benchmarks, which are no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def perf() -> ModuleType:
    return loaded("perf")


def test_what_measures_speed_takes_part_and_what_measures_learning_does_not(perf: ModuleType) -> None:
    offered = set(perf.offering(BENCHMARKS))
    assert {"cross_attention", "evaluation", "generation", "identification", "ranking", "reward"} <= offered
    assert not offered & {"acmr_collapse", "interval_coverage", "measurement", "perf"}


def test_a_line_has_its_own_memory_or_the_process_and_the_seconds_of_the_base(
    perf: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"name": "work", "plain_seconds": 2.0, "seconds": 0.5, "ratio": 4.0, "share": 0.25}
    here = {"lines": [line | {"peak_bytes": None}, line | {"name": "new", "peak_bytes": 2**20}]}
    base = {"lines": [line | {"seconds": 1.5}]}
    first, second = perf.rows("module", here | {"peak_bytes": 3 * 2**20}, base)
    assert (first["peak_bytes"], first["base_seconds"]) == (3 * 2**20, 1.5)
    assert (second["peak_bytes"], second["base_seconds"]) == (2**20, None)
    perf.print_lines([first, second], with_base=True)
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split() == ["work", "2000.00", "500.00", "4.00", "25", "3", "1500.00", "3.00"]
    assert printed[2].split()[-2:] == ["-", "-"]


def test_a_benchmark_that_fails_says_so(perf: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def measure():\n    pass\nraise ValueError(__file__)\n")
    measured = perf.measure_apart("broken", tmp_path, tmp_path, 1)
    # Without the folder: it is written to a file that is published.
    assert measured == {"lines": [], "error": "ValueError: broken.py"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in OF_COMMANDS else ())
        for name in loaded("perf").offering(BENCHMARKS)
    ],
)
def test_every_benchmark_runs_and_finds_equal_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    benchmark = loaded(name)
    measurements = benchmark.measure(**benchmark.TINY)
    assert measurements and len({each.name for each in measurements}) == len(measurements)
    assert all(each.plain_seconds > 0 and each.seconds > 0 for each in measurements)


def line(**values: Any) -> dict[str, Any]:
    return {"name": "work", "plain_seconds": 4.0, "seconds": 2.0, "share": None, "peak_bytes": None, **values}


def measured(*lines: dict[str, Any], peak: int = 1) -> dict[str, Any]:
    return {"lines": list(lines), "rate": 1.0, "peak_bytes": peak}


def test_two_checkouts_take_turns_and_medians_count(perf: ModuleType) -> None:
    asked: list[str] = []

    def side(name: str, *seconds: float) -> Callable[[], dict[str, Any]]:
        left = iter(seconds)

        def measure() -> dict[str, Any]:
            asked.append(name)
            return measured(line(seconds=next(left), share=0.5), peak=len(asked))

        return measure

    here, base = perf.in_turns([side("here", 1.0, 9.0, 2.0), side("base", 5.0, 8.0, 4.0)], 3)
    assert asked == ["here", "base", "base", "here", "here", "base"]
    assert (here["lines"][0]["seconds"], here["lines"][0]["ratio"]) == (2.0, 2.0)
    assert base["lines"][0]["seconds"] == 5.0
    assert (here["peak_bytes"], base["peak_bytes"]) == (5, 6)


def test_a_side_that_fails_is_asked_no_more(perf: ModuleType) -> None:
    failed = {"lines": [], "error": "not there"}
    bases: list[None] = []

    def base() -> dict[str, Any]:
        bases.append(None)
        return failed

    here, other = perf.in_turns([lambda: measured(line()), base], 3)
    assert other == failed and len(bases) == 1 and here["lines"][0]["seconds"] == 2.0
    here, other = perf.in_turns([base, lambda: measured(line())], 3)
    assert here == failed and len(bases) == 2


def test_a_benchmark_that_starts_processes_lets_them_import_what_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    evaluate = loaded("evaluate")
    code = "import os, sys; print(float(os.environ['PYTHONPATH'] == sys.argv[1]))"
    for path in ("/of/another/checkout", ""):
        monkeypatch.setenv("PYTHONPATH", path)
        assert evaluate.seconds(code, [path or str(BENCHMARKS.parent)], tmp_path) == 1.0
