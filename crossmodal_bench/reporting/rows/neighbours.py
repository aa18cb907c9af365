"""Which published numbers are comparable with ours, and which are listed apart, by our records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.published import Comparison, Setting, comparison
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.jobs.suite_ensembles import is_suite_ensemble

_KNOWN_OTHERWISE = ("data.images.network", "data.images.weights")
"""Overrides of the source of image features, which the record states itself."""


def comparable_numbers(records: Sequence[Record], metrics: Iterable[str]) -> dict[str, Comparison]:
    """The published number for each metric of one row's records, which differ only in their seeds."""
    record = records[-1]
    job = record.job
    if record.evaluated_on != "test":
        reason = f"not comparable: evaluated on {record.evaluated_on}, not on test"
        return dict.fromkeys(metrics, Comparison(None, reason=reason))
    if record.ensemble and not is_suite_ensemble(record):
        reason = "not comparable: no suite defines this ensemble for a paper's"
        return dict.fromkeys(metrics, Comparison(None, reason=reason))
    label = "" if record.ensemble else job.label
    # Merges experiment files, so do it once per row, not for each of its numbers.
    setting = _setting(records)
    return {metric: comparison(job.method, job.protocol, metric, setting, label=label) for metric in metrics}


def _setting(records: Sequence[Record]) -> Setting:
    record = records[-1]
    job = record.job
    encoders = (
        dict.fromkeys(each for seed in records for each in seed.encoders)
        if all(seed.encoders for seed in records)
        else ()
    )
    # A row's label, and the members of an ensemble, only apply to the paper's settings.
    own_settings = not (job.label or record.ensemble)
    papers_settings = job.preset == "paper" or (
        own_settings and experiments.has_papers_settings(job.method, job.dataset, job.preset)
    )
    return Setting(
        encoders=tuple(encoders),
        preset=job.preset,
        papers_settings=papers_settings,
        ensemble=bool(record.ensemble),
        overrides=() if record.ensemble else _changed(record),
    )


def _changed(record: Record) -> tuple[str, ...]:
    """The overrides that differ from those of the record's row in its suite."""
    job = record.job
    own = experiments.overrides_of(job.suite, job.method, job.label)
    absent = object()
    return tuple(
        key
        for key in sorted(own.keys() | job.overrides.keys())
        if key not in _KNOWN_OTHERWISE and own.get(key, absent) != job.overrides.get(key, absent)
    )
