"""The bench: plan, print, dry-run, run the jobs, keep what is finished, show progress."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module

from crossmodal_bench.bench import grid_search
from crossmodal_bench.bench import planned_ensembles as suite_ensembles
from crossmodal_bench.bench.kinds import Kind
from crossmodal_bench.bench.launchers import slurm
from crossmodal_bench.bench.launchers.base import Launcher
from crossmodal_bench.bench.launchers.local import Local
from crossmodal_bench.bench.launchers.slurm_options import asks_for_gpus
from crossmodal_bench.bench.launchers.subprocesses import how_it_ended
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.bench.progress import StatusLine
from crossmodal_bench.bench.schedule import Schedule
from crossmodal_bench.bench.summary import conclude, describe_plan, records_of, states
from crossmodal_bench.core.errors import BadInput, no_permission, tell
from crossmodal_bench.core.signals import AGAIN, Interrupted, StopRequest, finish_before_stopping, listening
from crossmodal_bench.jobs.locks import Taken, is_locked, locked
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.jobs.reference import reference_records
from crossmodal_bench.jobs.state import state_of
from crossmodal_bench.reporting.report import print_leaderboard
from crossmodal_bench.reporting.wandb import live
from crossmodal_bench.reporting.wandb.mode import Mode, allow_media, resolve_mode
from crossmodal_bench.reporting.wandb.sender import send_to_wandb
from crossmodal_bench.reporting.wandb.state import conclusion
from crossmodal_bench.training.devices import has_accelerator
from crossmodal_bench.training.resumption import restore_set_aside

OK = 0
FAILED = 1


def bench(
    options: BenchOptions,
    *,
    check_chance: bool = False,
    log: Callable[[str], None] = tell,
    launcher: Launcher | None = None,
) -> int:
    """Run the missing jobs of a bench.

    Args:
        options: the command's options.
        check_chance: fail if a model is not clearly above chance.
        log: prints a line.
        launcher: where jobs run; None for what ``options.launcher`` names.

    Returns:
        0; 1 if a job failed or was skipped; 75 if the bench or one of its jobs was interrupted.

    Raises:
        BadInput: nothing could be run, or RUNS is no longer writable; finished work is kept.
    """
    with listening() as request:
        return _bench(options, request, check_chance=check_chance, log=log, launcher=launcher)


def _bench(
    options: BenchOptions,
    request: StopRequest,
    *,
    check_chance: bool,
    log: Callable[[str], None],
    launcher: Launcher | None,
) -> int:
    line = StatusLine()
    began = time.time()
    mode: Mode = "off"
    plan: Sequence[PlannedJob] = ()
    try:
        mode = resolve_mode(options.wandb)
        live.switch(mode if options.wandb_live == "1" else "off")
        allow_media(allowed=options.wandb_media == "1")
        if launcher is None:
            launcher = slurm.Slurm(options, log) if options.launcher == "slurm" else Local(options)
        reference_records(options.reference)
        plan = _plan(options)
        if launcher.allows_dry_runs and _may_train(plan, options):
            _load_worker()
        for planned in plan:
            # Workers are forked from here and run these sources, whatever is pulled before they start.
            planned.fingerprint()
        _settle(plan)
        lacks_everything = all(state_of(planned).name == "skipped" for planned in plan)
        reasons = {planned.missing for planned in plan if planned.missing}
        if lacks_everything and len(reasons) == 1:
            raise BadInput(reasons.pop())
        to_run = describe_plan(plan, options, log, slurm.queued(plan))
        if lacks_everything:
            raise BadInput("no job has what it needs; the reasons and fixes are listed above")
        failed = _run(to_run, plan, options, launcher, mode, line, log)
        summed = suite_ensembles.make_ensembles(plan, options, mode, log)
        request.check()
        well = conclude(plan, failed, options, log, check_chance=check_chance)
        request.check()
        grid_search.choose(plan, options, log)
        if mode != "off":
            _tell_of_wandb(plan, options, began, log, patience=None)
        if well and summed:
            return OK
        # Jobs that were asked to stop on their own, without the bench, have not failed.
        stopped = bool(failed) and all(state_of(planned).name == "not started" for planned in failed)
        return AGAIN if stopped and summed else FAILED
    except Interrupted:
        line.clear()
        stays = launcher.parting() if launcher is not None else ""
        log(
            "Interrupted. All finished work is kept: run the same command again to resume."
            + (f" {stays}" if stays else "")
        )
        if mode != "off":
            _tell_of_wandb(plan, options, began, log, patience=0)
        return AGAIN
    except OSError as error:
        check_writable(options)
        if isinstance(error, PermissionError):
            raise no_permission(error) from error
        raise


def _plan(options: BenchOptions) -> list[PlannedJob]:
    if options.launcher == "slurm":
        return make_plan(options, gpu=options.devices != "cpu" and asks_for_gpus(options.slurm))
    # Querying for a GPU initialises its driver, after which the process must not fork.
    return make_plan(options, gpu=options.devices != "cpu" and has_accelerator())


def _may_train(plan: Sequence[PlannedJob], options: BenchOptions) -> bool:
    """Whether there may be something to run, judged without computing fingerprints."""
    open_jobs = any(not planned.missing and not planned.files.is_done() for planned in plan)
    return open_jobs or options.rerun == "stale"


def _load_worker() -> None:
    """Import what forked workers run before the fingerprint of the sources is taken."""
    import_module("crossmodal_bench.bench.runtime_estimate")
    import_module("crossmodal_bench.training.worker")


def _run(
    to_run: Sequence[PlannedJob],
    plan: Sequence[PlannedJob],
    options: BenchOptions,
    launcher: Launcher,
    mode: str,
    line: StatusLine,
    log: Callable[[str], None],
) -> list[PlannedJob]:
    """Run jobs, waiting for those other benches run in the same folder; return those that failed."""
    for planned in to_run:
        if planned.resume_anyway:
            _take_back(planned, log)
    seconds: Mapping[Kind, float] = {}
    refused: list[PlannedJob] = []
    if to_run and launcher.allows_dry_runs:
        # This imports Lightning, which a bench with nothing to do does not need.
        from crossmodal_bench.bench.runtime_estimate import estimates

        seconds, reasons = estimates(to_run, launcher.slots, line, log)
        refused = _refuse(to_run, reasons, log)

    def ended(planned: PlannedJob, status: int | None, more: bool) -> bool:
        well = _after(planned, status, mode, log)
        if not well:
            # A job may have failed because of the disk, which would make all others fail too.
            check_writable(options)
        elif more:
            shown = [*records_of(plan), *reference_records(options.reference)]
            print_leaderboard(shown, with_notes=False)
        return well

    asked = {planned.job.id for planned in to_run} - {planned.job.id for planned in refused}
    jobs = [planned for planned in plan if planned.job.id in asked or is_locked(planned.directory)]
    schedule = Schedule(jobs, options, launcher, seconds, ended, line, log)
    return [*refused, *run_schedule(schedule)]


def _refuse(
    to_run: Sequence[PlannedJob], reasons: Mapping[str, str], log: Callable[[str], None]
) -> list[PlannedJob]:
    """Fail the jobs that cannot run on these data, printing each reason once; the others still run."""
    refused: dict[str, list[PlannedJob]] = {}
    for planned in to_run:
        if (reason := reasons.get(planned.job.id)) is not None:
            refused.setdefault(reason, []).append(planned)
    for reason, jobs in refused.items():
        for planned in jobs:
            # A process that holds the lock will find out by itself.
            with suppress(Taken), locked(planned.directory):
                planned.files.write_error("bad input", reason)
        log(f"{', '.join(planned.title for planned in jobs)} cannot run: {reason}")
    return [planned for jobs in refused.values() for planned in jobs]


def _take_back(planned: PlannedJob, log: Callable[[str], None]) -> None:
    """Move a job's set-aside checkpoints back to where its worker looks for them."""
    if not planned.files.tags_aside():
        return
    # A process that holds the lock has already chosen its checkpoint.
    with suppress(Taken), locked(planned.directory):
        said = restore_set_aside(planned.files)
        if said:
            log(f"{planned.title}: {said}")


def run_schedule(schedule: Schedule) -> list[PlannedJob]:
    """Run a schedule, stopping its jobs however it ends; return the jobs that failed."""
    with listening():
        try:
            return schedule.run()
        except BaseException:
            # A second Ctrl-C must not leave a worker behind.
            with finish_before_stopping():
                schedule.stop()
            raise


def _settle(plan: Sequence[PlannedJob]) -> None:
    # Workers of a bench that was just killed need a moment to notice.
    deadline = time.monotonic() + 3
    while any(is_locked(planned.directory) for planned in plan) and time.monotonic() < deadline:
        time.sleep(0.1)


def _tell_of_wandb(
    plan: Sequence[PlannedJob],
    options: BenchOptions,
    began: float,
    log: Callable[[str], None],
    *,
    patience: float | None,
) -> None:
    """Report which runs are on W&B's server, and how to upload the others."""
    records = [*records_of(plan), *suite_ensembles.ensemble_records(plan, options)]
    for sentence in conclusion(records, options.runs, began, patience=patience):
        log(sentence)


def _after(planned: PlannedJob, status: int | None, mode: str, log: Callable[[str], None]) -> bool:
    """Send a finished job to W&B, or report why it failed; return whether it finished."""
    if status == 0 and planned.files.is_done():
        record = read_record(planned.directory)
        warning = None if live.is_followed(record) else send_to_wandb(record, planned.directory, mode)
        if warning:
            log(warning)
        return True
    if status == AGAIN:
        log(f"{planned.title} was interrupted; run the same command again to resume it")
        return False
    if not planned.files.error.is_file():
        planned.files.write_error("error", how_it_ended(status))
    message = planned.files.read_error().get("message", "")
    log(f"{planned.title} failed: {message} (log: {planned.files.log})")
    return False


def status(
    options: BenchOptions, log: Callable[[str], None] = tell, *, machine_readable: bool = False
) -> int:
    """Print every job of a bench with its state, as a listing or as JSON; runs nothing."""
    plan = _plan(options)
    if machine_readable:
        print(json.dumps(states(plan, slurm.queued(plan)), indent=1))
        return OK
    describe_plan(plan, options, log, slurm.queued(plan))
    return OK


def check_writable(options: BenchOptions) -> None:
    """Raise BadInput if records could not be written, before anything is trained."""
    try:
        options.runs.mkdir(parents=True, exist_ok=True)
        # An unpredictable name: two benches may start at the same moment, and in a folder that others may
        # write to, a planted symlink of a known name would overwrite someone's file.
        with tempfile.NamedTemporaryFile(dir=options.runs, prefix=".writable-") as scratch:
            scratch.write(b"x" * 4096)
            scratch.flush()
    except OSError as error:
        raise BadInput(
            f"{options.runs} cannot be written ({error.strerror}); "
            "free space there or choose another RUNS folder"
        ) from error
    sys.stdout.flush()
