"""A finished job's model, loaded from its directory, and its encodings of the split it was tested on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from safetensors.torch import load_file
from torch import Tensor

from crossmodal_bench.core.checkpoint_files import damage
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import first_line, read_yaml
from crossmodal_bench.core.files import read_json as read_file_json
from crossmodal_bench.core.validation import damaged, validated
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.preprocessing import PreprocessingState
from crossmodal_bench.evaluation import Protocol
from crossmodal_bench.evaluation.ensemble import Member
from crossmodal_bench.evaluation.protocols.protocol import measured_on
from crossmodal_bench.jobs.directory import JobDirectory, read_json
from crossmodal_bench.jobs.inputs import corpus_key, fitting_protocols
from crossmodal_bench.jobs.locks import is_locked
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.basis import matches_record
from crossmodal_bench.training.callbacks import RetrievalEvaluation
from crossmodal_bench.training.checkpoints import chosen_checkpoint
from crossmodal_bench.training.lightning_cli import instantiate

DATA = CrossModalDataModule.__qualname__
"""The key of the data module's state in checkpoints."""


@dataclass(frozen=True)
class Encoded:
    """A model with its encodings of the record's split, on the device on which it scores."""

    member: Member
    corpus: Corpus
    device: torch.device
    model: RetrievalMethod

    def items(self, split: str) -> tuple[list[str], list[str]]:
        """The ids of a split's images and captions, in order."""
        images = [self.corpus.image_ids[row] for row in self.corpus.image_rows(split)]
        captions = [self.corpus.caption_ids[row] for row in self.corpus.caption_rows(split)]
        return images, captions


def encode(record: Record, data_root: Path, cache: Path, corpora: dict[str, Corpus]) -> Encoded:
    """The tested model of a finished job, and its encodings of the split that it was tested on.

    ``corpora`` caches the corpora read so far, by ``corpus_key``; what is read here is added to it.

    Raises:
        BadInput: the data in ``data_root`` are not those of the record, or the checkpoint does not match.
    """
    config = _config(record, data_root, cache)
    collect = RetrievalEvaluation([], record.evaluated_on)
    cli = instantiate(
        config,
        [collect],
        accelerator="auto",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=str(record.directory),
    )
    model = cli.model
    assert isinstance(model, RetrievalMethod)
    key = corpus_key(config["data"])
    if key in corpora:
        cli.datamodule.hand_over(corpora[key])
    corpora[key] = cli.datamodule.corpus
    corpus = corpora[key]
    _check_data(record, corpus, data_root)
    checkpoint = chosen_checkpoint(record.files, record.selection.metric)
    try:
        cli.trainer.test(
            model, datamodule=cli.datamodule, ckpt_path=str(checkpoint), verbose=False, weights_only=True
        )
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise BadInput(
            f"{checkpoint} does not match the current code of {record.job.method}; run that job again"
        ) from error
    assert collect.encodings is not None
    images, texts = collect.encodings
    # Lightning has moved the model to the CPU, and CUDA is the only accelerator with double precision.
    device = cli.trainer.strategy.root_device if torch.cuda.is_available() else torch.device("cpu")
    return Encoded(Member(images, texts, model.to(device).score), corpus, device, model)


@dataclass(frozen=True)
class LoadedModel:
    """A finished job's model and the preprocessing for new items, without its data.

    Attributes:
        model: with the tested weights, in evaluation mode, on the CPU.
        data: the job's data module, which has not read anything.
        preprocessing: from the checkpoint.
    """

    model: RetrievalMethod
    data: CrossModalDataModule
    preprocessing: PreprocessingState


def load_model(record: Record, data_root: Path, cache: Path) -> LoadedModel:
    """The tested model of a finished job.

    Its data are read only if its checkpoint was written by a version that did not store the vocabulary.

    Args:
        record: of the job.
        data_root: where such a run's data are, and weights of networks.
        cache: where features of such a run's data are kept.

    Raises:
        BadInput: the checkpoint is missing, damaged or of another model, or it needs data that are missing.
    """
    exported = record.files.exported_weights.is_file()
    if not exported:
        check_model(record)
    path, content = _exported(record.files) if exported else _checkpoint(record)
    with _unchanged_session():
        cli = instantiate(
            _config(record, data_root, cache),
            accelerator="cpu",
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=str(record.directory),
        )
        model, data = cli.model, cli.datamodule
        assert isinstance(model, RetrievalMethod)
        try:
            model.on_load_checkpoint(content)
            model.load_state_dict(content["state_dict"])
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:
            raise BadInput(
                f"{path} does not match the current code of {record.job.method}; run that job again"
            ) from error
    kept = content.get(DATA)
    if isinstance(kept, dict) and "preprocessing" in kept:
        state = validated(PreprocessingState, kept["preprocessing"], f"{path}: preprocessing")
    else:
        state = _rebuilt_preprocessing(record, data, model, data_root)
    return LoadedModel(model.eval(), data, state)


@contextmanager
def _unchanged_session() -> Iterator[None]:
    """Keep a configuration's training settings from affecting a caller that only wants the model.

    That is random states, deterministic algorithms, and Lightning's messages about the machine, for example
    in a notebook.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    silent = logging.root.manager.disable
    logging.disable(max(silent, logging.INFO))
    try:
        with isolate_rng():
            yield
    finally:
        logging.disable(silent)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def exported_state(record: Record) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is exported of a record's model: its state dictionary, and the other state in its checkpoint.

    Raises:
        BadInput: as ``check_model``; or the checkpoint was written by a version that did not store the
        vocabulary.
    """
    check_model(record)
    path, content = _checkpoint(record)
    if not content.get(DATA):
        raise BadInput(
            f"{path} was written by a version whose checkpoints do not include the vocabulary; run that job "
            "again"
        )
    return dict(content["state_dict"]), {name: content[name] for name in (DATA, "data_spec")}


def _checkpoint(record: Record) -> tuple[Path, dict[str, Any]]:
    path = chosen_checkpoint(record.files, record.selection.metric)
    return path, torch.load(path, map_location="cpu", weights_only=True)


def _exported(files: JobDirectory) -> tuple[Path, dict[str, Any]]:
    path = files.exported_weights
    content = read_file_json(files.exported_state)
    if not isinstance(content, dict):
        raise BadInput(f"{files.exported_state} contains no keys; export that run again")
    try:
        return path, {**content, "state_dict": load_file(path, device="cpu")}
    # safetensors raises an exception class of its own, not a built-in one.
    except Exception as error:
        raise BadInput(f"{path} cannot be read ({first_line(error)}); export that run again") from error


def _rebuilt_preprocessing(
    record: Record, data: CrossModalDataModule, model: RetrievalMethod, data_root: Path
) -> PreprocessingState:
    try:
        _check_data(record, data.corpus, data_root)
    except MissingInput as error:
        raise BadInput(
            f"{record.directory} was trained by a version whose checkpoints do not include the vocabulary, "
            f"and the data to rebuild it from are not in {data_root} ({error}); give --data-root, or run "
            "that job again"
        ) from error
    data.build(model.requires)
    return data.preprocessing


def _check_data(record: Record, corpus: Corpus, data_root: Path) -> None:
    if corpus.fingerprint != record.data.fingerprint:
        raise BadInput(
            f"the data of {record.directory} have changed in {data_root} (fingerprint "
            f"{corpus.fingerprint[:12]}, in its record {record.data.fingerprint[:12]}); run that job again"
        )


def check_model(record: Record) -> None:
    """Raise BadInput if a record's model is missing, cannot be read, or is being retrained."""
    checkpoint = chosen_checkpoint(record.files, record.selection.metric)
    for path in (checkpoint, record.files.config):
        if not path.is_file():
            raise BadInput(f"{path} is missing; delete the record and run that job again")
    if is_locked(record.directory):
        raise BadInput(f"{record.directory} is in use by another process; wait for it or stop it")
    noted = read_json(record.files.resume)
    if noted and not matches_record(noted, record):
        raise BadInput(f"{checkpoint} is not from the run of the record next to it; finish that job")
    wrong = damage(checkpoint)
    if wrong:
        raise BadInput(f"{checkpoint} is damaged ({wrong}); delete the record and run that job again")


def trained_weights(record: Record) -> dict[str, Tensor]:
    """The state dictionary of a record's model, on the CPU; BadInput as ``check_model``."""
    check_model(record)
    checkpoint = chosen_checkpoint(record.files, record.selection.metric)
    try:
        return dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    except Exception as error:
        raise BadInput(f"{checkpoint} cannot be read; delete the record and run that job again") from error


def protocol_labels(record: Record) -> list[str]:
    """Every protocol that a record has results for, with its version, the main one first."""
    return [part.protocol_label for part in record.by_protocol()]


def protocols_of(record: Record, corpus: Corpus) -> list[Protocol]:
    """The protocols of ``protocol_labels``; BadInput if the corpus now matches others."""
    then = protocol_labels(record)
    # Only the name tells which named protocol the corpus was read for: "<wanted>-test".
    wanted, test, _ = record.job.protocol.rpartition("-test")
    fitting = fitting_protocols(corpus, wanted if test and wanted != corpus.name else "")
    protocols = measured_on(record.evaluated_on, fitting)
    now = [protocol.label for protocol in protocols]
    if now != then:
        raise BadInput(
            f"{record.directory} was measured under {' + '.join(then)} but would be measured under "
            f"{' + '.join(now)} today; run that job again"
        )
    return protocols


def _config(record: Record, data_root: Path, cache: Path) -> dict[str, Any]:
    path = record.files.config
    config = read_yaml(path)
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise damaged(path, "it has no 'data'")
    config["data"] = {**config["data"], "root": str(data_root), "cache": str(cache)}
    # One device is enough, whatever it was trained on; the precision is kept.
    chosen = config.get("trainer", {}).items()
    elsewhere = ("accelerator", "devices", "strategy", "num_nodes")
    return {**config, "trainer": {name: value for name, value in chosen if name not in elsewhere}}
