"""All speed benchmarks in one table and a JSON file, optionally alternating between two checkouts.

    python benchmarks/perf.py [--only ranking reward] [--base v1.0] [--json perf.json]

Each module of this folder that defines ``measure()`` is measured in a separate process, on one thread unless
``--threads`` says otherwise. The table has a line for each piece of work: the seconds of the plain way and of
ours, their ratio, the share of the machine's matrix-product rate (for work whose operations can be counted),
and peak memory. All seconds are CPU seconds; the matrix-product rate is measured in the same process, before
and after.

With ``--base``, the benchmarks of this checkout also run with that revision's package, alternating, and the
table has the seconds of both. If they can't, because what they measure does not exist there, the revision's
own benchmark of the same name is used; if it has none, nothing.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
PRODUCT = 1024
"""Rows, columns and inner length of the matrix product used as a reference for the machine."""

Lines = list[dict[str, Any]]
"""The measurements of one module, as JSON: the fields of ``Measurement``, ``ratio`` and ``share``."""


def offering(folder: Path) -> list[str]:
    """The names of the modules in a folder that define ``measure``; imports nothing."""
    return sorted(
        path.stem
        for path in folder.glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "measure"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    )


def product_rate(repeats: int = 15) -> float:
    """Floating-point operations per CPU second of a single-precision matrix product."""
    import torch

    left, right = torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)
    out = torch.empty(PRODUCT, PRODUCT)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(left, right, out=out)
        seconds.append(time.process_time() - start)
    return 2.0 * PRODUCT**3 / statistics.median(seconds)


def measure_here(module: str) -> dict[str, Any]:
    """A module's measurements, and this process's peak memory, in bytes."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    before = product_rate()
    measurements = importlib.import_module(module).measure()
    rate = max(before, product_rate())
    lines = []
    for measurement in measurements:
        line = dataclasses.asdict(measurement) | {"ratio": measurement.ratio}
        line["share"] = None
        if measurement.flops is not None:
            line["share"] = measurement.flops / measurement.seconds / rate
        lines.append(line)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"lines": lines, "rate": rate, "peak_bytes": peak}


def measure_apart(module: str, package: Path, benchmarks: Path, threads: int) -> dict[str, Any]:
    """Measure the checkout ``package`` with a module of the folder ``benchmarks``, in a fresh process.

    Returns:
        As ``measure_here``; with ``error``, the last line of output, if the process failed.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package), str(benchmarks)]),
        "OMP_NUM_THREADS": str(threads),
    }
    with tempfile.TemporaryDirectory() as name:
        result = Path(name) / "measured.json"
        # The benchmark's own output is not the result.
        command = [sys.executable, str(Path(__file__).resolve()), "--child", module, "--json", str(result)]
        ran = subprocess.run(command, env=environment, cwd=name, capture_output=True, text=True)
        if ran.returncode:
            said = ran.stderr.strip().splitlines()
            return {"lines": [], "error": said[-1] if said else f"status {ran.returncode}"}
        return json.loads(result.read_text(encoding="utf-8"))


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A working tree of a revision in a temporary folder, removed afterwards."""
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "base"
        add = ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), revision]
        added = subprocess.run(add, capture_output=True, text=True)
        if added.returncode:
            said = added.stderr.strip().splitlines()
            raise SystemExit(f"BASE={revision} cannot be checked out: {said[-1] if said else 'git failed'}")
        try:
            yield tree
        finally:
            remove = ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)]
            subprocess.run(remove, capture_output=True, check=False)


def measure_base(module: str, tree: Path, threads: int) -> dict[str, Any]:
    """Measure another checkout with our benchmark, or else with its own of the same name."""
    measured = measure_apart(module, tree, FOLDER, threads)
    if "error" in measured and module in offering(tree / "benchmarks"):
        measured = measure_apart(module, tree, tree / "benchmarks", threads)
    return measured


def rows(module: str, here: dict[str, Any], base: dict[str, Any] | None) -> Lines:
    """A module's lines, with the process's peak memory if a line has none, and with the base's seconds."""
    of_base = {line["name"]: line["seconds"] for line in base["lines"]} if base else {}
    lines = []
    for line in here["lines"]:
        peak = here["peak_bytes"] if line["peak_bytes"] is None else line["peak_bytes"]
        more = {"benchmark": module, "peak_bytes": peak}
        lines.append(line | more | ({"base_seconds": of_base.get(line["name"])} if base else {}))
    return lines


def print_lines(lines: Lines, with_base: bool) -> None:
    """Print the table."""
    width = max((len(line["name"]) for line in lines), default=0)
    heads = ["plain ms", "ours ms", "ratio", "% of product", "MiB"]
    if with_base:
        heads += ["base ms", "base/ours"]
    print(f"{'':{width}}" + "".join(f"  {head:>12}" for head in heads))
    for line in lines:
        cells = [
            f"{1000 * line['plain_seconds']:.2f}",
            f"{1000 * line['seconds']:.2f}",
            f"{line['ratio']:.2f}",
            "" if line["share"] is None else f"{100 * line['share']:.0f}",
            f"{line['peak_bytes'] / 2**20:.0f}",
        ]
        if with_base:
            seconds = line["base_seconds"]
            cells += (
                ["-", "-"]
                if seconds is None
                else [f"{1000 * seconds:.2f}", f"{seconds / line['seconds']:.2f}"]
            )
        print(f"{line['name']:{width}}" + "".join(f"  {cell:>12}" for cell in cells), flush=True)


def _processor_seconds() -> float:
    """CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(modules: Sequence[str], base: Path | None, threads: int) -> tuple[Lines, list[float], dict[str, str]]:
    """Measure modules one after another.

    Args:
        modules: names.
        base: another checkout to alternate with, or None.
        threads: threads per process.

    Returns:
        All lines, the measured matrix-product rates, and the failures with their last line of output.
    """
    lines: Lines = []
    rates: list[float] = []
    failed: dict[str, str] = {}
    for module in modules:
        start, used = time.perf_counter(), _processor_seconds()
        here = measure_apart(module, ROOT, FOLDER, threads)
        if "error" in here:
            failed[module] = here["error"]
            continue
        other = None if base is None else measure_base(module, base, threads)
        if other is not None and "error" in other:
            failed[f"{module} of the base"] = other["error"]
        rates.append(here["rate"])
        lines += rows(module, here, other)
        wall, processor = time.perf_counter() - start, _processor_seconds() - used
        print(f"{module}: {wall:.0f} s, {processor:.0f} s of CPU", file=sys.stderr, flush=True)
    return lines, rates, failed


def main() -> int:
    """Measure, print and write; return 1 if a benchmark of this checkout failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = offering(FOLDER)
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="benchmarks")
    parser.add_argument("--base", metavar="REF", help="a revision to alternate with this checkout")
    parser.add_argument("--json", type=Path, default=Path("perf.json"), help="output file of all numbers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    if options.child:
        options.json.write_text(json.dumps(measure_here(options.child)), encoding="utf-8")
        return 0
    if options.base is None:
        lines, rates, failed = run(options.only, None, options.threads)
    else:
        with checkout(options.base) as tree:
            lines, rates, failed = run(options.only, tree, options.threads)
    print_lines(lines, options.base is not None)
    rate = statistics.median(rates) if rates else None
    if rate is not None:
        print(f"\nmatrix products of this machine: {rate / 1e9:.0f} GFLOP/s, {options.threads} thread(s)")
    for module, said in failed.items():
        print(f"{module} was not measured: {said}")
    figures = {
        "lines": lines,
        "failed": failed,
        "matrix_product_flops": rate,
        "threads": options.threads,
        "base": options.base,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"All numbers: {options.json}")
    return int(any(module in failed for module in options.only))


if __name__ == "__main__":
    sys.exit(main())
