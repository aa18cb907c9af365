"""What a command costs that trains nothing: its imports, and the plan.

    python benchmarks/commands.py

`crossmodal-bench status` of the default methods on the synthetic data set. The plain way is the first one in
a folder of runs: Lightning and its parser are imported and make each method, which is then asked what it
reads. Ours finds the answers of the one before, and imports torch alone. What both print is asserted to be
equal. The line of torch's import says how much of it is left that is not ours.
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
TINY = {"repeats": 1}
TORCH = ("-c", "import torch")


def run(*words: str) -> tuple[float, str]:
    """The processor seconds of a Python process, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, ran.stdout


def measure(repeats: int = 2) -> list[Measurement]:
    """A first ``status`` and those after it; ``repeats`` of these."""
    with tempfile.TemporaryDirectory() as name:
        runs = Path(name) / "runs"
        runs.mkdir()
        # Files that have just been installed are read from the disk once.
        run(*TORCH)
        first, expected = run(*STATUS, str(runs))
        taken = []
        torch = []
        for _ in range(repeats):
            seconds, found = run(*STATUS, str(runs))
            assert found == expected
            taken.append(seconds)
            torch.append(run(*TORCH)[0])
    note = f"equal; {1000 * statistics.median(torch):.0f} ms of it are torch's import"
    return [Measurement("status of the default methods", first, statistics.median(taken), note=note)]


def main() -> None:
    """Print the table."""
    print_table(measure())


if __name__ == "__main__":
    main()
