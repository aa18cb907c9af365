"""One W&B run per finished job, written from its record alone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from crossmodal_bench.jobs.directory import JobDirectory
from crossmodal_bench.jobs.record import Job, Record
from crossmodal_bench.reporting.wandb.settings import described

if TYPE_CHECKING:
    import wandb

PROJECT = "crossmodal-bench"
"""The project of runs unless WANDB_PROJECT is set."""
INIT_TIMEOUT = 10
"""Seconds for a server to accept a run."""
LONGEST_TAG = 64
"""Maximum length of a tag in characters: W&B refuses longer ones."""


class OutOfTime(Exception):
    """A run was not accepted in time."""


def project() -> str:
    """The project for runs."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def log_record(record: Record, directory: str | Path, mode: str) -> str | None:
    """Write ``record`` as one finished W&B run; None, or a sentence on why there is no run.

    The run's id is the job's, so that rerunning a job replaces its run (``resume`` is unset: resuming would
    keep the old points and drop the new ones). Its contents are defined in ``reporting.wandb.contents``.
    ``directory`` gets the local files. W&B's errors are never raised: the job is done, its record is on disk,
    and its W&B run can be created from that later.
    """
    if mode == "off":
        return None
    try:
        _write_run(record, Path(directory), mode)
    except Exception as error:
        if isinstance(error, OutOfTime):
            abandon()
        what = complaint(error)
        return f"W&B has no run for job {record.job.id} ({what}); its record is safe in {record.directory}"
    finally:
        teardown()
    return None


def begin(
    job: Job,
    directory: Path,
    mode: str,
    config: Mapping[str, Any],
    *,
    ensemble: bool = False,
    resume: Literal["allow"] | None = None,
    watched: int | None = None,
) -> wandb.Run:
    """Start a job's run, to which nothing has been logged yet.

    The job's existing offline runs are removed: one that was never synced would be uploaded in addition to
    its replacement.

    Args:
        job: the job.
        directory: gets the local files.
        mode: ``online`` or ``offline``.
        config: the run's configuration.
        ensemble: whether several models' similarities were summed.
        resume: ``allow`` continues the server's run of this job; None replaces it.
        watched: the process whose use of CPU, memory and GPU is logged; None for none.
    """
    import wandb

    for stale in JobDirectory(directory).offline_wandb_runs(job.id):
        shutil.rmtree(stale)
    directory.mkdir(parents=True, exist_ok=True)
    statistics: dict[str, Any] = {"x_disable_stats": True}
    if watched is not None:
        statistics = {"x_stats_pid": watched}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if (gpus := [name.strip() for name in visible.split(",")]) and all(map(str.isdigit, gpus)):
            statistics["x_stats_gpu_device_ids"] = [int(name) for name in gpus]
    return wandb.init(
        id=job.id,
        project=project(),
        group=f"{job.dataset}/{job.protocol}",
        job_type=job.preset,
        name=f"{job.method}{'-ensemble' if ensemble else ''}-{job.seed}",
        tags=[tag[:LONGEST_TAG] for tag in (job.preset, job.suite, job.label) if tag],
        dir=str(directory),
        config=dict(config),
        mode=cast(Any, mode),
        reinit="create_new",
        resume=resume,
        settings=wandb.Settings(
            console="off",
            silent=True,
            init_timeout=INIT_TIMEOUT,
            # Paths, machine name and packages do not concern viewers of a curve; the record's environment
            # has what a number depends on.
            x_disable_meta=True,
            x_save_requirements=False,
            host="-",
            disable_git=True,
            disable_code=True,
            save_code=False,
            **statistics,
        ),
    )


def complete(run: wandb.Run, record: Record, first_step: int = 0) -> None:
    """Log what the record has and the run does not.

    Args:
        run: the run of its job.
        record: the job's record.
        first_step: the first epoch that the run does not have yet.
    """
    # Leaderboards import torch, which a process that only follows a job does not need.
    from crossmodal_bench.reporting.rows.leaderboard import leaderboard
    from crossmodal_bench.reporting.wandb.contents import configuration, media, summary

    rows = leaderboard([record])
    config = configuration(record, rows)
    # Marks the server's run as complete for this record, so it is sent last.
    whole = {"finished_at": config.pop("finished_at")}
    run.config.update(config, allow_val_change=True)
    for epoch, step in numbered(record.history):
        if step >= first_step:
            # Logged as in a running job: later data get a step of their own.
            run.log({"epoch": step, **epoch}, step=step, commit=True)
    pictures_and_tables, said = media(record, rows)
    run.summary.update({**summary(record, rows), **said})
    run.log(pictures_and_tables, commit=True)
    run.config.update(whole, allow_val_change=True)


def numbered(epochs: Iterable[Mapping[str, float]]) -> Iterable[tuple[Mapping[str, float], int]]:
    """Epochs with their numbers, used as the run's steps."""
    for position, epoch in enumerate(epochs):
        yield epoch, int(epoch.get("epoch", position))


def complaint(error: Exception) -> str:
    """The message of a W&B exception, on one line."""
    lines = str(error).strip().splitlines() or [""]
    # W&B's server errors end with advice for its own developers.
    reason = lines[0] if type(error).__name__ == "CommError" else lines[-1]
    if isinstance(error, OutOfTime):
        return reason
    return f"{type(error).__name__}: {reason}"


def abandon() -> None:
    """Kill W&B's own process: a regular shutdown would wait for what it still has to send.

    This uses a private API; if it is gone, ``teardown`` waits.
    """
    with contextlib.suppress(Exception):
        from wandb.sdk import wandb_setup

        connection: Any = wandb_setup.singleton()._connection
        connection._proc._process.kill()


def teardown() -> None:
    """Shut down W&B's threads and sockets, whatever state they are in.

    The bench forks its workers, which must not inherit them; and a run that failed to start would keep
    its name.
    """
    # It exits with the status of W&B's own process if that was killed.
    with contextlib.suppress(Exception, SystemExit):
        import wandb

        wandb.teardown()


def _write_run(record: Record, directory: Path, mode: str) -> None:
    config = described(record.job, record.files)
    run = begin(record.job, directory, mode, config, ensemble=bool(record.ensemble))
    try:
        complete(run, record)
    except OutOfTime:
        # Finishing the run would wait for the server again.
        raise
    except BaseException:
        run.finish(exit_code=1)
        raise
    else:
        run.finish()
