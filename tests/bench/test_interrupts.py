"""No request to stop is lost, whatever a bench is doing when it comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossmodal_bench.core.signals import AGAIN
from crossmodal_bench.jobs.record import read_records

DRIVER = Path(__file__).parents[1] / "interrupted.py"
BEFORE = "Interrupted. Run the same command again to resume.\n"
COUNT = 100
"""Benches for each of ten seeds."""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_a_bench_that_is_told_to_stop_at_any_moment_stops(tmp_path: Path, seed: int) -> None:
    command = [sys.executable, str(DRIVER), str(tmp_path), str(seed), str(COUNT)]
    told = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert told.returncode == 0, told.stderr
    benches = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(benches) == COUNT
    for bench in benches:
        # It has ended by itself where the moment came behind its last word.
        finished = bench["status"] == 0 and "\nReport: " in bench["out"]
        # pytest would cut a long representation of a mapping short.
        whole = json.dumps(bench)
        assert finished or bench["status"] == AGAIN, whole
        # Whoever is stopped before the bench has begun is told so by the command line.
        assert bench["err"] == "" or (bench["err"], bench["out"]) == (BEFORE, ""), whole
        assert finished or bench["err"] or "run the same command again" in bench["out"], whole
        assert bench["left"] == 0, whole
        # Others may share the cores.
        assert bench["took"] < 20, whole
        # Whatever is kept is whole.
        read_records(Path(bench["folder"]) / "runs")
    assert any(bench["status"] == AGAIN for bench in benches)
