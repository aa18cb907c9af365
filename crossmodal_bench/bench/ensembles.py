"""Ensembles of finished jobs: their test similarities are summed and evaluated as a model of their own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.evaluation.ensemble import evaluate_ensemble_all
from crossmodal_bench.evaluation.items import items_of, positives_of
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.locks import locked
from crossmodal_bench.jobs.provenance import environment
from crossmodal_bench.jobs.record import (
    Job,
    Member,
    Record,
    read_record,
    row_name,
    write_record,
)
from crossmodal_bench.jobs.results import device_name, peak_memory_mb, results

_MUST_AGREE: dict[str, Callable[[Record], Any]] = {
    "data set": lambda record: record.job.dataset,
    "data fingerprint": lambda record: record.data.fingerprint,
    "test split": lambda record: record.data.split_hash,
    "evaluated split": lambda record: record.evaluated_on,
    "protocol": lambda record: " + ".join(part.protocol_label for part in record.by_protocol()),
    "preset": lambda record: record.job.preset,
}


@dataclass(frozen=True)
class Ensemble:
    """Finished jobs to be summed, and the job they form together."""

    job: Job
    members: tuple[Record, ...]
    directory: Path

    def existing(self) -> Record | None:
        """Its record, if it exists and no member has been rerun since."""
        if not JobDirectory(self.directory).is_done():
            return None
        record = read_record(self.directory)
        then = {(member.id, member.finished_at) for member in record.ensemble}
        now = {(member.job.id, member.finished_at) for member in self.members}
        return record if then == now else None


def read_members(paths: Sequence[str | Path]) -> list[Record]:
    """The records in job directories, or in ``record.json`` files named directly.

    Raises BadInput if they cannot be summed: fewer than two; one named twice, or itself an ensemble; records
    of different data, splits, protocols or presets; or a model whose checkpoint no longer exists.
    """
    # This imports Lightning, which is not needed to look up the state of ensembles.
    from crossmodal_bench.training.trained_model import check_model

    records = [read_record(path) for path in paths]
    if len(records) < 2:
        raise BadInput(
            f"an ensemble needs at least two records, but only {len(records)} was given; name another one"
        )
    for record in records:
        if record.ensemble:
            raise BadInput(f"{record.directory} is itself an ensemble; name its members instead")
    seen = set()
    for record in records:
        if record.job.id in seen:
            raise BadInput(
                f"{record.directory} is named twice, but an ensemble's members must differ; name it once"
            )
        seen.add(record.job.id)
    first = records[0]
    for what, read in _MUST_AGREE.items():
        for other in records[1:]:
            if read(other) != read(first):
                raise BadInput(
                    f"{other.directory} has {what} {read(other)} and {first.directory} {read(first)}; "
                    "only records measured under the same conditions can be summed"
                )
    for record in records:
        check_model(record)
    return records


def plan_ensemble(
    members: Sequence[Record],
    runs: Path,
    *,
    method: str | None = None,
    label: str | None = None,
    suite: str | None = None,
) -> Ensemble:
    """The ensemble of the given members; loads no model.

    Its method is the members' common one or "a+b", unless a suite names it; it has their common overrides,
    and their common seed or else the smallest.

    Args:
        members: as returned by ``read_members``.
        runs: the folder of the records.
        method, label, suite: set for an ensemble of a suite.
    """
    jobs = [record.job for record in members]
    method = method or "+".join(dict.fromkeys(job.method for job in jobs))
    shared = {
        key: value
        for key, value in jobs[0].overrides.items()
        if all(key in job.overrides and job.overrides[key] == value for job in jobs)
    }
    job = Job(
        id=ensemble_id(method, [job.id for job in jobs]),
        method=method,
        dataset=jobs[0].dataset,
        protocol=jobs[0].protocol,
        preset=jobs[0].preset,
        seed=min(job.seed for job in jobs),
        suite=suite,
        label=f"ensemble of {label or _described(jobs, shared)}",
        overrides=shared,
    )
    return Ensemble(job, tuple(members), JobDirectory.of(runs, job.dataset, method, job.id).path)


def ensemble_id(method: str, members: Sequence[str]) -> str:
    """16 hex digits over the members' ids, in any order, and the ensemble's method."""
    return hashlib.sha256(json.dumps(["ensemble", method, *sorted(members)]).encode()).hexdigest()[:16]


def run_ensemble(
    ensemble: Ensemble, data_root: Path, cache: Path, corpora: Mapping[str, Corpus] | None = None
) -> Record:
    """Encode the members' split with each model, rank by the summed similarities, write the record.

    Args:
        ensemble: what to sum.
        data_root: where the data are now.
        cache: where feature stores are kept.
        corpora: corpora already read, by ``corpus_key``.

    Raises:
        BadInput: the data on disk differ from those of the records, or a model cannot be loaded.
    """
    from crossmodal_bench.training.trained_model import encode, protocols_of

    started = datetime.now(UTC)
    known = dict(corpora or {})
    with locked(ensemble.directory):
        encoded = [encode(record, data_root, cache, known) for record in ensemble.members]
        corpus = encoded[0].corpus
        split = ensemble.members[0].evaluated_on
        for model, record in zip(encoded, ensemble.members, strict=True):
            if model.items(split) != encoded[0].items(split):
                raise BadInput(
                    f"{record.directory} was evaluated on other items of {split} than the first record; "
                    "only records with the same data.validation can be summed"
                )
        items = items_of(corpus, split)
        assert items.owner is not None
        protocols = protocols_of(ensemble.members[0], corpus)
        device = encoded[0].device
        evaluations = evaluate_ensemble_all(
            [protocol if split == "test" else protocol.of_any_size() for protocol in protocols],
            [model.member for model in encoded],
            items.owner,
            items.labels,
            items.identities,
            positives=[positives_of(corpus, split, protocol) for protocol in protocols],
            device=device,
        )
        measured = results(ensemble.directory, items, evaluations)
        write_record(ensemble.directory, {**_head(ensemble), **measured, **_tail(ensemble, device, started)})
    return read_record(ensemble.directory)


def _described(jobs: Sequence[Job], shared: Mapping[str, Any]) -> str:
    """Number of seeds if nothing else differs; otherwise what distinguishes the members, with counts."""
    counts = Counter(
        row_name(
            job.method, job.label, {key: job.overrides[key] for key in job.overrides if key not in shared}
        )
        for job in jobs
    )
    if len(counts) == 1:
        return f"{len(jobs)} seeds"
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


def _head(ensemble: Ensemble) -> dict[str, Any]:
    members = ensemble.members
    data = dict(members[0].content["data"])
    features = [record.data.features for record in members]
    if any(source != features[0] for source in features):
        data["features"] = {"members": features}
    # If one member does not state its encoders, those of the ensemble are unknown.
    known = all(record.encoders for record in members)
    encoders = dict.fromkeys(each for record in members for each in record.encoders) if known else ()
    sources = "".join(sorted(record.source_fingerprint for record in members))
    return {
        "job": vars(ensemble.job),
        "evaluated_on": members[0].evaluated_on,
        "data": data,
        "source_fingerprint": hashlib.sha256(sources.encode()).hexdigest()[:16],
        "taken_up": list(dict.fromkeys(clause for record in members for clause in record.taken_up)),
        "selection": {"metric": None, "epoch": None, "rule": "each member's own"},
        "ensemble": [
            Member(
                id=record.job.id,
                method=record.job.method,
                seed=record.job.seed,
                overrides=record.job.overrides,
                directory="/".join(record.directory.resolve().parts[-3:]),
                finished_at=record.finished_at,
            ).model_dump()
            for record in members
        ],
        "history": [],
        "encoders": [each.model_dump() for each in encoders],
    }


def _tail(ensemble: Ensemble, device: torch.device, started: datetime) -> dict[str, Any]:
    def total(name: str) -> float:
        return sum(record.cost.get(name, 0.0) for record in ensemble.members)

    precisions = dict.fromkeys(record.environment.get("precision", "") for record in ensemble.members)
    return {
        "cost": {
            **{name: total(name) for name in ("parameters", "train_seconds", "evaluation_seconds")},
            "peak_memory_mb": peak_memory_mb(),
        },
        "environment": {**environment(device_name(device)), "precision": ", ".join(precisions)},
        "started_at": started.isoformat(timespec="seconds"),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
