"""One job in one process: train (or go on training), choose the checkpoint, test, write the record."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml

from crossmodal_bench.bench import process_group
from crossmodal_bench.bench.checkpoints import (
    LAST,
    RESUME,
    checkpoint_callbacks,
    chosen_checkpoint,
    made_by,
    resumable,
    selected,
)
from crossmodal_bench.bench.imagined import imagined
from crossmodal_bench.bench.parents import Inheritance, parent_runs, parent_weights
from crossmodal_bench.bench.plan import PlannedJob
from crossmodal_bench.bench.provenance import environment, source_fingerprint
from crossmodal_bench.bench.record import write_record
from crossmodal_bench.bench.results import device_name, identities_of, peak_memory_mb, results
from crossmodal_bench.bench.state import PROGRESS, write_json
from crossmodal_bench.callbacks import History, RetrievalEvaluation, exact_resumption
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.interruption import StopRequest
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training import instantiate


def run_job(planned: PlannedJob, devices: str = "auto", request: StopRequest | None = None) -> None:
    """Run a job to its record.

    Goes on from its last checkpoint where that was with today's data, sources and parents.

    Args:
        planned: the job.
        devices: ``auto``, ``cpu``, or how many of the accelerator's (or of CPU processes).
        request: whether the process has been asked to stop.

    Raises:
        BadInput: among others, the trained weights that it starts from are not there, or do not fit.
        Interrupted: the process was asked to stop; the last checkpoint is of this moment.
    """
    started = datetime.now(UTC)
    directory = planned.directory
    history = History(lambda state: write_json(directory / PROGRESS, {**state, "phase": "training"}))
    retrieval = RetrievalEvaluation(planned.protocols, planned.evaluate)
    checkpoints = checkpoint_callbacks(planned, request or StopRequest())
    on_devices = trainer_devices(devices, planned.ddp_strategy, planned.gpu_precision)
    parents = parent_runs(planned)
    sources = made_by(source_fingerprint(planned.config), planned.data_fingerprint, parents)
    last = resumable(directory, sources)
    inheritance = [Inheritance(parent_weights(planned))] if parents and last is None else []
    cli = instantiate(
        planned.config,
        [history, retrieval, *exact_resumption(), *inheritance, *checkpoints],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(directory),
        **{**on_devices, **process_group.trainer_arguments(planned.ddp_strategy)},
    )
    trainer, model, data = cli.trainer, cli.model, cli.datamodule
    assert isinstance(model, RetrievalMethod)
    data.progress = _report_extraction(directory)
    if planned.corpus is not None:
        data.hand_over(planned.corpus)
    if trainer.is_global_zero:
        # With what the method asked for here, so that `fit` on this file does the same, from fresh weights.
        asked = {
            key: on_devices[key] for key in ("strategy", "precision", "sync_batchnorm") if key in on_devices
        }
        config = {**planned.config, "trainer": {**asked, **planned.config.get("trainer", {})}}
        (directory / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    if trainer.is_global_zero:
        write_json(directory / RESUME, sources)
    trainer.fit(model, datamodule=data, ckpt_path=str(last) if last else None, weights_only=True)
    if model.deterministic:
        # Lightning's checkpoint callback saves nothing where no optimiser has stepped.
        trainer.save_checkpoint(directory / LAST)
    write_json(directory / PROGRESS, {"phase": "testing"})
    selection = selected(checkpoints, planned, history, model.deterministic)
    checkpoint = chosen_checkpoint(directory, selection["metric"])
    trainer.test(model, datamodule=data, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
    if trainer.is_global_zero:
        _write(planned, parents, trainer, model, data, history, retrieval, selection, started)


def trainer_devices(
    devices: str, ddp_strategy: str = "ddp", gpu_precision: str = "32-true"
) -> dict[str, Any]:
    """Trainer arguments for the word DEVICES, with what the method wants on several devices and on a GPU.

    Batch norms read all GPUs' batches. Those of several CPU processes read each its own, because PyTorch has
    no other for CPUs: there Lightning would convert them all the same, and the first step fail.
    """
    if devices == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    count = 1 if devices == "auto" else int(devices)
    chosen: dict[str, Any] = {"accelerator": "auto", "devices": count}
    if devices == "auto" and torch.cuda.device_count() > 1:
        chosen = {"accelerator": "gpu", "devices": -1}
    if chosen["devices"] != 1:
        chosen["strategy"] = ddp_strategy
        if torch.cuda.is_available():
            chosen["sync_batchnorm"] = True
    if torch.cuda.is_available() and gpu_precision != "32-true":
        chosen["precision"] = gpu_precision
    return chosen


def _write(
    planned: PlannedJob,
    parents: dict[str, dict[str, str]],
    trainer: pl.Trainer,
    model: RetrievalMethod,
    data: CrossModalDataModule,
    history: History,
    retrieval: RetrievalEvaluation,
    selection: dict[str, Any],
    started: datetime,
) -> None:
    corpus, split = data.corpus, planned.evaluate
    image_rows, caption_rows = corpus.image_rows(split), corpus.caption_rows(split)
    evaluations = [retrieval.results[protocol.name] for protocol in planned.protocols]
    main, identities = evaluations[0], identities_of(corpus, split)
    described = data.describe()
    if model.backbone is not None:
        described["features"] = {
            **asdict(model.backbone),
            "image_size": data.image_size,
            "image_fit": data.image_fit,
            "inside_the_model": True,
        }
    # What random scores would reach depends on how many there are to choose from.
    if main.protocol.positives == "identity" and identities is not None:
        described["counts"][split]["identities"] = len(np.unique(identities))
    if main.classes is not None:
        described["counts"][split]["classes"] = len(main.classes.classes)
    measured = results(planned.directory, corpus, split, evaluations)
    measured["metrics"] |= imagined(planned.directory, model, data, split, retrieval, main.ranks)
    if planned.job.seed == 0:
        _save_projection(planned.directory, retrieval, corpus, image_rows, caption_rows)
    device = device_name(trainer.strategy.root_device)
    write_record(
        planned.directory,
        {
            "job": vars(planned.job),
            "evaluated_on": split,
            "data": {**described, "split_hash": planned.split_hash},
            "source_fingerprint": source_fingerprint(planned.config),
            "selection": selection,
            "parents": parents,
            **measured,
            "history": history.epochs,
            "cost": {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "train_samples_per_second": history.samples / max(history.train_seconds, 1e-9),
                "train_seconds": history.train_seconds,
                "evaluation_seconds": retrieval.seconds,
                "peak_memory_mb": peak_memory_mb(),
                "world_size": trainer.world_size,
            },
            "environment": {**environment(device), **_trained_with(trainer, data, history)},
            "started_at": started.isoformat(timespec="seconds"),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _trained_with(trainer: pl.Trainer, data: CrossModalDataModule, history: History) -> dict[str, str]:
    """What decides a step beside the configuration: several processes see more pairs at the same rates."""
    return {
        "precision": str(trainer.precision),
        "processes": str(trainer.world_size),
        "batch_size_per_process": str(data.batch_size),
        "learning_rates": ", ".join(dict.fromkeys(f"{rate:g}" for rate in history.learning_rates)),
    }


def _save_projection(
    directory: Path,
    retrieval: RetrievalEvaluation,
    corpus: Corpus,
    image_rows: Any,
    caption_rows: Any,
    most: int = 1000,
) -> None:
    """t-SNE of up to 1,000 images and texts each (ACMR, Figure 4).

    Only where items have one label and encodings are vectors.
    """
    assert retrieval.encodings is not None
    images, texts = retrieval.encodings
    if corpus.labels is None or corpus.labels.ndim != 1 or corpus.label_kind != "real":
        return
    if images.values.ndim != 2 or texts.lengths is not None or texts.values.ndim != 2:
        return
    from sklearn.manifold import TSNE

    rng = np.random.default_rng(0)
    some_images = np.sort(rng.permutation(len(image_rows))[:most])
    some_texts = np.sort(rng.permutation(len(caption_rows))[:most])
    both = np.concatenate(
        [images.values[some_images].float().numpy(), texts.values[some_texts].float().numpy()]
    )
    if len(both) < 20 or not both.std():
        return
    points = TSNE(perplexity=min(30, len(both) // 4), random_state=0, init="pca", max_iter=500).fit_transform(
        both
    )
    np.savez_compressed(
        directory / "projection.npz",
        image=points[: len(some_images)],
        text=points[len(some_images) :],
        image_labels=corpus.labels[image_rows][some_images],
        text_labels=corpus.labels[corpus.caption_image[caption_rows]][some_texts],
    )


def _report_extraction(directory: Path) -> Any:
    start = time.perf_counter()

    def report(done: int, total: int) -> None:
        left = (time.perf_counter() - start) / max(done, 1) * (total - done)
        write_json(
            directory / PROGRESS,
            {"phase": "extracting features", "done": done, "total": total, "seconds_left": left},
        )

    return report
