"""Rerun a row as its record says it was run, in a separate folder, and report whether the results agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.launchers.local import Local
from crossmodal_bench.bench.launchers.subprocesses import THREADS, how_it_ended
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.bench.progress import StatusLine
from crossmodal_bench.bench.runner import check_writable, run_schedule
from crossmodal_bench.bench.schedule import Schedule
from crossmodal_bench.core.errors import BadInput, tell
from crossmodal_bench.core.signals import AGAIN, Interrupted
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.given.records import PRESET
from crossmodal_bench.jobs.inputs import Inputs
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record, read_record
from crossmodal_bench.jobs.verification import check_record
from crossmodal_bench.reporting.comparison.agreement import Agreement, agreement


@dataclass(frozen=True)
class Repetition:
    """How and where rows are rerun; None: as the record says.

    Attributes:
        runs: the folder of the new records, different from that of the old ones.
        data_root: where the data are.
        devices: as in a bench.
        threads: per process.
        plugins: trusted packages, which may define the method's or the data set's classes.
    """

    runs: Path
    data_root: Path
    devices: str | None = None
    threads: int | None = None
    plugins: tuple[str, ...] = ()


class _Fixed(Local):
    """One job at a time, with a given number of threads."""

    def __init__(self, options: BenchOptions, threads: int | None) -> None:
        super().__init__(options)
        variables = {} if threads is None else {THREADS: str(threads)}
        self.slots = [Slot(slot.devices, {**slot.environment, **variables}) for slot in self.slots[:1]]


def reproduce(
    records: Sequence[Record], how: Repetition, log: Callable[[str], None] = tell
) -> list[Agreement]:
    """Run each record's job again and compare the results.

    Args:
        records: all seeds of one row, which show how far seeds vary.
        how: where and on which devices.
        log: prints a line.

    Raises:
        BadInput: a record cannot be repeated: it contradicts its ranks, is an ensemble, or depends on data,
            protocols or settings that do not exist now; or a run with other threads is already in the folder.
        Interrupted: a job was interrupted; the same command resumes it.
    """
    for record in records:
        _check(record)
    corpora: dict[str, Inputs] = {}
    # Report everything that cannot be run before running anything.
    plans = [_planned(record, how, corpora) for record in records]
    agreements = []
    for record, (planned, options) in zip(records, plans, strict=True):
        again = _run(record, planned, options, how, log)
        agreements.append(agreement(record, again, records))
    return agreements


def _check(record: Record) -> None:
    if record.ensemble:
        raise BadInput(f"{record.directory} is an ensemble; name its members, which can be rerun one by one")
    if record.job.preset == PRESET:
        raise BadInput(
            f"{record.directory} is a model from elsewhere, which cannot be rerun here; pass its vectors to "
            "'crossmodal-bench evaluate' again, and compare the two rows"
        )
    if record.evaluated_on != "test":
        raise BadInput(
            f"{record.directory} was evaluated on {record.evaluated_on}; name a row of the test split"
        )
    for fault in check_record(record):
        raise BadInput(fault)


def _planned(record: Record, how: Repetition, corpora: dict[str, Inputs]) -> tuple[PlannedJob, BenchOptions]:
    job = record.job
    if job.method not in experiments.names("methods"):
        raise BadInput(
            f"{record.directory} uses method '{job.method}', which is not built in; name its file with "
            "--method"
        )
    options = BenchOptions(
        dataset=job.dataset,
        data_root=how.data_root,
        methods=job.method,
        seeds=job.seed + 1,
        preset=job.preset,
        runs=how.runs,
        devices=how.devices or _devices(record),
        wandb="off",
        plugins=how.plugins,
        # Results that an earlier version left there are not a valid repetition.
        rerun="stale",
        overrides=job.overrides,
    )
    plan = make_plan(options, gpu=False, corpora=corpora)
    jobs = [planned for planned in plan if planned.job.method == job.method and planned.job.seed == job.seed]
    missing = next((planned.missing for planned in jobs if planned.missing), "")
    if missing:
        raise BadInput(missing)
    planned = next((planned for planned in jobs if planned.job.id == job.id), None)
    if planned is None:
        found = " + ".join(dict.fromkeys(planned.job.protocol for planned in jobs)) or "nothing"
        raise BadInput(
            f"{record.directory} was measured under {record.protocol_label}, but the data in {how.data_root} "
            f"give {found} with the same settings; name the folder of the same data with --data-root"
        )
    if planned.data_fingerprint != record.data.fingerprint:
        raise BadInput(
            f"the data in {how.data_root} (fingerprint {planned.data_fingerprint[:12]}) are not those of "
            f"{record.directory} ({record.data.fingerprint[:12]}); name the folder of the same data with "
            "--data-root"
        )
    if planned.directory.resolve() == record.directory.resolve():
        raise BadInput(f"{how.runs} is the folder of the record itself; name another one with --runs")
    return planned, options


def _devices(record: Record) -> str:
    if record.environment.get("device") == "cpu":
        processes = record.environment.get("processes", "1")
        return processes if processes.isdigit() and int(processes) > 1 else "cpu"
    return "auto"


def _threads(record: Record, how: Repetition) -> int | None:
    stated = record.environment.get("threads", "")
    return how.threads if how.threads is not None else (int(stated) if stated.isdigit() else None)


def _run(
    record: Record,
    planned: PlannedJob,
    options: BenchOptions,
    how: Repetition,
    log: Callable[[str], None],
) -> Record:
    threads = _threads(record, how)
    if planned.files.is_done() and threads is not None:
        there = read_record(planned.directory).environment.get("threads")
        if there != str(threads):
            raise BadInput(
                f"{planned.directory} was run with {there} threads, not with {threads}; name another folder "
                "with --runs"
            )
    check_writable(options)
    statuses: dict[str, int | None] = {}

    def ended(job: PlannedJob, status: int | None, more: bool) -> bool:
        statuses[job.job.id] = status
        return status == 0 and job.files.is_done()

    line = StatusLine()
    jobs = [*_parents(planned), planned]
    failed = run_schedule(Schedule(jobs, options, _Fixed(options, threads), {}, ended, line, log))
    for job in failed:
        status = statuses.get(job.job.id)
        if status == AGAIN:
            raise Interrupted
        reason = job.files.read_error().get("message") or how_it_ended(status)
        raise BadInput(f"{job.title} failed: {reason} (log: {job.files.log})")
    if not planned.files.is_done():
        raise BadInput(f"{planned.title} was not run; see {planned.files.log}")
    return read_record(planned.directory)


def _parents(planned: PlannedJob) -> list[PlannedJob]:
    """The jobs it starts from, each after its own parents."""
    jobs: dict[str, PlannedJob] = {}
    for parent in planned.parents.values():
        for job in (*_parents(parent), parent):
            jobs.setdefault(job.job.id, job)
    return list(jobs.values())
