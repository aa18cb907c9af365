"""One job in one process: train (or resume), select the checkpoint, test, write the record."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import yaml

from crossmodal_bench.core import process_group
from crossmodal_bench.core.signals import StopRequest
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.equal_inputs import repeated_captions
from crossmodal_bench.data.features import Progress
from crossmodal_bench.evaluation import Evaluation
from crossmodal_bench.evaluation.items import EvaluatedItems, items_of
from crossmodal_bench.evaluation.numbers import searched_groups
from crossmodal_bench.jobs.directory import JobDirectory, write_json, write_text
from crossmodal_bench.jobs.encoded_gallery import gallery_of, keep_gallery
from crossmodal_bench.jobs.encoders import Encoders, ImageFacts, TextFacts
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.provenance import environment
from crossmodal_bench.jobs.record import write_record
from crossmodal_bench.jobs.results import device_name, peak_memory_mb, results
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.callbacks import History, RetrievalEvaluation, exact_resumption
from crossmodal_bench.training.callbacks.history import Keep
from crossmodal_bench.training.checkpoints import (
    checkpoint_callbacks,
    chosen_checkpoint,
    selected,
)
from crossmodal_bench.training.devices import trainer_devices
from crossmodal_bench.training.generated_outputs import Illustrate, generate, written_caption_metrics
from crossmodal_bench.training.lightning_cli import instantiate
from crossmodal_bench.training.named_checkpoint import requeued_checkpoint
from crossmodal_bench.training.projection import save_projection
from crossmodal_bench.training.resumption import basis_of, start_of
from crossmodal_bench.training.warm_start import Inheritance, parent_weights


def run_job(
    planned: PlannedJob,
    devices: str = "auto",
    request: StopRequest | None = None,
    illustrate: Illustrate | None = None,
    keep: Keep | None = None,
) -> None:
    """Run a job until its record is written.

    Resumes from its last checkpoint if data, sources and parents are the same today, or if the job is told to
    resume anyway.

    Args:
        planned: the job.
        devices: ``auto``, ``cpu``, or the number of accelerators (or of CPU processes).
        request: whether the process has been asked to stop.
        illustrate: draws what the tested model generates; None draws nothing.
        keep: receives all epochs so far, for live monitoring of the job; None if nothing monitors it.

    Raises:
        BadInput: among others, the trained weights that it starts from are missing or do not match.
        Interrupted: the process was asked to stop; the last checkpoint is of this moment.
    """
    started = datetime.now(UTC)
    files = planned.files
    requeued_checkpoint(planned.directory, to_go_on=True, writes_them=False)
    history = History(lambda state: files.write_progress("training", **state), keep)
    retrieval = RetrievalEvaluation(planned.protocols, planned.evaluate)
    checkpoints = checkpoint_callbacks(planned, request or StopRequest())
    on_devices = trainer_devices(devices, planned.ddp_strategy, planned.gpu_precision)
    basis = basis_of(planned)
    start = start_of(planned, basis)
    last = start.checkpoint
    inheritance = [Inheritance(parent_weights(planned))] if basis.parents and last is None else []
    cli = instantiate(
        planned.config,
        [history, retrieval, *exact_resumption(), *inheritance, *checkpoints],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=str(planned.directory),
        **{**on_devices, **process_group.trainer_arguments(planned.ddp_strategy)},
    )
    trainer = cli.trainer
    model = cli.model
    data = cli.datamodule
    assert isinstance(model, RetrievalMethod)
    data.progress = _report_extraction(files)
    data.hand_over(planned.corpus, with_grid=planned.with_grid)
    if trainer.is_global_zero:
        # With the method's own settings, so that `fit` on this file does the same, from fresh weights.
        asked = {
            key: on_devices[key] for key in ("strategy", "precision", "sync_batchnorm") if key in on_devices
        }
        config = {**planned.config, "trainer": {**asked, **planned.config.get("trainer", {})}}
        write_text(files.config, yaml.safe_dump(config, sort_keys=False))
        write_json(files.resume, basis.noted(start.taken_up))
    trainer.fit(model, datamodule=data, ckpt_path=str(last) if last else None, weights_only=True)
    if model.deterministic:
        # Lightning's checkpoint callback saves nothing if no optimiser has stepped.
        trainer.save_checkpoint(files.last_checkpoint)
    files.write_progress("testing")
    selection = selected(checkpoints, planned, history, solved=model.deterministic)
    checkpoint = chosen_checkpoint(files, selection["metric"])
    trainer.test(model, datamodule=data, ckpt_path=str(checkpoint), verbose=False, weights_only=True)
    if not trainer.is_global_zero:
        return
    evaluations = [retrieval.results[protocol.name] for protocol in planned.protocols]
    items = items_of(data.corpus, planned.evaluate)
    measured = results(planned.directory, items, evaluations)
    first = planned.protocols[0]
    outputs = generate(files, model, data, planned.evaluate, retrieval, first, evaluations[0].ranks)
    measured["metrics"] |= written_caption_metrics(outputs)
    if illustrate is not None:
        illustrate(outputs)
    assert retrieval.encodings is not None
    keep_gallery(files.encoded_gallery, gallery_of(data.corpus, planned.evaluate, *retrieval.encodings))
    if planned.job.seed == 0:
        save_projection(files.projection, *retrieval.encodings, data.corpus, planned.evaluate)
    write_record(
        planned.directory,
        {
            "job": vars(planned.job),
            "evaluated_on": planned.evaluate,
            "data": {**_described(data, model, evaluations[0], items), "split_hash": planned.split_hash},
            "encoders": [_encoders(data, model).model_dump()],
            "source_fingerprint": basis.fingerprint.digest,
            "made_from": basis.fingerprint.model_dump(),
            "taken_up": start.taken_up,
            "ablation": planned.ablation,
            "selection": selection,
            "parents": basis.parents,
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
            "environment": {
                **environment(device_name(trainer.strategy.root_device)),
                # These affect a step in addition to the configuration: several processes see more pairs at
                # the same learning rates.
                "precision": str(trainer.precision),
                "processes": str(trainer.world_size),
                "batch_size_per_process": str(data.batch_size),
                "learning_rates": ", ".join(dict.fromkeys(f"{rate:g}" for rate in history.learning_rates)),
            },
            "started_at": started.isoformat(timespec="seconds"),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )


def _described(
    data: CrossModalDataModule, model: RetrievalMethod, main: Evaluation, items: EvaluatedItems
) -> dict[str, Any]:
    """The data, plus what the data module does not know: features computed inside the model, and counts."""
    described = data.describe()
    if model.backbone is not None:
        described["features"] = {
            **asdict(model.backbone),
            "image_size": data.images.size,
            "image_fit": data.images.fit,
            "inside_the_model": True,
        }
    repeats = repeated_captions(data.corpus, data.test_split)
    if repeats:
        described["counts"][data.test_split]["repeated_captions"] = repeats
    described["counts"][data.test_split] |= searched_groups(main, items)
    return described


def _encoders(data: CrossModalDataModule, model: RetrievalMethod) -> Encoders:
    """The image and text encoders of the tested model."""
    return Encoders(image=_image_facts(data, model), text=_text_facts(data, model))


def _image_facts(data: CrossModalDataModule, model: RetrievalMethod) -> ImageFacts | None:
    if (backbone := model.backbone) is not None:
        return ImageFacts(
            network=backbone.network,
            weights=backbone.weights,
            dim=backbone.dim,
            fine_tuned=model.fine_tunes_backbone,
        )
    if (source := data.feature_source) is not None:
        return ImageFacts(
            network=source["network"],
            weights=source["weights"],
            regions=source["regions"],
            count=source["count"],
            dim=source["dim"],
        )
    if "regions" in model.requires:
        return ImageFacts(network=None, count=data.spec.region_count, dim=data.spec.region_dim)
    if "features" in model.requires:
        return ImageFacts(network=None, dim=data.spec.feature_dim)
    return None


def _text_facts(data: CrossModalDataModule, model: RetrievalMethod) -> TextFacts | None:
    if (source := model.text_source) is not None:
        return TextFacts(**asdict(source))
    if "bow" in model.requires and (tower := data.text_feature_source) is not None:
        return TextFacts(
            encoder=tower.family, weights=tower.weights, dim=tower.dim, weights_sha256=tower.weights_sha256
        )
    if "bow" in model.requires:
        given = data.corpus.text_features is not None
        return TextFacts(encoder=None if given else "bow", dim=data.spec.bow_dim)
    return None


def _report_extraction(files: JobDirectory) -> Progress:
    start = time.perf_counter()

    def report(done: int, total: int) -> None:
        left = (time.perf_counter() - start) / max(done, 1) * (total - done)
        files.write_progress("extracting features", done=done, total=total, seconds_left=left)

    return report
