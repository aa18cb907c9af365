"""Comparison of two runs or rows: every metric on the same queries, and queries whose winner differs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, printable
from crossmodal_bench.core.files import read_yaml
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.metric_table import SIDES, formatted
from crossmodal_bench.evaluation.protocols.protocol import PROTOCOLS
from crossmodal_bench.evaluation.query_results import QueryResults
from crossmodal_bench.evaluation.ranking.query_ranks import Side
from crossmodal_bench.evaluation.ranking.ranks import Ranks
from crossmodal_bench.evaluation.statistics.comparisons import Difference, compare
from crossmodal_bench.evaluation.stored_results import load_query_results
from crossmodal_bench.jobs.query_ids import Ids, load_query_ids
from crossmodal_bench.jobs.record import Record, row_name
from crossmodal_bench.jobs.verification import recomputed_metrics
from crossmodal_bench.reporting.rows.query_order import in_order_of, query_order

_LONGEST = 70  # characters of a caption in an example


@dataclass(frozen=True)
class MetricDifference:
    """One metric of both sides, as means over seeds; no ``difference`` unless it averages over queries."""

    metric: str
    first: float
    second: float
    difference: Difference | None


@dataclass(frozen=True)
class Example:
    """A query that only one side answers correctly.

    Attributes:
        query: its id.
        text: its caption, or a caption of its image; empty if the data are not available.
        ranks: of its best positive on each side, the expected rank averaged over seeds.
        answers: the id of the top item on each side, from the first seed.
        answer_texts: their captions, likewise.
    """

    query: str
    text: str
    ranks: tuple[float, float]
    answers: tuple[str, str]
    answer_texts: tuple[str, str]


@dataclass(frozen=True)
class ChangedSides:
    """How many queries of one direction each side answers correctly, in most seeds if there are several.

    ``examples`` are queries that only one side answers, largest difference in rank first.
    """

    side: Side
    both: int
    only_first: int
    only_second: int
    neither: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class RunComparison:
    """Two rows under one protocol."""

    dataset: str
    protocol: str
    evaluated_on: str
    first: str
    second: str
    seeds: tuple[tuple[int, ...], tuple[int, ...]]
    metrics: tuple[MetricDifference, ...]
    sides: tuple[ChangedSides, ...]

    def plain(self) -> dict[str, Any]:
        """In the form for JSON."""
        return asdict(self)


def compare_rows(
    first: Sequence[Record], second: Sequence[Record], *, examples: int = 3, data_root: Path | None = None
) -> list[RunComparison]:
    """Compare two rows under every protocol they share.

    Args:
        first: the records of one row.
        second: the records of the other.
        examples: number of example queries per direction.
        data_root: where to read captions; None, or missing data, leaves them out.

    Raises:
        BadInput: the rows have no protocol of the same version in common, used different data, or a file of
            single queries is missing, damaged, or from another run than its record.
    """
    ours, theirs = _by_protocol(first), _by_protocol(second)
    shared = [key for key in ours if key in theirs]
    if not shared:
        raise BadInput(
            f"{_name(first)} was measured under {_protocols(ours)} and {_name(second)} under "
            f"{_protocols(theirs)}; only runs of one data set, protocol, version and split can be compared"
        )
    texts = {} if data_root is None else _captions(first[0], data_root)
    return [_compared(ours[key], theirs[key], examples, texts) for key in shared]


def report_lines(comparison: RunComparison) -> list[str]:
    """The comparison as text."""
    names = [
        f"{name} ({len(seeds)} seed{'s' * (len(seeds) != 1)})"
        for name, seeds in zip((comparison.first, comparison.second), comparison.seeds, strict=True)
    ]
    lines = [
        f"{comparison.dataset}, {comparison.protocol}, {comparison.evaluated_on}",
        f"  first:  {names[0]}",
        f"  second: {names[1]}",
        f"  {'metric':14} {'first':>9} {'second':>9} {'difference':>11}   {'95 % interval':22} p",
    ]
    lines += [_metric_line(metric) for metric in comparison.metrics]
    lines.append(
        "  first minus second, paired on the same queries, clustered by image"
        f"{_covers(comparison)}; p values are per metric, unadjusted"
    )
    for sides in comparison.sides:
        hits = metric_table.lookup(metric_table.first_place(sides.side)).name
        lines.append(
            f"  {SIDES[sides.side]}, correct at {hits}: both {sides.both:,}, "
            f"first only {sides.only_first:,}, second only {sides.only_second:,}, neither {sides.neither:,}"
        )
        lines += [line for example in sides.examples for line in _example_lines(example)]
    return [printable(line) for line in lines]


def _covers(comparison: RunComparison) -> str:
    several = any(len(seeds) > 1 for seeds in comparison.seeds)
    return ", over images and seeds" if several else "; these models, over images"


def _metric_line(metric: MetricDifference) -> str:
    key = metric.metric
    head = (
        f"  {key:14} {formatted(key, metric.first):>9} {formatted(key, metric.second):>9} "
        f"{_signed(key, metric.first - metric.second):>11}"
    )
    if metric.difference is None:
        return head
    interval = f"{_signed(key, metric.difference.low)} to {_signed(key, metric.difference.high)}"
    return f"{head}   {interval:22} {metric.difference.p:.2g}"


def _signed(key: str, value: float) -> str:
    text = formatted(key, value)
    return text if text.startswith("-") else f"+{text}"


def _example_lines(example: Example) -> list[str]:
    lines = [f"    {example.query}{_quoted(example.text)}"]
    for name, rank, answer, text in zip(
        ("first ", "second"), example.ranks, example.answers, example.answer_texts, strict=True
    ):
        lines.append(f"      {name} rank {rank:g}, best {answer}{_quoted(text)}")
    return lines


def _quoted(text: str) -> str:
    if not text:
        return ""
    return f' "{text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"}"'


_Key = tuple[str, str, str]


def _by_protocol(records: Sequence[Record]) -> dict[_Key, list[Record]]:
    """By data set, protocol with its version, and evaluated split; sorted by seed."""
    parts: dict[_Key, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.job.seed):
        for part in record.by_protocol():
            key = (part.job.dataset, part.protocol_label, part.evaluated_on)
            parts.setdefault(key, []).append(part)
    return parts


def _protocols(parts: Mapping[_Key, object]) -> str:
    return " + ".join(f"{protocol} ({dataset}, {split})" for dataset, protocol, split in parts)


def _name(records: Sequence[Record]) -> str:
    return str(records[0].directory if len(records) == 1 else records[0].directory.parent)


def _compared(
    first: Sequence[Record], second: Sequence[Record], examples: int, texts: Mapping[str, str]
) -> RunComparison:
    sides = _side_by_side([*first, *second])
    ids = load_query_ids(first[0].files, first[0].ranks)
    ours = [run.results for run in sides[: len(first)]]
    theirs = [run.results for run in sides[len(first) :]]
    keys = metric_table.in_order(set.intersection(*(set(record.metrics) for record in (*first, *second))))
    metrics = tuple(_metric_difference(key, first, second, ours, theirs) for key in keys)
    has_rank_one = all(
        {metric_table.first_place(side) for side in SIDES} <= run.per_query.keys() and "ranks" in run.families
        for run in (*ours, *theirs)
    )
    changed = [
        _changed(side, sides[: len(first)], sides[len(first) :], ids, examples, texts) for side in SIDES
    ]
    return RunComparison(
        dataset=first[0].job.dataset,
        protocol=first[0].protocol_label,
        evaluated_on=first[0].evaluated_on,
        first=_row_title(first),
        second=_row_title(second),
        seeds=(_seeds(first), _seeds(second)),
        metrics=metrics,
        sides=tuple(changed) if has_rank_one else (),
    )


def _row_title(records: Sequence[Record]) -> str:
    job = records[0].job
    return f"{row_name(job.method, job.label, job.overrides)}, preset {job.preset}, {_name(records)}"


def _seeds(records: Sequence[Record]) -> tuple[int, ...]:
    return tuple(record.job.seed for record in records)


def _results(record: Record) -> QueryResults:
    """The record's single queries; they must give the record's numbers, or else are from another run."""
    for key, value in recomputed_metrics(record).items():
        if key in record.metrics and abs(record.metrics[key] - value) > 1e-6 * max(1.0, abs(value)):
            raise BadInput(
                f"{record.ranks} gives {key} {value:g}, but the record has {record.metrics[key]:g}; run its "
                "job again"
            )
    return load_query_results(record.ranks)


@dataclass(frozen=True)
class _Run:
    """A run whose queries are in the order of the first one's.

    Attributes:
        record: the run's.
        results: what its queries gave, in that order.
        images: (n_images,) the row in its own files of each image.
        captions: (n_texts,) likewise.
    """

    record: Record
    results: QueryResults
    images: NDArray[np.int64]
    captions: NDArray[np.int64]


def _side_by_side(records: Sequence[Record]) -> list[_Run]:
    """The runs, the first unchanged; BadInput if they differ in data or queries."""
    one = records[0]
    for other in records[1:]:
        _check_same_data(one, other)
    order = query_order(one)
    images, captions = np.arange(len(order.images)), np.arange(len(order.captions))
    runs = [_Run(one, _results(one), images, captions)]
    for other in records[1:]:
        own = query_order(other)
        rows = own.rows_like(order)
        results = None if rows is None else in_order_of(_results(other), own, runs[0].results, order)
        if rows is None or results is None:
            raise BadInput(
                f"{one.ranks} and {other.ranks} have different queries; compare runs of the same data"
            )
        runs.append(_Run(other, results, *rows))
    return runs


def _check_same_data(one: Record, other: Record) -> None:
    """BadInput where two records rest on different data.

    Where ids have shown both splits to be a named protocol's, they are the same whatever else lies on a disk:
    vectors with ids have no data set behind them, and features make another fingerprint of the same split.
    """
    verified = one.job.protocol in PROTOCOLS and PROTOCOLS[one.job.protocol].split.verifiable
    for what, ours, theirs, matters in (
        ("the data", one.data.fingerprint[:12], other.data.fingerprint[:12], not verified),
        ("the test split", one.data.split_hash, other.data.split_hash, True),
    ):
        if matters and ours != theirs:
            raise BadInput(
                f"{what} of {one.directory} ({ours}) and {other.directory} ({theirs}) differ; compare "
                "runs of the same data"
            )


def _metric_difference(
    key: str,
    first: Sequence[Record],
    second: Sequence[Record],
    ours: Sequence[QueryResults],
    theirs: Sequence[QueryResults],
) -> MetricDifference:
    difference = None
    if all(key in run.keys for run in (*ours, *theirs)):
        try:
            difference = compare(ours, theirs, key)
        except ValueError as error:
            raise BadInput(
                f"{_name(first)} and {_name(second)} cannot be compared in {key}: {error}"
            ) from error
    means = [statistics.fmean(record.metrics[key] for record in records) for records in (first, second)]
    return MetricDifference(key, means[0], means[1], difference)


def _changed(
    side: Side,
    first: Sequence[_Run],
    second: Sequence[_Run],
    ids: Ids,
    examples: int,
    texts: Mapping[str, str],
) -> ChangedSides:
    key = metric_table.first_place(side)
    ours, theirs = ([run.results for run in runs] for runs in (first, second))
    if any(key not in run.per_query or "ranks" not in run.families for run in (*ours, *theirs)):
        return ChangedSides(side, 0, 0, 0, 0, ())
    right, right_there = (_mostly_right(runs, key) for runs in (ours, theirs))
    counted = ~np.isnan(ours[0].per_query[key])
    expected = [np.mean([_expected(run, side) for run in runs], axis=0) for runs in (first, second)]
    changed = np.flatnonzero((right != right_there) & counted)
    apart = np.abs(np.log(expected[0][changed] / expected[1][changed]))
    chosen = changed[np.argsort(-apart, kind="stable")][:examples]
    queries, gallery = ids if side == "i2t" else ids[::-1]
    best = [_first_answers(runs[0], side) for runs in (first, second)]
    named = []
    for query in chosen.tolist():
        answers = [gallery[answer[query]] for answer in best]
        named.append(
            Example(
                query=queries[query],
                text=texts.get(queries[query], ""),
                ranks=(float(expected[0][query]), float(expected[1][query])),
                answers=(answers[0], answers[1]),
                answer_texts=(texts.get(answers[0], ""), texts.get(answers[1], "")),
            )
        )
    return ChangedSides(
        side=side,
        both=int((right & right_there & counted).sum()),
        only_first=int((right & ~right_there & counted).sum()),
        only_second=int((~right & right_there & counted).sum()),
        neither=int((~right & ~right_there & counted).sum()),
        examples=tuple(named),
    )


def _expected(run: _Run, side: Side) -> NDArray[np.float64]:
    """(n_queries,) the expected rank of each query's best positive."""
    rows = run.images if side == "i2t" else run.captions
    return Ranks.load(run.record.ranks).of(side).expected[rows]


def _first_answers(run: _Run, side: Side) -> list[int]:
    """Of each query the position, in the order of the first run, of what stands first."""
    ranks = Ranks.load(run.record.ranks)
    rows, top, gallery = (
        (run.images, ranks.i2t_top, run.captions)
        if side == "i2t"
        else (run.captions, ranks.t2i_top, run.images)
    )
    position = np.empty(len(gallery), dtype=np.int64)
    position[gallery] = np.arange(len(gallery))
    return position[top[rows, 0]].tolist()


def _mostly_right(runs: Sequence[QueryResults], key: str) -> NDArray[np.bool_]:
    """(n_queries,) whether a query is answered correctly more often than not, over seeds and tie orders."""
    right: NDArray[np.bool_] = np.mean([run.per_query[key] for run in runs], axis=0) > 0.5
    return right


def _captions(record: Record, data_root: Path) -> dict[str, str]:
    """The captions of the record's split by id; empty if the data are missing or different."""
    from crossmodal_bench.training.lightning_cli import instantiate

    if not record.files.config.is_file():
        return {}
    config = read_yaml(record.files.config)
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        return {}
    settings = {
        "data": {**config["data"], "root": str(data_root)},
        "model": {"class_path": "crossmodal_bench.methods.CCA"},
        "seed_everything": 0,
    }
    try:
        module = instantiate(settings, accelerator="cpu", devices=1)
        corpus = module.datamodule.corpus
    except BadInput:
        return {}
    if corpus.captions is None or corpus.fingerprint != record.data.fingerprint:
        return {}
    rows = corpus.caption_rows(record.evaluated_on)
    return {corpus.caption_ids[row]: corpus.captions[row] for row in rows}
