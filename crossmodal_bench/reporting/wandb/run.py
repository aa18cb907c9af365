"""Weights & Biases: one finished run per finished job, written from its record and from nothing else.

``wandb`` is imported inside the functions: a bench with ``WANDB=off`` never loads it, and no report needs it.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from crossmodal_bench.evaluation.metric_table import SIDES
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.layout import main_metrics
from crossmodal_bench.reporting.tables.shown import COSTS

if TYPE_CHECKING:
    import wandb

PROJECT = "crossmodal-bench"


def log_record(record: Record, directory: str | Path, mode: str) -> str | None:
    """Write ``record`` as one finished W&B run; None, or a sentence on why there is no run.

    The run's id is the job's, so a job that was run again replaces its run (``resume`` is unset: resuming
    would keep the old points and drop the new ones). Config is the job, its data and its environment; the
    history has one step per epoch; metrics, intervals and costs are set in the summary explicitly, whatever
    was logged last. ``leaderboard`` has a line per protocol: W&B joins the same table of several runs.
    ``directory`` gets the local files. Nothing that goes wrong with W&B is raised: the job is done, its
    record is on disk, and its W&B run can be made again from that.
    """
    if mode == "off":
        return None
    try:
        _write_run(record, Path(directory), mode)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[-1]
        what = f"{type(error).__name__}: {reason}"
        return f"W&B has no run for job {record.job.id} ({what}); its record is safe in {record.directory}"
    finally:
        # The bench forks its workers: they must not inherit W&B's threads and sockets. A run that could not
        # be begun would keep its name, too.
        with contextlib.suppress(Exception):
            import wandb

            wandb.teardown()
    return None


def _write_run(record: Record, directory: Path, mode: str) -> None:
    import wandb

    job = record.job
    # An offline run that was never synced would be uploaded beside the one that replaces it.
    for stale in JobDirectory(directory).offline_wandb_runs(job.id):
        shutil.rmtree(stale)
    directory.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        id=job.id,
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=f"{job.dataset}/{job.protocol}",
        job_type=job.preset,
        name=f"{job.method}{'-ensemble' if record.ensemble else ''}-{job.seed}",
        # W&B refuses longer ones.
        tags=[tag[:64] for tag in (job.preset, job.suite, job.label) if tag],
        dir=str(directory),
        config=_config(record),
        mode=cast(Any, mode),
        reinit="create_new",
        settings=wandb.Settings(
            console="off",
            silent=True,
            init_timeout=30,
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_stats=True,
        ),
    )
    try:
        for step, entry in enumerate(record.history):
            run.log({"epoch": step, **entry}, step=int(entry.get("epoch", step)))
        run.summary.update(_summary(record))
        run.log(_media(record))
    except BaseException:
        run.finish(exit_code=1)
        raise
    else:
        run.finish()


def _config(record: Record) -> dict[str, Any]:
    shown = (
        "job",
        "data",
        "environment",
        "evaluated_on",
        "source_fingerprint",
        "selection",
        "ensemble",
        "parents",
    )
    return {name: record.content[name] for name in shown if name in record.content}


def _summary(record: Record) -> dict[str, float]:
    summary = dict(record.metrics)
    for metric, (low, high) in record.intervals.items():
        summary |= {f"intervals/{metric}/low": low, f"intervals/{metric}/high": high}
    return summary | {f"cost/{name}": value for name, value in record.cost.items()}


def _media(record: Record) -> dict[str, wandb.Table | wandb.Image]:
    """The job's leaderboard lines, and its figures as far as the record has them."""
    import wandb
    from PIL import Image

    # Altair takes a second to import, and only this needs it.
    from crossmodal_bench.reporting.charts import result_charts
    from crossmodal_bench.reporting.charts.chart import png
    from crossmodal_bench.reporting.charts.looks import Looks

    rows = leaderboard([record])
    metrics = list(dict.fromkeys(metric for table in tables(rows) for metric in main_metrics(table)))
    lines: list[Iterable[Any]] = []
    for row in rows:
        head = [row.name, row.preset, record.job.seed, row.dataset, row.protocol]
        numbers = [row.cells[metric].mean if metric in row.cells else None for metric in metrics]
        lines.append([*head, *numbers, row.published.value, *(record.cost.get(name) for name in COSTS)])
    columns: list[str | int] = [
        "method",
        "preset",
        "seed",
        "dataset",
        "protocol",
        *metrics,
        "published",
        *COSTS,
    ]
    media: dict[str, wandb.Table | wandb.Image] = {"leaderboard": wandb.Table(columns=columns, data=lines)}
    series = Looks(rows).series(rows, "rows")
    drawn = {
        f"figures/precision_scope_{side}": chart
        for side, chart in zip(SIDES, result_charts.precision_scope(series, "rows"), strict=False)
    }
    if (projection := result_charts.projection(record, "rows")) is not None:
        drawn["figures/projection"] = projection
    for name, chart in drawn.items():
        media[name] = wandb.Image(Image.open(io.BytesIO(png(chart))))
    return media
