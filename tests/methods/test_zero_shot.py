"""Dual encoders as they come, and their towers as features under other methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dual_encoders
import numpy as np
import pytest
import torch
from tiny import configuration, fitted
from torch.nn.functional import cosine_similarity

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data.new_pictures import PictureEncoding
from crossmodal_bench.data.preprocessing import Preprocessing
from crossmodal_bench.evaluation.ranking.ranks import retrieval_ranks
from crossmodal_bench.jobs.record import read_record
from crossmodal_bench.networks import dual_encoders as towers
from crossmodal_bench.networks.dual_encoders import load_image_tower, load_text_tower
from crossmodal_bench.training.callbacks import RetrievalEvaluation
from crossmodal_bench.training.worker import run_job


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


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
    ranks = retrieval_ranks(expected, np.searchsorted(rows, corpus.caption_image[captions]))
    assert evaluation.ranks is not None
    assert np.array_equal(evaluation.ranks.i2t, ranks.i2t) and np.array_equal(evaluation.ranks.t2i, ranks.t2i)
    with torch.autocast("cpu", torch.bfloat16):
        half = cli.model.score(cli.model.encode_images(batches[0]), cli.model.encode_texts(batches[1]))
    assert torch.equal(half, found), "ranked in single precision"


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("cca", "siglip"),
        ("acmr", "clip"),
        ("timam", "clip"),
        ("infonce", "clip"),
        slow("cca", "clip"),
        slow("acmr", "siglip"),
        slow("timam", "siglip"),
        slow("infonce", "siglip"),
    ],
)
def test_towers_are_features_under_other_methods(method: str, family: str, tmp_path: Path) -> None:
    cli = fitted(settings(method, tmp_path, family, **{"data.batch_size": 16}), [RetrievalEvaluation()])
    assert {"features", "bow"} <= cli.model.requires and "words" not in cli.model.requires
    spec = cli.model.data_spec
    data, name = cli.datamodule, dual_encoders.tiny(family)
    texts = load_text_tower(name)
    assert spec.feature_dim == spec.bow_dim == texts.dim
    source = data.text_feature_source
    assert source is not None and source.family == family
    assert source.weights_sha256 == texts.checksum
    images, rows = load_image_tower(name).tower, [0, 7]
    with torch.no_grad():
        vectors = images(torch.stack([images.preprocess(data.corpus.images[row]) for row in rows]))
        sentences = texts.tower([data.corpus.captions[row] for row in rows])
    np.testing.assert_allclose(data.views.features[rows], vectors, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(data.views.bow[rows], sentences, rtol=1e-4, atol=1e-5)


def test_vectors_of_two_models_are_not_compared(tmp_path: Path) -> None:
    other = dual_encoders.tiny("siglip")
    with pytest.raises(
        BadInput, match=r"needs one dual encoder, but hf:\S+ encodes the images and hf:\S+ the capt"
    ):
        fitted(settings("clip", tmp_path, **{"data.text.network": other}), [])
    with pytest.raises(BadInput, match="no network encodes the images and no network the captions"):
        fitted(settings("clip", tmp_path, **{"data.images.network": None, "data.text.network": "same"}), [])


def test_new_sentences_and_pictures_become_the_same_vectors(tmp_path: Path) -> None:
    data = fitted(settings("clip", tmp_path), []).datamodule
    corpus, state = data.corpus, data.preprocessing
    rows, captions = corpus.image_rows("test")[:3], corpus.caption_rows("test")[:4]
    texts = Preprocessing(state).texts([corpus.captions[row] for row in captions]).bow
    assert texts is not None
    np.testing.assert_allclose(texts, data.views.bow[captions], rtol=1e-4, atol=1e-5)
    reader = PictureEncoding(state, data.dataset, "auto", Path(), torch.device("cpu"))
    features = reader.batch([corpus.images[int(row)] for row in rows]).features
    assert features is not None
    np.testing.assert_allclose(features, data.views.features[rows], rtol=1e-4, atol=1e-5)


def test_another_model_in_its_place_is_told(tmp_path: Path) -> None:
    data = fitted(settings("clip", tmp_path), []).datamodule
    state = data.preprocessing
    assert state.features is not None
    other = state.model_copy(
        update={"features": state.features.model_copy(update={"weights_sha256": "0" * 16})}
    )
    reader = PictureEncoding(other, data.dataset, "auto", Path(), torch.device("cpu"))
    with pytest.raises(BadInput, match=r"are not those used in training .*; put that model there$"):
        reader.batch([data.corpus.images[0]])


def options(folder: Path, **words: Any) -> BenchOptions:
    return BenchOptions(**{"dataset": "synthetic-20", "data_root": folder, "runs": folder / "runs", **words})


def test_a_record_has_the_checksum_of_the_weights(tmp_path: Path) -> None:
    name = dual_encoders.tiny()
    (planned,) = make_plan(options(tmp_path, methods="clip", network=name, seeds=3), gpu=False)
    planned.directory.mkdir(parents=True)
    run_job(planned, "cpu")
    record = read_record(planned.directory)
    checksum = load_image_tower(name).checksum
    assert record.data.features is not None and record.data.features["weights_sha256"] == checksum
    texts = load_text_tower(name).tower
    assert planned.corpus is not None and planned.corpus.captions is not None
    assert record.data.cut_captions == texts.cut(planned.corpus.captions) > 0
    (encoders,) = record.encoders
    assert encoders.image is not None and encoders.image.network == name
    assert encoders.text is not None
    assert (encoders.text.encoder, encoders.text.weights) == ("clip", "tiny-clip")
    assert encoders.text.weights_sha256 == load_text_tower(name).checksum
    assert encoders.text.text == "CLIP (frozen)"


def test_a_record_of_another_method_on_the_towers_has_both_checksums(tmp_path: Path) -> None:
    name = dual_encoders.tiny("siglip")
    words = {"methods": "infonce", "network": name, "text": "same", "seeds": 1}
    (planned,) = make_plan(options(tmp_path, **words, overrides={"trainer.max_epochs": 1}), gpu=False)
    planned.directory.mkdir(parents=True)
    run_job(planned, "cpu")
    record = read_record(planned.directory)
    assert record.data.features is not None
    assert record.data.features["weights_sha256"] == load_image_tower(name).checksum
    (encoders,) = record.encoders
    assert encoders.image is not None and encoders.image.network == name
    assert encoders.text is not None
    assert (encoders.text.encoder, encoders.text.weights) == ("siglip", "tiny-siglip")
    assert encoders.text.weights_sha256 == load_text_tower(name).checksum
    assert record.metrics["rsum"] > 0 and len(record.history) == 1


def test_a_model_that_is_not_at_hand_is_a_missing_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (planned,) = make_plan(options(tmp_path, methods="clip"), gpu=False)
    assert "hf download openai/clip-vit-base-patch32 --local-dir DIR" in planned.missing
    towers._unreachable.cache_clear()
    name = dual_encoders.tiny()
    plan = make_plan(options(tmp_path, methods="cca,scan", network=name, text="same"), gpu=False)
    assert [planned.missing for planned in plan] == ["", ""]


def test_random_weights_are_those_of_both_towers(tmp_path: Path) -> None:
    data = fitted(settings("clip", tmp_path, **{"data.images.weights": "none"}), []).datamodule
    name = dual_encoders.tiny()
    assert data.feature_source is not None and data.text_feature_source is not None
    assert data.feature_source["weights_sha256"] == load_image_tower(name, "none").checksum
    assert data.text_feature_source.weights_sha256 == load_text_tower(name, "none").checksum
    assert data.feature_source["weights"] == data.text_feature_source.weights == "none"
    captions = data.corpus.caption_rows("test")[:4]
    sentences = [data.corpus.captions[row] for row in captions]
    texts = Preprocessing(data.preprocessing).texts(sentences).bow
    np.testing.assert_allclose(texts, data.views.bow[captions], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"methods": "clip", "network": "resnet18"}, "TEXT is 'same', but NETWORK is 'resnet18'"),
        slow({"methods": "cca", "network": "mobilenet_v2", "text": "same"}, "but NETWORK is 'mobilenet_v2'"),
        ({"methods": "cca", "text": "resnet18"}, "TEXT is 'resnet18'; name a dual encoder"),
        slow({"methods": "clip", "text": "bert"}, "TEXT is 'bert'; name a dual encoder"),
        slow({"methods": "clip", "text": "tiny siglip"}, "zero-shot ranking needs one dual encoder, but hf:"),
        (
            {"methods": "clip", "weights": "IMAGENET1K_V1"},
            "WEIGHTS is 'IMAGENET1K_V1', but the name of NETWORK 'hf:",
        ),
        ({"methods": "clip,cca", "network": "hf:"}, "'hf:' names no dual encoder; in NETWORK or TEXT, give"),
        slow(
            {"methods": "cca", "network": "hf:/no/such"}, "hf:/no/such does not exist; correct the folder in"
        ),
        (
            {"methods": "timam", "preset": "paper", "network": "tiny clip", "text": "same"},
            "a frozen tower, but this method trains an image network",
        ),
        (
            {"methods": "scan", "preset": "small", "network": "tiny clip"},
            "a dual encoder, which has no grid of regions",
        ),
    ],
)
def test_networks_that_no_method_can_do_with_are_refused(
    words: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    chosen = {
        name: dual_encoders.tiny(word.removeprefix("tiny ")) if word.startswith("tiny ") else word
        for name, word in words.items()
    }
    overrides: dict[str, Any] = {"data.images.regions": "grid"} if words["methods"] == "scan" else {}
    with pytest.raises(BadInput) as raised:
        make_plan(options(tmp_path, **chosen, overrides=overrides), gpu=False)
    assert sentence in str(raised.value)


def test_a_method_that_cannot_do_with_the_networks_is_skipped_beside_one_that_can(tmp_path: Path) -> None:
    plan = make_plan(options(tmp_path, methods="clip,cca", network="mobilenet_v2"), gpu=False)
    clip, cca = (planned.missing for planned in plan)
    assert clip.startswith("TEXT is 'same', but NETWORK is 'mobilenet_v2'") and not cca


def test_a_text_network_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="TEXT is 'hf:x' and has no effect"):
        make_plan(options(tmp_path, methods="scan", text="hf:x"), gpu=False)


def test_a_text_encoder_of_words_makes_room_for_one_of_vectors() -> None:
    changes: dict[str, Any] = {"data.text.network": "hf:x"}
    for method in ("timam", "infonce"):
        encoder = configuration(method, **changes)["model"]["init_args"]["text_encoder"]
        assert encoder == {"class_path": "crossmodal_bench.networks.TextFeatureEncoder"}
    own = {
        "class_path": "crossmodal_bench.networks.TextFeatureEncoder",
        "init_args": {"hidden": [7]},
    }
    chosen = {**changes, "model.init_args.text_encoder": own}
    assert configuration("timam", **chosen)["model"]["init_args"]["text_encoder"] == own
    with pytest.raises(BadInput, match=r"embedding configures a word encoder, but data"):
        configuration("timam", **changes, **{"model.init_args.text_encoder.init_args.embedding": 7})
    assert "text_encoder" not in configuration("scan", **{"data.text.network": "hf:x"})["model"]["init_args"]
