"""Dual encoders as they come, and their towers as features under other methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dual_encoders
import pytest
import torch
from tiny import configuration, fitted
from torch.nn.functional import cosine_similarity

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.networks.dual_encoders import load_image_tower, load_text_tower
from crossmodal_bench.training.callbacks import RetrievalEvaluation


def settings(method: str, cache: Path, family: str = "clip", **changes: Any) -> dict[str, Any]:
    name = dual_encoders.tiny(family)
    given = {"data.images.network": name, "data.text.network": name, "data.cache": str(cache)}
    return configuration(method, **{**given, "trainer.max_epochs": 1, **changes})


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_images_and_captions_rank_by_the_cosine_of_the_towers(family: str, tmp_path: Path) -> None:
    name = dual_encoders.tiny(family)
    retrieval = RetrievalEvaluation()
    cli = fitted(settings("clip", tmp_path, family), [retrieval])
    cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    corpus = cli.datamodule.corpus
    images, texts = load_image_tower(name).tower, load_text_tower(name).tower
    rows, captions = corpus.image_rows("test"), corpus.caption_rows("test")
    with torch.no_grad():
        vectors = images(torch.stack([images.preprocess(corpus.images[int(row)]) for row in rows]))
        sentences = texts([corpus.captions[row] for row in captions])
        expected = cosine_similarity(vectors[:, None], sentences[None], dim=2)
        batches = [next(iter(loader)) for loader in cli.datamodule.eval_dataloaders("test")]
        found = cli.model.score(cli.model.encode_images(batches[0]), cli.model.encode_texts(batches[1]))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (evaluation,) = retrieval.results.values()
    assert 0 <= evaluation.metrics["rsum"] <= 600


@pytest.mark.parametrize("method", ["cca", "acmr", "timam", "infonce"])
def test_towers_are_features_under_other_methods(method: str, tmp_path: Path) -> None:
    cli = fitted(settings(method, tmp_path, **{"data.batch_size": 16}), [RetrievalEvaluation()])
    assert {"features", "bow"} <= cli.model.requires and "words" not in cli.model.requires
    spec = cli.model.data_spec
    assert spec.feature_dim == spec.bow_dim == dual_encoders.DIM
    source = cli.datamodule.text_feature_source
    assert source is not None and source.family == "clip"
    assert source.weights_sha256 == load_text_tower(dual_encoders.tiny()).checksum


def test_vectors_of_two_models_are_not_compared(tmp_path: Path) -> None:
    other = dual_encoders.tiny("siglip")
    with pytest.raises(BadInput, match="a dual encoder ranks as it comes, but the images are encoded by"):
        fitted(settings("clip", tmp_path, **{"data.text.network": other}), [])
    with pytest.raises(BadInput, match="encoded by nobody"):
        fitted(settings("clip", tmp_path, **{"data.images.network": None, "data.text.network": "same"}), [])
