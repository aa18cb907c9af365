"""Towers of dual encoders: what transformers itself gives, by the model's own processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dual_encoders
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.networks.backbones import load_backbone, load_with_grid, trained_network
from crossmodal_bench.networks.dual_encoders import load_image_tower, load_text_tower

FAMILIES = ("clip", "siglip", pytest.param("align", marks=pytest.mark.slow))
SENTENCES = ("a red square", "the lazy fox jumps over a large blue circle left of the dog")


def picture(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_are_those_of_transformers(family: str) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    name = dual_encoders.tiny(family)
    folder = name.removeprefix("hf:")
    model = AutoModel.from_pretrained(folder).eval()
    processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    images, texts = load_image_tower(name), load_text_tower(name)
    pictures = [picture(seed, size) for seed, size in enumerate([(50, 40), (32, 32), (20, 60)])]
    with torch.no_grad():
        expected = pooled(model.get_image_features(**processor(images=pictures, return_tensors="pt")))
        found = images.tower(torch.stack([images.tower.preprocess(each) for each in pictures]))
        torch.testing.assert_close(found, expected)
        padding = "max_length" if family == "siglip" else True
        cut = {"truncation": True, "max_length": dual_encoders.POSITIONS}
        tokens = tokenizer(list(SENTENCES), padding=padding, return_tensors="pt", **cut)
        wanted = ("input_ids",) if family == "siglip" else ("input_ids", "attention_mask")
        expected = pooled(model.get_text_features(**{key: tokens[key] for key in wanted}))
        torch.testing.assert_close(texts.tower(SENTENCES), expected)
    assert images.dim == texts.dim == expected.shape[1]
    assert (images.family, texts.family) == (family, family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sentences_vector_does_not_depend_on_its_company(family: str) -> None:
    tower = load_text_tower(dual_encoders.tiny(family)).tower
    with torch.no_grad():
        together = tower(SENTENCES)
        torch.testing.assert_close(tower(SENTENCES[:1]), together[:1], rtol=1e-4, atol=1e-5)
        long = "the quick brown fox " * 30
        assert tower([long]).isfinite().all(), "cut to what the model reads"


def test_the_checksum_tells_weights_and_processors_apart(tmp_path: Path) -> None:
    first = dual_encoders.save("clip", tmp_path / "a")
    again, other = (
        dual_encoders.save("clip", tmp_path / "b"),
        dual_encoders.save("clip", tmp_path / "c", seed=1),
    )
    changed = dual_encoders.save("clip", tmp_path / "d")
    settings = (changed / "preprocessor_config.json").read_text()
    assert "0.48145466" in settings
    (changed / "preprocessor_config.json").write_text(settings.replace("0.48145466", "0.5"))
    sums = [load_image_tower(f"hf:{folder}").checksum for folder in (first, again, other, changed)]
    assert sums[0] == sums[1] and len(set(sums)) == 3
    texts = [load_text_tower(f"hf:{folder}").checksum for folder in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_a_backbone_by_this_name_is_the_image_tower() -> None:
    name = dual_encoders.tiny()
    module, source = load_backbone(name, "auto", Path("no data root"))
    assert (source.network, source.weights, source.dim) == (name, "tiny-clip", dual_encoders.DIM)
    assert source.weights_sha256 == load_image_tower(name).checksum
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not module.training


def test_random_weights_are_the_same_everywhere() -> None:
    name = dual_encoders.tiny()
    state = torch.random.get_rng_state()
    sums = [load_backbone(name, weights, Path())[1] for weights in ("none", "none", "auto")]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sums[0] == sums[1] and sums[0].weights == "none"
    assert sums[0].weights_sha256 != sums[2].weights_sha256


def test_a_tower_has_no_grid_and_is_not_trained() -> None:
    name = dual_encoders.tiny()
    for load in (load_backbone, load_with_grid):
        with pytest.raises(BadInput, match="has no last feature map to take a grid of regions from"):
            load(name, "auto", Path(), 6)
    with pytest.raises(BadInput, match="is a frozen tower, whose features methods read"):
        trained_network(DataSpec(1, 1, network=name, weights_root="."))


@pytest.mark.parametrize("load", [load_image_tower, load_text_tower])
def test_what_is_no_dual_encoder_is_one_sentence(load: Any, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    with pytest.raises(BadInput, match=r"hf:.*cannot be loaded .*; mend the folder"):
        load(f"hf:{tmp_path}")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=10, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="is a BertModel, which has no towers"):
        load(f"hf:{tmp_path}")
    with pytest.raises(BadInput, match="weights 'IMAGENET1K_V1' are given for hf:"):
        load(dual_encoders.tiny(), "IMAGENET1K_V1")


def test_a_name_that_cannot_be_reached_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingInput, match=r"hf download nobody/nothing --local-dir DIR"):
        load_image_tower("hf:nobody/nothing")
