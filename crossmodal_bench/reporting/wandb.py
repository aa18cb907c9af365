"""Weights & Biases: one finished run per finished job, written from its record and from nothing else.

``wandb`` is imported inside the functions: a bench with ``WANDB=off`` never loads it, and no report needs it.
"""

from __future__ import annotations

import contextlib
import io
import netrc
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args
from urllib.parse import urlsplit

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.reporting.figures import result_figures
from crossmodal_bench.reporting.rows.leaderboard import leaderboard, tables
from crossmodal_bench.reporting.tables.layout import main_metrics
from crossmodal_bench.reporting.tables.shown import COSTS

if TYPE_CHECKING:
    import wandb

PROJECT = "crossmodal-bench"
Mode = Literal["online", "offline", "off"]

_ENVIRONMENT_MODES: Mapping[str, Mode] = {
    "online": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "off",
}


def resolve_mode(setting: str) -> Mode:
    """What the ``WANDB`` setting means here: ``online``, ``offline`` or ``off``.

    ``auto`` follows the environment's ``WANDB_MODE``; without it, it is ``online`` for who is logged in and
    ``offline`` for everyone else (``wandb sync`` uploads later). A setting that is spelled out wins over the
    environment. Raises ``BadInput`` for an unknown setting, and for ``online`` without a login: W&B would
    otherwise stop the bench after its first job to ask for a key.
    """
    settings = ("auto", *get_args(Mode))
    if setting not in settings:
        raise BadInput(f"WANDB is '{setting}', which is no mode{nearest(setting, settings)}")
    if setting == "auto":
        named = os.environ.get("WANDB_MODE", "").strip().lower()
        if not named:
            return "online" if logged_in() else "offline"
        if named not in _ENVIRONMENT_MODES:
            raise BadInput(f"WANDB_MODE is '{named}', which is no mode{nearest(named, _ENVIRONMENT_MODES)}")
        setting = _ENVIRONMENT_MODES[named]
    if setting == "online" and not logged_in():
        raise BadInput("W&B is to be online but no key is known: run `wandb login`, or set WANDB=offline")
    return cast(Mode, setting)


def logged_in() -> bool:
    """Whether W&B has a key for its server: in the environment, in its settings, or in the netrc file.

    The server is the one that W&B's own settings name; nothing is asked, printed or sent.
    """
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        import wandb

        settings = wandb.setup().settings
        host = urlsplit(settings.base_url).netloc
        key = settings.api_key
        wandb.teardown()
        if key:
            return True
        path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
        entry = netrc.netrc(path).authenticators(host)
    # Whatever is wrong with W&B or with the netrc file, offline always works.
    except Exception:
        return False
    return bool(entry and entry[2])


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
    for metric, (low, high) in record.bootstrap.items():
        summary |= {f"bootstrap/{metric}/low": low, f"bootstrap/{metric}/high": high}
    return summary | {f"cost/{name}": value for name, value in record.cost.items()}


def _media(record: Record) -> dict[str, wandb.Table | wandb.Image]:
    """The job's leaderboard lines, and its figures as far as the record has them."""
    import wandb
    from PIL import Image

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
    drawn = {
        "figures/precision_scope": result_figures.precision_scope(rows),
        "figures/projection": result_figures.projection(record),
    }
    for name, png in drawn.items():
        if png is not None:
            media[name] = wandb.Image(Image.open(io.BytesIO(png)))
    return media
