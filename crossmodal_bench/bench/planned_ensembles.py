"""The ensembles of a suite in a bench: each is computed once its members are done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from crossmodal_bench.bench.ensembles import (
    Ensemble,
    ensemble_id,
    plan_ensemble,
    read_members,
    run_ensemble,
)
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import command_overrides
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.signals import stop_if_asked
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.inputs import corpus_key
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record, read_record, read_record_or_warn, row_name
from crossmodal_bench.jobs.schema import EnsembleRow
from crossmodal_bench.jobs.state import state_of
from crossmodal_bench.jobs.suite_ensembles import ensemble_rows, key
from crossmodal_bench.reporting.wandb.sender import send_to_wandb

Log = Callable[[str], None]


@dataclass(frozen=True)
class PlannedEnsemble:
    """One ensemble of a suite, made of the bench's jobs ``members``."""

    row: EnsembleRow
    suite: str
    members: tuple[PlannedJob, ...]

    @property
    def name(self) -> str:
        """Its name in terminal output."""
        return f"{self.row.method} (ensemble of {self.row.label})"

    @property
    def seed(self) -> int:
        """The members' common seed, or the smallest."""
        return min(planned.job.seed for planned in self.members)

    def waits_for(self) -> PlannedJob | None:
        """The first member that is not done."""
        return next((member for member in self.members if state_of(member).name != "done"), None)

    def record(self) -> Record | None:
        """Its record, whatever its members were; None if there is no readable one."""
        first = self.members[0]
        identity = ensemble_id(self.row.method, [planned.job.id for planned in self.members])
        files = JobDirectory.of(first.directory.parents[2], first.job.dataset, self.row.method, identity)
        return read_record_or_warn(files.path) if files.is_done() else None

    def ensemble(self, options: BenchOptions) -> Ensemble:
        """The ensemble of its members, all of which are finished."""
        records = [read_record(planned.directory) for planned in self.members]
        return plan_ensemble(
            records, options.runs, method=self.row.method, label=self.row.label, suite=self.suite
        )


def planned_ensembles(plan: Sequence[PlannedJob], options: BenchOptions) -> list[PlannedEnsemble]:
    """Ensembles the bench's jobs can form: one per seed that all members share, or for fixed seeds."""
    if options.methods not in experiments.names("suites"):
        return []
    ensembles: dict[tuple[str, ...], PlannedEnsemble] = {}
    for row in ensemble_rows(experiments.suite(options.methods)):
        for members in _members(row, plan, options):
            identity = (row.method, *sorted(planned.job.id for planned in members))
            ensembles.setdefault(identity, PlannedEnsemble(row, options.methods, members))
    return list(ensembles.values())


def describe(plan: Sequence[PlannedJob], options: BenchOptions, log: Log) -> None:
    """Print every ensemble with its state, and those whose members are not all planned."""
    ensembles = planned_ensembles(plan, options)
    for planned in ensembles:
        state = "waiting for its members"
        if planned.waits_for() is None:
            try:
                state = "not made" if planned.ensemble(options).existing() is None else "done"
            except BadInput as error:
                state = f"unreadable: {error}"
        log(f"  {planned.name:34s} {planned.members[0].job.protocol:22s} seed {planned.seed}  {state}")
    if options.methods in experiments.names("suites"):
        made = [planned.row for planned in ensembles]
        for row in ensemble_rows(experiments.suite(options.methods)):
            if row not in made:
                log(f"  {row.method} (ensemble of {row.label}): a member's seed is not among these jobs")


def make_ensembles(plan: Sequence[PlannedJob], options: BenchOptions, mode: str, log: Log) -> bool:
    """Compute the missing ensembles of a suite; True if none failed.

    An ensemble whose members are not done is left for the next bench. ``mode`` is W&B's.
    """
    well = True
    corpora = {
        corpus_key(planned.config["data"]): planned.corpus for planned in plan if planned.corpus is not None
    }
    for planned in planned_ensembles(plan, options):
        stop_if_asked()
        what = f"{planned.name} on {planned.members[0].job.dataset} seed {planned.seed}"
        waits = planned.waits_for()
        if waits is not None:
            job, state = waits.job, state_of(waits).name
            log(f"{what} waits for {row_name(job.method, job.label, {})} seed {job.seed}, which is {state}")
            continue
        try:
            ensemble = planned.ensemble(options)
            existing = ensemble.existing()
            if existing is not None and existing.job == ensemble.job:
                continue
            log(f"{what}: {len(planned.members)} models, summing their similarities")
            read_members([member.directory for member in planned.members])
            record = run_ensemble(ensemble, options.data_root, options.runs / "cache", corpora)
        except Exception as error:
            first = (str(error).strip().splitlines() or ["no message"])[0]
            reason = str(error) if isinstance(error, BadInput) else f"{type(error).__name__}: {first}"
            log(f"{what} failed: {reason}")
            well = False
        else:
            warning = send_to_wandb(record, record.directory, mode)
            if warning:
                log(warning)
    return well


def ensemble_records(plan: Sequence[PlannedJob], options: BenchOptions) -> list[Record]:
    """The existing records of a bench's ensembles."""
    return [
        record for planned in planned_ensembles(plan, options) if (record := planned.record()) is not None
    ]


def _members(
    row: EnsembleRow, plan: Sequence[PlannedJob], options: BenchOptions
) -> Iterator[tuple[PlannedJob, ...]]:
    extra = command_overrides(options)
    # By data set and protocol; then by method with its overrides, and seed.
    jobs: dict[tuple[str, str], dict[tuple[str, int], PlannedJob]] = defaultdict(dict)
    for planned in plan:
        job = planned.job
        jobs[job.dataset, job.protocol][key(job.method, job.overrides), job.seed] = planned
    for candidates in jobs.values():
        for seed in dict.fromkeys(seed for _, seed in candidates):
            wanted = [
                (key(member.method, member.overrides | extra), seed if member.seed is None else member.seed)
                for member in row.members
            ]
            if all(member in candidates for member in wanted):
                yield tuple(candidates[member] for member in wanted)
