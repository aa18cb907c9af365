"""The table of all benchmarks of speed: which take part, and what a line has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def perf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("perf", BENCHMARKS / "perf.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    (tmp_path / "broken.py").write_text("def measure():\n    pass\nraise ValueError('nothing here')\n")
    measured = perf.measure_apart("broken", tmp_path, tmp_path, 1)
    assert measured == {"lines": [], "error": "ValueError: nothing here"}
