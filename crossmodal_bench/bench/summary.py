"""What a bench prints before its first job and after its last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from crossmodal_bench.bench import planned_ensembles as suite_ensembles
from crossmodal_bench.bench.dependencies import blocked_state, can_never_start, needs
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.given.records import given_records
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record, read_record_or_warn
from crossmodal_bench.jobs.reference import reference_records
from crossmodal_bench.jobs.state import State, state_of
from crossmodal_bench.reporting.comparison.chance import below_chance
from crossmodal_bench.reporting.formats import FILES
from crossmodal_bench.reporting.report import build_report, print_leaderboard
from crossmodal_bench.training.resumption import RESUME_ANYWAY, expected_mismatch


def describe_plan(
    plan: Sequence[PlannedJob],
    options: BenchOptions,
    log: Callable[[str], None],
    queued: Mapping[str, State],
) -> list[PlannedJob]:
    """Print every job with its state; return those that will run.

    Args:
        plan: the jobs, parents first.
        options: the bench's options.
        log: prints a line.
        queued: states of the jobs that a cluster has queued or is running, by job id.
    """
    to_run: list[PlannedJob] = []
    presets = sorted({planned.job.preset for planned in plan})
    log(f"{len(plan)} job{'s' * (len(plan) != 1)}, preset {', '.join(presets)}, records in {options.runs}/")
    if "small" in presets:
        log(
            "PRESET small: small networks and frozen features, sized for a CPU; "
            "these are not the papers' settings."
        )
    corpora = {planned.corpus.name: planned.corpus for planned in plan if planned.corpus is not None}
    for name, corpus in corpora.items():
        if corpus.skipped:
            log(f"{name}: {len(corpus.skipped)} unreadable images skipped: {', '.join(corpus.skipped)}")
    lacking: dict[str, list[PlannedJob]] = {}
    for planned in plan:
        state = state_of(planned)
        if state.name != "done":
            state = queued.get(planned.job.id, state)
        again = state.name == "stale" and options.rerun == "stale"
        if again or planned.job.id in queued or state.name in ("not started", "failed"):
            if can_never_start(planned, {earlier.job.id for earlier in to_run}):
                again = False
                state = State(state.name, needs(planned, (), options))
            else:
                to_run.append(planned)
        job = planned.job
        name = f"{job.method}{f' ({job.label})' if job.label else ''}"
        why = f": {state.why}" if state.why else ""
        if planned in to_run and not again:
            why += _of_checkpoints(planned)
        if state.name == "skipped" and state.why == planned.missing:
            lacking.setdefault(planned.missing, []).append(planned)
            why = ""
        if again:
            why = ": runs again"
        elif state.name == "stale" and options.rerun != "stale":
            why += "; RERUN=stale runs it again"
        log(f"  {name:34s} {job.protocol:22s} seed {job.seed}  {state.name}{why}")
    for sentence, jobs in lacking.items():
        log(f"skipped, {_counted(jobs)}: {sentence}")
    suite_ensembles.describe(plan, options, log)
    for record in _given_records(plan, options):
        job = record.job
        log(f"  {job.method:34s} {job.protocol:22s} seed {job.seed}  given")
    return to_run


def states(plan: Sequence[PlannedJob], queued: Mapping[str, State]) -> list[dict[str, Any]]:
    """Every job and its state, in machine-readable form.

    Args:
        plan: the jobs, parents first.
        queued: states of the jobs that a cluster has queued or is running, by job id.
    """
    listed = []
    for planned in plan:
        state = state_of(planned)
        if state.name != "done":
            state = queued.get(planned.job.id, state)
        job = planned.job
        listed.append(
            {
                "directory": str(planned.directory),
                **{name: getattr(job, name) for name in ("id", "method", "label", "dataset", "protocol")},
                "preset": job.preset,
                "seed": job.seed,
                "state": state.name,
                "why": state.why,
            }
        )
    return listed


def _of_checkpoints(planned: PlannedJob) -> str:
    """What will happen to checkpoints that a job cannot simply resume; empty if there are none."""
    if (mismatch := expected_mismatch(planned)) is None:
        return ""
    if planned.resume_anyway:
        return f": resumes from its checkpoint although {mismatch.why}"
    return (
        f": starts over; its checkpoint is set aside because {mismatch.why}; {RESUME_ANYWAY} resumes from it"
    )


def _counted(jobs: Sequence[PlannedJob]) -> str:
    """The number of jobs, and their methods."""
    methods = ", ".join(dict.fromkeys(planned.job.method for planned in jobs))
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)} ({methods})"


def records_of(plan: Sequence[PlannedJob]) -> list[Record]:
    """The existing, readable records."""
    directories = [planned.directory for planned in plan if planned.files.is_done()]
    return [record for path in directories if (record := read_record_or_warn(path)) is not None]


def _given_records(plan: Sequence[PlannedJob], options: BenchOptions) -> list[Record]:
    """Users' own models on the plan's data sets, under a protocol of the plan."""
    protocols = {planned.job.protocol for planned in plan}
    given = given_records(options.runs, [planned.job.dataset for planned in plan])
    return [record for record in given if record.job.protocol in protocols]


def conclude(
    plan: Sequence[PlannedJob],
    failed: Sequence[PlannedJob],
    options: BenchOptions,
    log: Callable[[str], None],
    *,
    check_chance: bool,
) -> bool:
    """Print the table and what is not done, write the report; return whether all is well.

    Raises:
        BadInput: no job could use its input.
    """
    states = [state_of(planned) for planned in plan]
    records = records_of(plan) + suite_ensembles.ensemble_records(plan, options)
    if records:
        references = reference_records(options.reference)
        print_leaderboard([*records, *_given_records(plan, options), *references])
    failed_ids = {planned.job.id for planned in failed}
    for planned, state in zip(plan, states, strict=True):
        if state.name == "skipped" and state.why == planned.missing:
            # Already reported at the start of the bench, once for all jobs.
            continue
        shown = blocked_state(planned, failed_ids, options) or state
        if shown.name in ("failed", "skipped", "running", "unreadable"):
            log(f"{shown.name}: {planned.title}{f': {shown.why}' if shown.why else ''}")
    done = sum(state.name in ("done", "stale") for state in states)
    log(f"{done} of {len(plan)} jobs done")
    poor = [sentence for record in records for sentence in below_chance(record)] if check_chance else []
    for sentence in poor:
        log(f"not above chance: {sentence}")
    if records:
        report = build_report(options.runs, tuple(FILES), reference_records(options.reference))
        log(f"Report: {', '.join(str(path) for path in report.files)}")
    errors = [planned.files.read_error() for planned in failed]
    if errors and not done and all(error.get("kind") == "bad input" for error in errors):
        raise BadInput(str(errors[0]["message"]))
    return done == len(plan) and not failed and not poor
