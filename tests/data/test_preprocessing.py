from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.validation import validated
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.data.datasets.synthetic import grid_descriptor
from crossmodal_bench.data.image_settings import ImageSettings
from crossmodal_bench.data.new_pictures import PictureEncoding
from crossmodal_bench.data.preprocessing import Preprocessing, PreprocessingState
from crossmodal_bench.data.text import BagOfWords, TextSettings

VIEWS = ("bow", "features", "pixels", "wordpieces", "words")


@pytest.fixture(scope="module")
def data() -> CrossModalDataModule:
    module = CrossModalDataModule(
        Synthetic(20), text=TextSettings(min_count=1), images=ImageSettings(size=48)
    )
    module.build(VIEWS)
    return module


@pytest.fixture(scope="module")
def state(data: CrossModalDataModule) -> PreprocessingState:
    """Through JSON, as in an exported folder."""
    content = json.loads(json.dumps(data.state_dict()["preprocessing"]))
    return validated(PreprocessingState, content, "a file")


def test_sentences_become_the_batches_of_training_bit_for_bit(
    data: CrossModalDataModule, state: PreprocessingState
) -> None:
    rows = data.corpus.caption_rows("test")
    assert data.corpus.captions is not None
    expected = data.views.texts(rows)
    found = Preprocessing(state).texts([data.corpus.captions[row] for row in rows])
    for view in ("words", "lengths", "wordpieces", "wordpiece_mask", "bow"):
        assert torch.equal(getattr(found, view), getattr(expected, view)), view


def test_pictures_become_the_batches_of_training(
    data: CrossModalDataModule, state: PreprocessingState, tmp_path: Path
) -> None:
    rows = data.corpus.image_rows("test")
    assert data.corpus.images is not None
    encoding = PictureEncoding(state, Synthetic(20), "auto", tmp_path, torch.device("cpu"))
    found = encoding.batch([data.corpus.images[int(row)] for row in rows])
    expected = data.views.images(rows)
    assert found.pixels is not None and torch.equal(found.pixels, expected.pixels)
    assert found.features is not None and torch.equal(found.features, expected.features)
    picture = data.corpus.images[0]
    np.testing.assert_array_equal(Synthetic(20).features_of(picture), grid_descriptor(np.asarray(picture)))


@pytest.mark.slow
def test_pictures_go_through_the_trainings_network_or_are_refused(tmp_path: Path) -> None:
    images = ImageSettings(network="mobilenet_v2", weights="none", regions="grid", size=32)
    module = CrossModalDataModule(Synthetic(20), cache=str(tmp_path), images=images)
    module.build(("features", "regions"))
    rows = module.corpus.image_rows("test")[:3]
    assert module.corpus.images is not None
    pictures = [module.corpus.images[int(row)] for row in rows]
    encoding = PictureEncoding(module.preprocessing, Synthetic(20), "none", tmp_path, torch.device("cpu"))
    found, expected = encoding.batch(pictures), module.views.images(rows)
    torch.testing.assert_close(found.features, expected.features, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.regions, expected.regions, rtol=1e-3, atol=1e-4)
    other = module.preprocessing.features.model_copy(update={"weights_sha256": "f" * 64})  # type: ignore[union-attr]
    wrong = module.preprocessing.model_copy(update={"features": other})
    with pytest.raises(BadInput, match=r"are not those used in training .* put that file into"):
        PictureEncoding(wrong, Synthetic(20), "none", tmp_path, torch.device("cpu")).batch(pictures)


def test_hostile_states_are_refused(state: PreprocessingState) -> None:
    content = state.model_dump(mode="json")
    for change in (
        {"words": {"kind": "shell", "words": []}},
        {"image_size": 0},
        {"bag": {"words": ["a"], "weights": ["x"]}},
        {"code": "import os"},
    ):
        with pytest.raises(BadInput, match="a file: field"):
            validated(PreprocessingState, {**content, **change}, "a file")
    pieces = {**content["wordpieces"], "tokenizer": "{}"}
    broken = validated(PreprocessingState, {**content, "wordpieces": pieces}, "a file")
    with pytest.raises(BadInput, match="the checkpoint's tokenizer cannot be read"):
        Preprocessing(broken).texts(["a circle"])
    pieces = {**content["wordpieces"], "special": {"tokenizer_file": "/etc/passwd"}}
    broken = validated(PreprocessingState, {**content, "wordpieces": pieces}, "a file")
    with pytest.raises(BadInput, match="no special token 'tokenizer_file'"):
        Preprocessing(broken).texts(["a circle"])
    with pytest.raises(BadInput, match="list every word once"):
        BagOfWords.restored(["a", "a"], [1.0, 1.0])


def test_sentences_must_be_there(state: PreprocessingState) -> None:
    with pytest.raises(BadInput, match="no sentence"):
        Preprocessing(state).texts([])
    with pytest.raises(BadInput, match="sentence 1 is empty"):
        Preprocessing(state).texts(["a circle", " "])


def test_a_data_module_is_set_up_by_hand() -> None:
    module = CrossModalDataModule(Synthetic(20), images=ImageSettings(network="resnet152"))
    module.setup()
    # Nothing is extracted by the network that is named.
    assert module.views.features is None and module.views.regions is not None
    pair = next(iter(module.train_dataloader()))
    assert pair.images.pixels is not None and pair.texts.words is not None and pair.texts.bow is not None
    assert [len(loader) > 0 for loader in module.val_dataloader()] == [True, True]
    images, texts = (next(iter(loader)) for loader in module.predict_dataloader())
    assert len(images) == 4 and len(texts) == 20
    built = CrossModalDataModule(Synthetic(20))
    built.build(["bow", "features"])
    built.setup("test")
    assert built.views.features is not None and not built.views.pixels, "what was built before stays"
