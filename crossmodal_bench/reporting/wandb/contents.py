"""The contents of a job's W&B run: configuration, summary, tables and pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation.metric_table import SIDES, TIES, families_among
from crossmodal_bench.evaluation.ranking.ranks import Ranks
from crossmodal_bench.jobs.directory import read_json, read_own
from crossmodal_bench.jobs.experiments import is_free, licence_of
from crossmodal_bench.jobs.query_ids import load_query_ids
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.page.row_details import command_of
from crossmodal_bench.reporting.rows.leaderboard import Row, tables
from crossmodal_bench.reporting.tables.layout import TARGETS, main_metrics
from crossmodal_bench.reporting.tables.shown import COSTS
from crossmodal_bench.reporting.wandb.mode import are_media_allowed
from crossmodal_bench.reporting.wandb.settings import described, without_own_folders

if TYPE_CHECKING:
    import wandb

    from crossmodal_bench.reporting.page.gallery import Gallery

QUERIES = 1000
"""Maximum number of queries per direction in the table of queries, evenly spaced if there are more."""
ANSWERS = 5
"""Number of answers per query in that table."""
LARGEST_PICTURE = 32 * 2**20
"""Maximum size of a panel, in bytes."""
SHOWN = (
    "job",
    "data",
    "environment",
    "evaluated_on",
    "source_fingerprint",
    "selection",
    "ensemble",
    "parents",
    "ablation",
    "taken_up",
    "started_at",
    "finished_at",
)
"""The fields of a record that are copied to its run's configuration."""


def configuration(record: Record, rows: Sequence[Row]) -> dict[str, Any]:
    """The configuration of a record's run.

    In addition to ``described``: the command that creates the row, the commit it was run with (empty if
    unknown), data, environment, and what else the record says about how it was made.

    Args:
        record: a job's record.
        rows: the leaderboard of this record alone.
    """
    made = {
        **{name: record.content[name] for name in SHOWN if name in record.content},
        "protocol_version": record.protocol_version,
        "command": command_of(rows[0], str(record.directory.parents[2])),
        "commit": record.environment.get("commit", ""),
    }
    # The job's names are in both, and those of ``described`` win.
    return {**without_own_folders(made, record.files), **described(record.job, record.files)}


def summary(record: Record, rows: Sequence[Row]) -> dict[str, float | str]:
    """Metrics, intervals, costs, and what they mean.

    ``primary`` is the metric that ranks the protocol's rows, and ``primary_metric`` its name. If the same run
    was also measured under other protocols, their metrics are prefixed with the protocols' names.

    Args:
        record: a job's record.
        rows: the leaderboard of this record alone.
    """
    numbers: dict[str, float | str] = {**record.metrics, **_bounds(record.intervals)}
    for protocol, also in record.also.items():
        theirs = {**also.metrics, **_bounds(also.intervals)}
        numbers |= {f"{protocol}/{name}": value for name, value in theirs.items()}
    numbers |= {f"cost/{name}": value for name, value in record.cost.items()}
    primary = next(row.primary for row in rows if row.protocol == record.job.protocol)
    if primary in record.metrics:
        numbers |= {"primary": record.metrics[primary], "primary_metric": primary}
    families = families_among(record.metrics)
    return numbers | {
        "protocol_label": record.protocol_label,
        "protocol_version": record.protocol_version,
        "tie_rule": "; ".join(TIES[family] for family in families if family in TIES),
        "interval_rule": f"95 % intervals {TARGETS['model']}; those over seeds are in the leaderboard",
    }


def media(record: Record, rows: Sequence[Row]) -> tuple[dict[str, wandb.Table | wandb.Image], dict[str, str]]:
    """Tables and pictures by name, and notes on them for the summary.

    ``leaderboard`` has a line per protocol and ``queries`` one per query: W&B joins the same table of
    several runs. ``written_captions`` exists for a model that generates captions.

    Args:
        record: a job's record.
        rows: the leaderboard of this record alone.
    """
    import wandb

    contents: dict[str, wandb.Table | wandb.Image] = {"leaderboard": _leaderboard(record, rows)}
    said = {}
    if not shows_data(record):
        said["data_left_out"] = (
            f"captions and pictures of the data set; its licence: {licence_of(record.job.dataset)}"
        )
    queries = query_table(record)
    if queries is not None:
        columns, lines, said["queries_shown"] = queries
        contents["queries"] = wandb.Table(columns=columns, data=lines)
    captions = list(read_json(record.files.written_captions).items())
    if captions:
        chosen = _evenly(len(captions))
        written: list[Iterable[Any]] = [[str(text) for text in captions[row]] for row in chosen]
        contents["written_captions"] = wandb.Table(columns=["image", "caption"], data=written)
        said["written_captions_shown"] = _shown(len(chosen), len(captions), "captions")
    for name, png in (*_figures(record, rows), *_panels(record)):
        contents[name] = _image(png)
    return contents, said


def shows_data(record: Record) -> bool:
    """Whether a run may include sentences and pictures of its data, by licence or by the user's choice."""
    return is_free(record.job.dataset) or are_media_allowed()


def query_table(record: Record) -> tuple[list[str | int], list[Iterable[Any]], str] | None:
    """The answers to single queries: columns, lines, and a sentence on how many of the queries these are.

    None if the record's protocol does not rank single positives, or the file of ranks is missing.
    """
    try:
        ranks = Ranks.load(record.ranks)
        image_ids, caption_ids = load_query_ids(record.files, record.ranks)
    except BadInput:
        return None
    gallery = _gallery(record) if shows_data(record) else None
    texts = dict(zip(gallery.caption_ids, gallery.captions, strict=False)) if gallery is not None else {}
    columns: list[str | int] = ["direction", "query", "rank", "expected rank", "tied"]
    columns += [f"top {place}" for place in range(1, ANSWERS + 1)]
    columns += [f"score {place}" for place in range(1, ANSWERS + 1)]
    columns += ["text"] if texts else []
    lines: list[Iterable[Any]] = []
    sentences = []
    for side, ids, answers in (("i2t", image_ids, caption_ids), ("t2i", caption_ids, image_ids)):
        of_side = {
            name: getattr(ranks, f"{side}{suffix}")
            for name, suffix in (("rank", ""), ("expected", "_expected"), ("tied", "_tied"))
        }
        top, scores = getattr(ranks, f"{side}_top"), getattr(ranks, f"{side}_top_scores")
        chosen = _evenly(len(ids))
        for row in chosen:
            line: list[Any] = [side, ids[row], int(of_side["rank"][row])]
            line += [_number(of_side["expected"][row]), int(of_side["tied"][row])]
            line += _padded([answers[answer] for answer in top[row][:ANSWERS]])
            line += _padded([_number(score) for score in scores[row][:ANSWERS]])
            line += [texts.get(ids[row], "")] if texts else []
            lines.append(line)
        sentences.append(_shown(len(chosen), len(ids), f"{side} queries"))
    return columns, lines, "; ".join(sentences)


def _leaderboard(record: Record, rows: Sequence[Row]) -> wandb.Table:
    """The job's line in each leaderboard it is part of, with intervals."""
    import wandb

    metrics = list(dict.fromkeys(metric for table in tables(rows) for metric in main_metrics(table)))
    lines: list[Iterable[Any]] = []
    for row in rows:
        line: list[Any] = [row.name, row.preset, record.job.seed, row.dataset, row.protocol]
        for metric in metrics:
            cell = row.cells.get(metric)
            line += [cell.mean, cell.low, cell.high] if cell is not None else [None] * 3
        lines.append([*line, row.published.value, *(record.cost.get(name) for name in COSTS)])
    columns: list[str | int] = ["method", "preset", "seed", "dataset", "protocol"]
    for metric in metrics:
        columns += [metric, f"{metric} low", f"{metric} high"]
    return wandb.Table(columns=[*columns, "published", *COSTS], data=lines)


def _figures(record: Record, rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """Charts of the record that its contents allow."""
    # Altair takes a second to import, and is only needed here.
    from crossmodal_bench.reporting.charts import result_charts
    from crossmodal_bench.reporting.charts.chart import png
    from crossmodal_bench.reporting.charts.looks import Looks

    series = Looks(rows).series(rows, "rows")
    for side, chart in zip(SIDES, result_charts.precision_scope(series, "rows"), strict=False):
        yield f"figures/precision_scope_{side}", png(chart)
    if (projection := result_charts.projection(record, "rows")) is not None:
        yield "figures/projection", png(projection)


def _panels(record: Record) -> Iterator[tuple[str, bytes]]:
    """Pictures of what the model retrieves and generates, as saved by its job."""
    files = record.files
    named = {"words": files.words_panel}
    if shows_data(record):
        named |= {
            "captions": files.captions_panel,
            "pictures": files.pictures_panel,
            "retrieved_captions": files.retrieved_captions,
            "retrieved_pictures": files.retrieved_pictures,
        }
    for name, path in named.items():
        try:
            yield f"panels/{name}", read_own(path, LARGEST_PICTURE)
        # Most jobs have two of them. An unusable one is no reason to lose the run.
        except OSError:
            continue


def _image(png: bytes) -> wandb.Image:
    import wandb
    from PIL import Image

    return wandb.Image(Image.open(io.BytesIO(png)))


def _gallery(record: Record) -> Gallery | None:
    """The captions of the tested split, if a job has stored them."""
    from crossmodal_bench.reporting.page.gallery import gallery_of

    return gallery_of(record, record.directory.parents[2], None)


def _bounds(intervals: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    bounds: dict[str, float] = {}
    for metric, (low, high) in intervals.items():
        bounds |= {f"intervals/{metric}/low": low, f"intervals/{metric}/high": high}
    return bounds


def _evenly(count: int) -> list[int]:
    """At most ``QUERIES`` positions out of ``count``, evenly spaced: the first ones may not be typical."""
    return [int(row) for row in np.linspace(0, count - 1, min(count, QUERIES)).round()] if count else []


def _shown(shown: int, count: int, what: str) -> str:
    return f"all {count:,} {what}" if shown == count else f"{shown:,} of {count:,} {what}, evenly spaced"


def _padded(values: list[Any]) -> list[Any]:
    return values + [None] * (ANSWERS - len(values))


def _number(value: float) -> float | None:
    """A number for JSON; None for a query without a positive."""
    return float(value) if np.isfinite(value) else None
