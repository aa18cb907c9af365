"""The cost of a command that trains nothing: its imports, and the plan.

    python benchmarks/commands.py

`crossmodal-bench status` of the default methods on the synthetic data set. The plain way is the first call in
a folder of runs, which imports Lightning and its parser to instantiate each method and ask it what it reads.
Ours finds the cached answers of an earlier call, and only imports torch. The outputs are asserted to be
equal. The time of torch's own import shows how much of the rest is ours.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from measurement import Measurement, print_table

STATUS = ("-m", "crossmodal_bench", "status", "--dataset", "synthetic", "--runs")
TORCH = ("-c", "import torch")


def run(*words: str) -> tuple[float, str]:
    """The CPU seconds of a Python process, and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, ran.stdout


def measure(repeats: int = 2) -> list[Measurement]:
    """A first ``status``, and ``repeats`` later ones."""
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name) / "runs"
        runs.mkdir()
        # Newly installed files are first read from disk.
        run(*TORCH)
        first, expected = run(*STATUS, str(runs))
        taken = []
        torch = []
        for _ in range(repeats):
            seconds, found = run(*STATUS, str(runs))
            assert found == expected
            taken.append(seconds)
            torch.append(run(*TORCH)[0])
    note = f"equal; {1000 * statistics.median(torch):.0f} ms are torch's import"
    return [Measurement("status of the default methods", first, statistics.median(taken), note=note)]


def main() -> None:
    """Print the table."""
    print_table(measure())


if __name__ == "__main__":
    main()
