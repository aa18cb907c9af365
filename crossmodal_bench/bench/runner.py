"""The bench: plan, print, probe, run one job after another, keep what is done, show where it is."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import FrameType

from crossmodal_bench.bench import suite_ensembles
from crossmodal_bench.bench import wandb as wandb_runs
from crossmodal_bench.bench.chance import below_chance
from crossmodal_bench.bench.parents import held_back, needs, waits_in_vain
from crossmodal_bench.bench.plan import BenchOptions, PlannedJob, make_plan
from crossmodal_bench.bench.probe import estimates, kind_of
from crossmodal_bench.bench.processes import Worker, ended, has_accelerator
from crossmodal_bench.bench.progress import StatusLine, clock
from crossmodal_bench.bench.record import FILE, Record, read_record
from crossmodal_bench.bench.report import build_report, print_leaderboard
from crossmodal_bench.bench.state import (
    ERROR,
    LOG,
    PROGRESS,
    State,
    is_locked,
    read_json,
    state_of,
    write_json,
)
from crossmodal_bench.errors import BadInput
from crossmodal_bench.interruption import AGAIN, ASKING, Interrupted

OK, FAILED = 0, 1


def bench(options: BenchOptions, *, check_chance: bool = False, say: Callable[[str], None] = print) -> int:
    """Run what is missing of a bench.

    Args:
        options: the command's words.
        check_chance: fail where a model is not clearly above chance.
        say: prints a line.

    Returns:
        0; 1 where a job failed or was skipped; 75 where it was interrupted.

    Raises:
        BadInput: nothing could be run, or RUNS cannot be written any more; what is finished is kept.
    """
    line = StatusLine()
    previous = {name: signal.signal(name, _interrupt) for name in (signal.SIGINT, *ASKING)}
    try:
        mode = wandb_runs.resolve_mode(options.wandb)
        plan = _plan(options)
        _settle(plan)
        to_run = describe_plan(plan, options, say)
        if all(state_of(planned).name == "skipped" for planned in plan):
            raise BadInput(plan[0].missing)
        failed = _run(to_run, plan, options, mode, line, say)
        summed = suite_ensembles.make_ensembles(plan, options, mode, say)
        status = _conclude(plan, failed, options, check_chance, say)
        return status if summed else FAILED
    except Interrupted:
        line.clear()
        say("Interrupted. Everything is kept: run the same command again to go on.")
        return AGAIN
    except OSError:
        check_writable(options)
        raise
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _plan(options: BenchOptions) -> list[PlannedJob]:
    # Asking for a GPU starts its driver, after which the process must not fork.
    return make_plan(options, gpu=options.devices != "cpu" and has_accelerator())


def _run(
    to_run: Sequence[PlannedJob],
    plan: Sequence[PlannedJob],
    options: BenchOptions,
    mode: str,
    line: StatusLine,
    say: Callable[[str], None],
) -> list[PlannedJob]:
    """Run jobs one after another; those that failed."""
    seconds = estimates(to_run, options.devices, line, say)
    failed: list[PlannedJob] = []
    for number, planned in enumerate(to_run, start=1):
        if number > 1 and state_of(planned).name in ("done", "running"):
            # Another bench in the same folder was faster.
            continue
        if needs(planned, _ids(failed), options):
            # The end of the bench says so.
            continue
        left = sum(seconds.get(kind_of(one), 0.0) for one in to_run[number:])
        if planned.parents:
            say(f"{_name(planned)} starts from {', '.join(planned.parents)}")
        worker = Worker(planned, options.devices)
        try:
            _watch(worker, planned, f"job {number}/{len(to_run)}", left, line)
        except BaseException:
            _stop(worker)
            raise
        if not _after(worker, planned, mode, say):
            failed.append(planned)
            # What lets one job fail may be the disk, and would let all others fail.
            check_writable(options)
        elif number < len(to_run):
            print_leaderboard(_records(plan), with_notes=False)
    return failed


def _stop(worker: Worker) -> None:
    # A second Ctrl-C must not leave a worker behind.
    for name in (signal.SIGINT, *ASKING):
        signal.signal(name, signal.SIG_IGN)
    worker.stop()


def describe_plan(
    plan: Sequence[PlannedJob], options: BenchOptions, say: Callable[[str], None]
) -> list[PlannedJob]:
    """Print every job with its state; return those that will run."""
    to_run: list[PlannedJob] = []
    presets = sorted({planned.job.preset for planned in plan})
    say(f"{len(plan)} job{'s' * (len(plan) != 1)}, preset {', '.join(presets)}, records in {options.runs}/")
    if "small" in presets:
        say(
            "PRESET small: small networks and frozen features, sized for a CPU; "
            "these are not the papers' settings."
        )
    corpora = {one.corpus.name: one.corpus for one in plan if one.corpus is not None}
    for name, corpus in corpora.items():
        if corpus.skipped:
            say(f"{name}: {len(corpus.skipped)} unreadable images are skipped: {', '.join(corpus.skipped)}")
    for planned in plan:
        state = state_of(planned)
        again = state.name == "stale" and options.rerun == "stale"
        if again or state.name in ("not started", "failed"):
            if waits_in_vain(planned, _ids(to_run)):
                again, state = False, State(state.name, needs(planned, (), options))
            else:
                to_run.append(planned)
        job = planned.job
        name = f"{job.method}{f' ({job.label})' if job.label else ''}"
        why = f": {state.why}" if state.why else ""
        if again:
            why = ": runs again"
        elif state.name == "stale" and options.rerun != "stale":
            why += "; RERUN=stale runs it again"
        say(f"  {name:34s} {job.protocol:22s} seed {job.seed}  {state.name}{why}")
    suite_ensembles.describe(plan, options, say)
    return to_run


def _settle(plan: Sequence[PlannedJob]) -> None:
    # The workers of a bench that was killed a moment ago take that moment to notice.
    deadline = time.monotonic() + 3
    while any(is_locked(planned.directory) for planned in plan) and time.monotonic() < deadline:
        time.sleep(0.1)


def _watch(worker: Worker, planned: PlannedJob, title: str, left_after: float, line: StatusLine) -> None:
    start = time.monotonic()
    name = f"{title} {_name(planned)}"
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


def _after(worker: Worker, planned: PlannedJob, mode: str, say: Callable[[str], None]) -> bool:
    """Tell W&B of a finished job, or say why it failed; whether it finished."""
    if worker.exit_code == 0 and (planned.directory / FILE).is_file():
        record = read_record(planned.directory / FILE)
        warning = wandb_runs.log_record(record, planned.directory, mode)
        if warning:
            say(warning)
        return True
    if not (planned.directory / ERROR).is_file():
        why = {"kind": "error", "message": ended(worker.exit_code)}
        write_json(planned.directory / ERROR, why)
    message = read_json(planned.directory / ERROR).get("message", "")
    say(f"{_name(planned)} failed: {message} (log: {planned.directory / LOG})")
    return False


def _records(plan: Sequence[PlannedJob]) -> list[Record]:
    return [read_record(one.directory / FILE) for one in plan if (one.directory / FILE).is_file()]


def _conclude(
    plan: Sequence[PlannedJob],
    failed: Sequence[PlannedJob],
    options: BenchOptions,
    check_chance: bool,
    say: Callable[[str], None],
) -> int:
    states = [state_of(planned) for planned in plan]
    records = _records(plan) + suite_ensembles.ensemble_records(plan, options)
    if records:
        print_leaderboard(records)
    for planned, state in zip(plan, states, strict=True):
        shown = held_back(planned, _ids(failed), options) or state
        if shown.name in ("failed", "skipped", "running"):
            say(f"{shown.name}: {_name(planned)}{f': {shown.why}' if shown.why else ''}")
    done = sum(state.name in ("done", "stale") for state in states)
    say(f"{done} of {len(plan)} jobs done")
    poor = [sentence for record in records for sentence in below_chance(record)] if check_chance else []
    for sentence in poor:
        say(f"not above chance: {sentence}")
    if records:
        report = build_report(options.runs, ("markdown", "csv", "html"))
        say(f"Report: {', '.join(str(path) for path in report.files)}")
    errors = [read_json(planned.directory / ERROR) for planned in failed]
    if errors and not done and all(error.get("kind") == "bad input" for error in errors):
        raise BadInput(str(errors[0]["message"]))
    return OK if done == len(plan) and not failed and not poor else FAILED


def _ids(jobs: Sequence[PlannedJob]) -> set[str]:
    return {planned.job.id for planned in jobs}


def _name(planned: PlannedJob) -> str:
    job = planned.job
    return f"{job.method} on {job.dataset} seed {job.seed}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def status(options: BenchOptions, say: Callable[[str], None] = print) -> int:
    """Print every job of a bench with its state; nothing is run."""
    describe_plan(_plan(options), options, say)
    return OK


def check_writable(options: BenchOptions) -> None:
    """Raise BadInput where records could not be written, before anything is trained."""
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
        # Two benches may start in one folder at the same moment.
        probe_file = options.runs / f".writable-{os.getpid()}"
        probe_file.write_text("x" * 4096)
        probe_file.unlink()
    except OSError as error:
        raise BadInput(
            f"{options.runs} cannot be written ({error.strerror}); "
            "free space there or choose another RUNS folder"
        ) from error
    sys.stdout.flush()
