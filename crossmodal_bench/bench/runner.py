"""The bench: plan, print, probe, run one job after another, keep what is done, show where it is."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from crossmodal_bench.bench import wandb as wandb_runs
from crossmodal_bench.bench.chance import below_chance
from crossmodal_bench.bench.plan import BenchOptions, PlannedJob, make_plan
from crossmodal_bench.bench.probe import probe_apart
from crossmodal_bench.bench.processes import Worker, has_accelerator
from crossmodal_bench.bench.progress import StatusLine, clock
from crossmodal_bench.bench.record import FILE, Record, read_record
from crossmodal_bench.bench.report import build_report, print_leaderboard
from crossmodal_bench.bench.state import ERROR, LOG, PROGRESS, State, is_locked, read_json, state_of
from crossmodal_bench.errors import BadInput

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75


class Interrupted(Exception):
    """Ctrl-C or a termination signal: what is finished stays, and the same command goes on."""


def bench(options: BenchOptions, *, check_chance: bool = False, say: Callable[[str], None] = print) -> int:
    """Run what is missing of a bench.

    Args:
        options: the command's words.
        check_chance: fail where a model is not clearly above chance.
        say: prints a line.

    Returns:
        0; 1 where a job failed or was skipped; 2 where its input was bad; 75 where it was interrupted.
    """
    mode = wandb_runs.resolve_mode(options.wandb)
    plan = make_plan(options, gpu=has_accelerator())
    to_run = describe_plan(plan, options, say)
    line = StatusLine()
    previous = {name: signal.signal(name, _interrupt) for name in (signal.SIGINT, signal.SIGTERM)}
    worker: Worker | None = None
    try:
        estimates = _probe(to_run, options, line, say)
        for number, planned in enumerate(to_run, start=1):
            left = sum(estimates.get(_kind(one), 0.0) for one in to_run[number:])
            worker = Worker(planned, options.devices)
            _watch(worker, planned, f"job {number}/{len(to_run)}", left, line)
            _after(worker, planned, plan, mode, say)
            worker = None
    except Interrupted:
        line.clear()
        if worker is not None:
            worker.stop()
        say("Interrupted. Finished jobs and finished epochs are kept: run the same command again to go on.")
        return INTERRUPTED
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
    return _conclude(plan, options, check_chance, say)


def describe_plan(
    plan: Sequence[PlannedJob], options: BenchOptions, say: Callable[[str], None]
) -> list[PlannedJob]:
    """Print every job with its state; return those that will run."""
    to_run = []
    presets = sorted({planned.job.preset for planned in plan})
    say(f"{len(plan)} job{'s' * (len(plan) != 1)}, preset {', '.join(presets)}, records in {options.runs}/")
    if "small" in presets:
        say(
            "PRESET small: small networks and frozen features, sized for a CPU; these are not the papers' settings."
        )
    for planned, state in _settled(plan):
        again = state.name == "stale" and options.rerun == "stale"
        if again or state.name in ("not started", "failed"):
            to_run.append(planned)
        job = planned.job
        name = f"{job.method}{f' ({job.label})' if job.label else ''}"
        why = f": {state.why}" if state.why else ""
        if again:
            why = ": runs again"
        elif state.name == "stale":
            why += "; RERUN=stale runs it again"
        say(f"  {name:34s} {job.protocol:22s} seed {job.seed}  {state.name}{why}")
    return to_run


def _settled(plan: Sequence[PlannedJob]) -> list[tuple[PlannedJob, State]]:
    # The workers of a bench that was killed a moment ago take that moment to notice.
    deadline = time.monotonic() + 3
    while any(is_locked(planned.directory) for planned in plan) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [(planned, state_of(planned)) for planned in plan]


def _kind(planned: PlannedJob) -> tuple[str, str, str, str]:
    job = planned.job
    return job.dataset, job.protocol, job.method, job.preset


def _probe(
    to_run: Sequence[PlannedJob], options: BenchOptions, line: StatusLine, say: Callable[[str], None]
) -> dict[tuple[str, str, str, str], float]:
    estimates: dict[tuple[str, str, str, str], float] = {}
    start = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        left = (time.monotonic() - start) / max(done, 1) * (total - done)
        line.show(f"{what}: {done}/{total}, {clock(left)} left")

    for planned in to_run:
        if _kind(planned) not in estimates:
            line.show(f"looking at {planned.job.method} on {planned.job.dataset}")
            start = time.monotonic()
            estimates[_kind(planned)] = probe_apart(planned, tell, options.devices) or 0.0
    line.clear()
    if to_run:
        total = sum(estimates[_kind(planned)] for planned in to_run)
        say(f"{len(to_run)} to run, about {clock(total)} from timed steps")
    return estimates


def _watch(worker: Worker, planned: PlannedJob, title: str, left_after: float, line: StatusLine) -> None:
    job = planned.job
    start = time.monotonic()
    name = f"{title} {job.method} on {job.dataset} seed {job.seed}"
    while not worker.wait(0.2):
        progress = read_json(planned.directory / PROGRESS)
        text = f"{name}: {progress.get('phase', 'starting')}"
        if "epoch" in progress:
            epochs, epoch = progress["epochs"], progress["epoch"]
            fraction = (epoch + progress["batch"] / max(1, progress["batches"])) / max(1, epochs)
            elapsed = time.monotonic() - start
            left = (
                progress["seconds_per_epoch"] * epochs * (1 - fraction)
                or elapsed / max(fraction, 1e-3) - elapsed
            )
            text += f", epoch {epoch + 1}/{epochs}, {clock(left)} left, {clock(left + left_after)} in all"
        elif "done" in progress:
            text += f" {progress['done']}/{progress['total']}, {clock(progress['seconds_left'])} left"
        line.show(text)
    line.clear()
    (planned.directory / PROGRESS).unlink(missing_ok=True)


def _after(
    worker: Worker, planned: PlannedJob, plan: Sequence[PlannedJob], mode: str, say: Callable[[str], None]
) -> None:
    job = planned.job
    if worker.exit_code == 0 and (planned.directory / FILE).is_file():
        record = read_record(planned.directory / FILE)
        warning = wandb_runs.log_record(record, planned.directory, mode)
        if warning:
            say(warning)
        print_leaderboard(_records(plan))
        return
    message = read_json(planned.directory / ERROR).get("message", f"it ended with status {worker.exit_code}")
    say(f"{job.method} on {job.dataset} seed {job.seed} failed: {message} (log: {planned.directory / LOG})")


def _records(plan: Sequence[PlannedJob]) -> list[Record]:
    return [read_record(one.directory / FILE) for one in plan if (one.directory / FILE).is_file()]


def _conclude(
    plan: Sequence[PlannedJob], options: BenchOptions, check_chance: bool, say: Callable[[str], None]
) -> int:
    states = [state_of(planned) for planned in plan]
    records = _records(plan)
    if records:
        if not any(state.name == "not started" for state in states):
            print_leaderboard(records)
        report = build_report(options.runs, ("markdown", "csv", "html"))
        say(f"Report: {', '.join(str(path) for path in report.files)}")
    done = sum(state.name in ("done", "stale") for state in states)
    for planned, state in zip(plan, states, strict=True):
        if state.name in ("failed", "skipped", "running"):
            say(
                f"{state.name}: {planned.job.method} on {planned.job.dataset} seed {planned.job.seed}: {state.why}"
            )
    say(f"{done} of {len(plan)} jobs done")
    poor = [sentence for record in records for sentence in below_chance(record)] if check_chance else []
    for sentence in poor:
        say(f"not above chance: {sentence}")
    if not records and any(state.name == "skipped" for state in states):
        return BAD_INPUT
    kinds = [
        read_json(planned.directory / ERROR).get("kind")
        for planned, state in zip(plan, states, strict=True)
        if state.name == "failed"
    ]
    if kinds and not done and all(kind == "bad input" for kind in kinds):
        return BAD_INPUT
    return OK if done == len(plan) and not poor else FAILED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def status(options: BenchOptions, say: Callable[[str], None] = print) -> int:
    """Print every job of a bench with its state; nothing is run."""
    plan = make_plan(options, gpu=has_accelerator())
    describe_plan(plan, options, say)
    return OK


def check_writable(options: BenchOptions) -> None:
    """Raise BadInput where records could not be written, before anything is trained."""
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
        probe_file = options.runs / ".writable"
        probe_file.write_text("x" * 4096)
        probe_file.unlink()
    except OSError as error:
        raise BadInput(
            f"{options.runs} cannot be written ({error.strerror}); free space there or choose another RUNS folder"
        ) from error
    sys.stdout.flush()
