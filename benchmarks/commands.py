"""What a command costs that trains nothing: its imports, and the plan.

    python benchmarks/commands.py

`crossmodal-bench status` of the default methods on the synthetic data set, and `report` and a `bench` that
has nothing to do in a folder with a finished job. The plain way of `status` and `bench` is the first one in a
folder of runs: Lightning and its parser are imported and make each method, which is then asked what it reads.
Ours finds the answers of the one before, and imports torch alone. `report` asks no method: its plain way has
Lightning imported for nothing. What `status` and `report` print is asserted to be equal, and `bench` to leave
the record as it was. The line of torch's import says how much of it is left that is not ours.

In a folder of runs that is not there, nothing is kept, because `status` makes none: until the first `bench`,
each costs what the first one costs.
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

PROGRAM = ("-m", "crossmodal_bench")
STATUS = (*PROGRAM, "status", "--dataset", "synthetic", "--runs")
TRAINED = ("--dataset", "synthetic-tiny", "--methods", "cca", "--preset", "smoke", "--wandb", "off")
BENCH = (*PROGRAM, "bench", *TRAINED, "--runs")
WITH_LIGHTNING = (
    "-c",
    "import sys, crossmodal_bench.training.lightning_cli; from crossmodal_bench.cli.main import main; "
    "sys.exit(main(sys.argv[1:]))",
)
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
    """A first ``status`` and those after it, ``repeats`` of these; ``report`` and ``bench`` once."""
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
        of_torch = f"{1000 * statistics.median(torch):.0f} ms of it are torch's import"
        return [
            Measurement(
                "status of the default methods", first, statistics.median(taken), note=f"equal; {of_torch}"
            ),
            *in_a_finished_folder(Path(name) / "finished", of_torch),
        ]


def in_a_finished_folder(runs: Path, note: str) -> list[Measurement]:
    """``report`` and a ``bench`` with nothing to do, each once both ways."""
    run(*BENCH, str(runs))
    (record,) = runs.rglob("record.json")
    written = record.read_bytes()
    (runs / "descriptions.json").unlink(missing_ok=True)
    bench = [run(*BENCH, str(runs))[0] for _ in range(2)]
    assert record.read_bytes() == written
    report = [run(*program, "report", "--runs", str(runs)) for program in (WITH_LIGHTNING, PROGRAM)]
    assert report[0][1] == report[1][1]
    return [
        Measurement("bench with nothing to do", *bench, note=f"the same record; {note}"),
        Measurement("report of one record", *(seconds for seconds, _ in report), note=f"equal; {note}"),
    ]


def main() -> None:
    """Print the table."""
    print_table(measure())


if __name__ == "__main__":
    main()
