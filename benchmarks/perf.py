"""All speed benchmarks in one table and a JSON file, optionally alternating between two checkouts.

    python benchmarks/perf.py [--only ranking reward] [--base v1.0] [--rounds 3] [--json perf.json]

Each module of this folder that defines ``measure()`` is measured in a separate process, on one thread unless
``--threads`` says otherwise. The table has a line for each piece of work: the seconds of the plain way and of
ours, their ratio, the share of the machine's matrix-product rate (for work whose operations can be counted),
and peak memory, by default that of the module's whole process, including the plain way. All seconds are CPU
seconds; the matrix-product rate is measured in the same process, before and after.

With ``--base``, the benchmarks of this checkout also run with that revision's package, alternating (here,
base, base, here, here, base), and the table has the medians of both. If they can't, because what they measure
does not exist there, the revision's own benchmark of the same name is used; if it has none, nothing.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
PRODUCT = 1024
"""Rows, columns and inner length of the matrix product used as a reference for the machine."""

ROUNDS = 3
"""Runs of each side if two are compared; ours alone runs once."""

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


def measure_here(module: str, tiny: bool) -> dict[str, Any]:
    """A module's measurements, at its default or ``TINY`` sizes, and this process's peak memory, in bytes."""
    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    before = product_rate()
    benchmark = importlib.import_module(module)
    measurements = benchmark.measure(**(benchmark.TINY if tiny else {}))
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


def measure_apart(
    module: str, package: Path, benchmarks: Path, threads: int, tiny: bool = False
) -> dict[str, Any]:
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
        command += ["--tiny"] if tiny else []
        ran = subprocess.run(command, env=environment, cwd=name, capture_output=True, text=True)
        if ran.returncode:
            # The figures are published: no path of the machine that measured them.
            said = ran.stderr.replace(f"{package}{os.sep}", "").strip().splitlines()
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


def measure_base(module: str, tree: Path, threads: int, tiny: bool = False) -> dict[str, Any]:
    """Measure another checkout with our benchmark, or else with its own of the same name."""
    measured = measure_apart(module, tree, FOLDER, threads, tiny)
    if "error" in measured and module in offering(tree / "benchmarks"):
        measured = measure_apart(module, tree, tree / "benchmarks", threads, tiny)
    return measured


def in_turns(sides: Sequence[Callable[[], dict[str, Any]]], rounds: int) -> list[dict[str, Any]]:
    """Medians of each side over the rounds, whose order alternates.

    A side that fails is not run again; its error is returned.
    """
    found: list[list[dict[str, Any]]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for side in order:
            if not found[side] or "error" not in found[side][-1]:
                found[side].append(sides[side]())
        if "error" in found[0][-1]:
            break
    return [median(measured) for measured in found]


def median(measured: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine several measurements of one module: median seconds and shares, maximum memory."""
    if not measured:
        return {"lines": []}
    if "error" in measured[-1]:
        return measured[-1]
    lines = []
    for places in zip(*(one["lines"] for one in measured), strict=True):
        line = dict(places[0])
        for key in ("plain_seconds", "seconds", "share"):
            line[key] = None if line[key] is None else statistics.median(place[key] for place in places)
        line["ratio"] = line["plain_seconds"] / line["seconds"]
        if line["peak_bytes"] is not None:
            line["peak_bytes"] = max(place["peak_bytes"] for place in places)
        lines.append(line)
    return {
        "lines": lines,
        "rate": max(one["rate"] for one in measured),
        "peak_bytes": max(one["peak_bytes"] for one in measured),
    }


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
    heads = ["plain ms", "ours ms", "ratio", "% of product", "peak MiB"]
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


def run(
    modules: Sequence[str], base: Path | None, threads: int, rounds: int = ROUNDS, tiny: bool = False
) -> tuple[Lines, list[float], dict[str, str]]:
    """Measure modules one after another.

    Args:
        modules: names.
        base: another checkout to be measured in turns, or None.
        threads: of each process.
        rounds: processes of each side; of ours alone, one.
        tiny: whether at sizes that only show that everything works.

    Returns:
        All lines, the measured matrix-product rates, and the failures with their last line of output.
    """
    lines: Lines = []
    rates: list[float] = []
    failed: dict[str, str] = {}
    for module in modules:
        start, used = time.perf_counter(), _processor_seconds()
        sides = [partial(measure_apart, module, ROOT, FOLDER, threads, tiny)]
        if base is not None:
            sides.append(partial(measure_base, module, base, threads, tiny))
        here, *others = in_turns(sides, 1 if base is None else rounds)
        if "error" in here:
            failed[module] = here["error"]
            continue
        other = others[0] if others else None
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
    parser.add_argument("--base", metavar="REF", help="a revision to be measured in turns with this checkout")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="processes of each of the two")
    parser.add_argument("--json", type=Path, default=Path("perf.json"), help="the file of all figures")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="see whether all of them run; measures nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.threads, options.rounds) < 1:
        parser.error("--threads and --rounds must be at least 1")
    if options.child:
        found = measure_here(options.child, options.tiny)
        options.json.write_text(json.dumps(found), encoding="utf-8")
        return 0
    with nullcontext() if options.base is None else checkout(options.base) as tree:
        lines, rates, failed = run(options.only, tree, options.threads, options.rounds, options.tiny)
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
        "rounds": 1 if options.base is None else options.rounds,
        "tiny": options.tiny,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }
    options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(f"All numbers: {options.json}")
    return int(any(module in failed for module in options.only))


if __name__ == "__main__":
    sys.exit(main())
