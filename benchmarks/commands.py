"""The cost of a command that trains nothing: its imports, and the plan.

    python benchmarks/commands.py

`crossmodal-bench status` of the default methods on the synthetic data set, and `report` and an idle `bench`
in a folder with a finished job. For `status` and `bench`, the plain way is the first call in a folder of
runs, which imports Lightning and its parser to instantiate each method and ask it what it reads. Ours finds
the cached answers of an earlier call, and only imports torch. `report` asks no method, so its plain way
imports Lightning needlessly. The outputs of `status` and `report` are asserted to be equal, and `bench` to
leave the record alone. The time of torch's own import shows how much of the rest is ours.

Nothing is cached if the folder of runs does not exist, because `status` does not create it: until the first
`bench`, every call costs as much as the first.
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
    """The CPU seconds of a Python process, and its output."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run([sys.executable, *words], check=True, capture_output=True, text=True, env=os.environ)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, ran.stdout


def measure(repeats: int = 2) -> list[Measurement]:
    """A first ``status`` and ``repeats`` later ones; ``report`` and an idle ``bench`` once each way."""
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
        of_torch = f"{1000 * statistics.median(torch):.0f} ms are torch's import"
        return [
            Measurement(
                "status of the default methods", first, statistics.median(taken), note=f"equal; {of_torch}"
            ),
            *in_a_finished_folder(Path(name) / "finished", of_torch),
        ]


def in_a_finished_folder(runs: Path, note: str) -> list[Measurement]:
    """``report`` and an idle ``bench``, once each way."""
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
