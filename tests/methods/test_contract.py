"""What every method must keep to, whatever it is: a few steps each on tiny data, found by its YAML file.

Whether it learns is what test_presets_learn.py asks, of all its presets.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LightningCLI
from tiny import QUIET, configuration, fitted

from crossmodal_bench.core.batch import DataSpec, ImageBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.views import VIEWS
from crossmodal_bench.jobs.experiments import names, parents_of
from crossmodal_bench.jobs.given.galleries import SIMILARITIES
from crossmodal_bench.methods import RetrievalMethod
from crossmodal_bench.training.callbacks import RetrievalEvaluation
from crossmodal_bench.training.warm_start import Inheritance

IMAGES, CAPTIONS = 48, 144
SIZE_OF_VIEW = {
    "features": "feature_dim",
    "regions": "region_dim",
    "bow": "bow_dim",
    "words": "vocabulary_size",
    "wordpieces": "wordpiece_vocabulary_size",
    "labels": "n_labels",
    "identities": "n_identities",
}


class Fitted(NamedTuple):
    model: Any
    data: CrossModalDataModule
    checkpoint: Path
    images: ImageBatch
    texts: TextBatch


A_FEW: dict[str, Any] = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 0}


@cache
def trained(method: str) -> LightningCLI:
    """A method after a few steps, from its parents after as many."""
    config = configuration(method, "synthetic-tiny")
    config["trainer"] |= A_FEW
    weights = {name: trained(name).model.state_dict() for name in parents_of(method)}
    cli = fitted(config, [RetrievalEvaluation(), Inheritance(weights)])
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return cli


QUICK = ("acmr", "addr_scan", "cca", "clip", "gxn_resnet", "infonce", "timam", "vsrn")
"""One of each family: run by default."""


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names("methods")],
)
def fit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """The method after its training."""
    cli = trained(request.param)
    checkpoint = tmp_path_factory.mktemp(request.param) / "trained.ckpt"
    cli.trainer.save_checkpoint(checkpoint)
    images, texts = (next(iter(loader)) for loader in cli.datamodule.eval_dataloaders("test"))
    assert (len(images), len(texts)) == (IMAGES, CAPTIONS)
    return Fitted(cli.model.eval(), cli.datamodule, checkpoint, images, texts)


def encoded(fit: Fitted) -> tuple[Encoding, Encoding]:
    with torch.no_grad():
        return fit.model.encode_images(fit.images), fit.model.encode_texts(fit.texts)


def scores(model: RetrievalMethod, fit: Fitted) -> torch.Tensor:
    with torch.no_grad():
        return model.score(model.encode_images(fit.images), model.encode_texts(fit.texts))


def test_it_was_trained_on_the_views_that_it_declares(fit: Fitted) -> None:
    assert fit.model.requires <= set(VIEWS)
    assert isinstance(fit.model.data_spec, DataSpec)
    for view, size in SIZE_OF_VIEW.items():
        assert (getattr(fit.model.data_spec, size) > 0) == (view in fit.model.requires), view
    assert (fit.images.pixels is not None) == ("pixels" in fit.model.requires)


def test_encoders_read_no_label(fit: Fitted) -> None:
    images, texts = encoded(fit)
    with torch.no_grad():
        blind = fit.model.encode_images(replace(fit.images, labels=None))
        blind_texts = fit.model.encode_texts(replace(fit.texts, labels=None))
    torch.testing.assert_close(blind.values, images.values)
    torch.testing.assert_close(blind_texts.values, texts.values)


def test_one_encoding_per_item_and_one_finite_score_per_pair(fit: Fitted) -> None:
    images, texts = encoded(fit)
    assert isinstance(images, Encoding) and len(images) == IMAGES
    assert isinstance(texts, Encoding) and len(texts) == CAPTIONS
    found = fit.model.score(images, texts)
    assert found.shape == (IMAGES, CAPTIONS)
    assert found.isfinite().all()
    assert found.std() > 0


def test_encode_knows_the_modality(fit: Fitted) -> None:
    images, texts = encoded(fit)
    with torch.no_grad():
        assert torch.equal(fit.model.encode(fit.images).values, images.values)
        assert torch.equal(fit.model.encode(fit.texts).values, texts.values)
        assert torch.equal(fit.model.validation_step(fit.texts, 0, 1).values, texts.values)
        assert torch.equal(fit.model.test_step(fit.images, 0, 0).values, images.values)


def test_a_pairs_score_does_not_depend_on_its_company(fit: Fitted) -> None:
    whole = scores(fit.model, fit)
    image_rows, text_rows = torch.tensor([7, 3]), torch.tensor([100, 0, 41])
    with torch.no_grad():
        images = fit.model.encode_images(rows_of(fit.images, image_rows))
        texts = fit.model.encode_texts(rows_of(fit.texts, text_rows))
    part = fit.model.score(images, texts)
    # Padding, tiling and another order of summation cost some digits and nothing else.
    torch.testing.assert_close(part, whole[image_rows][:, text_rows], rtol=1e-4, atol=1e-4)
    one = fit.model.score(images[0:1], texts[1:2])
    torch.testing.assert_close(one, part[0:1, 1:2], rtol=1e-4, atol=1e-4)


def test_a_similarity_of_vectors_is_exactly_the_score(fit: Fitted) -> None:
    images, texts = encoded(fit)
    similarity = fit.model.vector_similarity
    fragments = images.values.ndim != 2 or texts.lengths is not None
    assert similarity is None if fragments else similarity in (None, *SIMILARITIES)
    if similarity is not None:
        vectors = (fit.model.comparable_vectors(side) for side in (images, texts))
        assert torch.equal(SIMILARITIES[similarity](*vectors), fit.model.score(images, texts))


SEVERAL = [
    pytest.param(name, marks=() if name in ("cca", "vse") else pytest.mark.slow) for name in names("methods")
]


@pytest.mark.parametrize("method", SEVERAL)
def test_predict_gives_the_encodings_of_images_and_captions(method: str) -> None:
    model, data = trained(method).model.eval(), trained(method).datamodule
    batches = [next(iter(loader)) for loader in data.eval_dataloaders("test")]
    found = pl.Trainer(**QUIET, logger=False).predict(model, datamodule=data)
    with torch.no_grad():
        for side, batch in zip(found, batches, strict=True):
            expected = model(batch).values
            torch.testing.assert_close(Encoding.cat(side).values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", SEVERAL)
def test_validate_gives_metrics_with_the_callback_and_runs_without(method: str) -> None:
    model, data = trained(method).model, trained(method).datamodule
    with_metrics = pl.Trainer(**QUIET, logger=False, callbacks=[RetrievalEvaluation()])
    found = with_metrics.validate(model, datamodule=data, verbose=False)
    assert 0 <= found[0]["val/rsum"] <= 600
    pl.Trainer(**QUIET, logger=False).validate(model, datamodule=data, verbose=False)
    model.eval()


def rows_of(batch: Any, rows: torch.Tensor) -> Any:
    """Some items of a batch, in another order."""
    picked = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return replace(batch, **{name: value[rows] for name, value in picked.items() if value is not None})


def test_a_checkpoint_needs_no_data(fit: Fitted) -> None:
    loaded = type(fit.model).load_from_checkpoint(fit.checkpoint, map_location="cpu", weights_only=True)
    assert loaded.data_spec == replace(fit.model.data_spec, weights_root=None)
    assert dict(loaded.hparams).items() <= dict(fit.model.hparams).items()
    assert torch.equal(scores(loaded.eval(), fit), scores(fit.model, fit))


def test_what_is_called_deterministic_has_nothing_to_draw(fit: Fitted) -> None:
    solved = fit.model.deterministic
    assert any(parameter.numel() for parameter in fit.model.parameters()) != solved
    assert (fit.model.configure_optimizers() is None) == solved
