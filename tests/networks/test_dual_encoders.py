"""Towers of dual encoders: what transformers itself gives, by the model's own processor."""

from __future__ import annotations

import json
import pickle
import socket
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
from crossmodal_bench.networks.dual_encoders import (
    ImageTower,
    TextTower,
    load_image_tower,
    load_text_tower,
    models_shared,
    unavailable_reason,
)

FAMILIES = ("clip", "siglip", pytest.param("align", marks=pytest.mark.slow))
SENTENCES = ("a red square", "the lazy fox jumps over a large blue circle left of the dog")


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


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


def changed_json(file: Path, *keys: str, value: Any) -> None:
    """Write another value into a file of settings, which has one."""
    content = json.loads(file.read_text(encoding="utf-8"))
    part = content
    for key in keys[:-1]:
        part = part[key]
    assert part.get(keys[-1]) != value
    part[keys[-1]] = value
    file.write_text(json.dumps(content), encoding="utf-8")


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


@pytest.mark.parametrize(
    ("load", "file", "keys", "value"),
    [
        slow(load_text_tower, "config.json", ("text_config", "hidden_act"), "gelu"),
        (load_text_tower, "config.json", ("text_config", "num_attention_heads"), 4),
        slow(load_image_tower, "config.json", ("vision_config", "hidden_act"), "gelu"),
        slow(load_text_tower, "tokenizer_config.json", ("model_max_length",), 7),
        (load_text_tower, "tokenizer_config.json", ("padding_side",), "left"),
        slow(load_text_tower, "tokenizer_config.json", ("pad_token",), "[UNK]"),
    ],
)
def test_the_checksum_is_of_all_that_decides_the_vectors(
    load: Any, file: str, keys: tuple[str, ...], value: Any, tmp_path: Path
) -> None:
    folder = dual_encoders.save("clip", tmp_path / "model")
    before = load(f"hf:{folder}").checksum
    changed_json(folder / file, *keys, value=value)
    assert load(f"hf:{folder}").checksum != before


def test_the_checksum_is_of_nothing_that_does_not_decide_them(tmp_path: Path) -> None:
    folder = dual_encoders.save("clip", tmp_path / "a")
    before = load_text_tower(f"hf:{folder}").checksum
    changed_json(folder / "config.json", "transformers_version", value="5.0.0")
    changed_json(folder / "config.json", "dtype", value="float16")
    moved = folder.rename(tmp_path / "b")
    assert load_text_tower(f"hf:{moved}").checksum == before


def test_a_siglip_as_downloaded_reads_sentence_pieces(tmp_path: Path) -> None:
    folder = dual_encoders.save_with_sentence_pieces(tmp_path / "siglip")
    loaded = load_text_tower(f"hf:{folder}")
    assert isinstance(loaded.tower, TextTower)
    assert type(loaded.tower.tokenizer).__name__ == "SiglipTokenizer"
    with torch.no_grad():
        lower, upper, other = loaded.tower(["a lazy fox", "A lazy FOX", "a quick dog"])
    assert torch.equal(lower, upper) and not torch.equal(lower, other)
    changed_json(folder / "tokenizer_config.json", "do_lower_case", value=False)
    assert load_text_tower(f"hf:{folder}").checksum != loaded.checksum


def test_a_library_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    def lacking(*args: Any, **kwargs: Any) -> None:
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lacking)
    with pytest.raises(
        MissingInput, match=r"the SentencePiece library\); pip install 'crossmodal-bench\[hf\]'"
    ):
        load_text_tower(dual_encoders.tiny())


def test_a_siglip_2_of_one_picture_size_reads_lower_case(tmp_path: Path) -> None:
    folder = dual_encoders.save_with_gemmas_tokenizer(tmp_path / "siglip2")
    tower = load_text_tower(f"hf:{folder}").tower
    assert (
        isinstance(tower, TextTower)
        and tower.tokenizer("A")["input_ids"] != tower.tokenizer("a")["input_ids"]
    )
    with torch.no_grad():
        upper, lower, other = tower(["A BAD cat", "a bad cat", "a bad dog"])
    assert torch.equal(upper, lower) and not torch.equal(upper, other)


def test_a_tower_counts_what_it_cuts() -> None:
    tower = load_text_tower(dual_encoders.tiny()).tower
    assert isinstance(tower, TextTower)
    assert tower.cut([SENTENCES[0], "the quick brown fox " * 30]) == 1


def test_loader_processes_are_given_no_model() -> None:
    tower = load_image_tower(dual_encoders.tiny()).tower
    assert isinstance(tower, ImageTower)
    copied = pickle.loads(pickle.dumps(tower.preprocess))
    assert torch.equal(copied(picture()), tower.preprocess(picture()))
    assert not any(isinstance(part, torch.nn.Module) for part in vars(tower.preprocess).values())


def test_both_towers_of_one_name_are_one_model_while_shared() -> None:
    name = dual_encoders.tiny()
    with models_shared():
        images, texts = load_image_tower(name), load_text_tower(name)
        random = load_text_tower(name, "none")
    assert images.tower.model is texts.tower.model is not random.tower.model
    later = load_text_tower(name)
    assert later.tower.model is not texts.tower.model and later.checksum == texts.checksum


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


def test_random_weights_are_in_single_precision_too(tmp_path: Path) -> None:
    folder = dual_encoders.save("clip", tmp_path / "half")
    changed_json(folder / "config.json", "dtype", value="float16")
    model = load_text_tower(f"hf:{folder}", "none").tower.model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_tower_has_no_grid_and_is_not_trained() -> None:
    name = dual_encoders.tiny()
    for load in (load_backbone, load_with_grid):
        with pytest.raises(BadInput, match="has no last feature map to take a grid of regions from"):
            load(name, "auto", Path(), 6)
    with pytest.raises(BadInput, match="is a frozen tower that only provides features"):
        trained_network(DataSpec(1, 1, network=name, weights_root="."))


@pytest.mark.parametrize("load", [load_image_tower, load_text_tower])
def test_what_is_no_dual_encoder_is_one_sentence(load: Any, tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    with pytest.raises(BadInput, match=r"hf:.*cannot be loaded .*; fix the folder"):
        load(f"hf:{tmp_path}")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=10, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="is a BertModel, which has no towers"):
        load(f"hf:{tmp_path}")
    with pytest.raises(BadInput, match="weights 'IMAGENET1K_V1' cannot be combined with hf:"):
        load(dual_encoders.tiny(), "IMAGENET1K_V1")
    for name in (f"hf:{tmp_path}/none", "hf:./none", "hf:~/none"):
        with pytest.raises(BadInput, match=r"does not exist; correct the folder in NETWORK or TEXT"):
            load(name)
    with pytest.raises(BadInput, match=r"'hf:' names no dual encoder; in NETWORK or TEXT, give a hub"):
        load("hf:")


def test_a_name_that_cannot_be_reached_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingInput, match=r"hf download nobody/nothing --local-dir DIR"):
        load_image_tower("hf:nobody/nothing")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hosts that are asked for from now on, without a network; the hub's cache is empty."""
    import huggingface_hub.constants

    hosts: list[str] = []

    def unreachable(host: Any, *args: Any, **kwargs: Any) -> None:
        hosts.append(str(host))
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return hosts


def cached_by_the_hub(cache: Path, name: str) -> Path:
    """The folder of a model in the hub's cache, which is empty."""
    repository, commit = cache / f"models--{name.replace('/', '--')}", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    return repository / "snapshots" / commit


def test_what_the_hubs_cache_has_is_loaded_without_asking_it(tmp_path: Path, asked: list[str]) -> None:
    folder = dual_encoders.save("clip", cached_by_the_hub(tmp_path, "somebody/cached"))
    assert not unavailable_reason("hf:somebody/cached")
    of_cache, of_folder = load_text_tower("hf:somebody/cached"), load_text_tower(f"hf:{folder}")
    assert of_cache.checksum == of_folder.checksum and of_cache.weights == "somebody/cached"
    assert load_image_tower("hf:somebody/cached").dim == dual_encoders.DIM
    assert not asked


def test_settings_without_weights_are_enough_for_random_ones(tmp_path: Path, asked: list[str]) -> None:
    folder = dual_encoders.save("clip", cached_by_the_hub(tmp_path, "somebody/settings"))
    (folder / "model.safetensors").unlink()
    assert not unavailable_reason("hf:somebody/settings", "none") and not asked
    assert "hf download somebody/settings --local-dir" in unavailable_reason("hf:somebody/settings")


def test_the_hub_is_asked_once_for_what_is_not_in_its_cache(asked: list[str]) -> None:
    assert "on a machine with network access, hf download" in unavailable_reason("hf:somebody/elsewhere")
    # The first question of a process resolves the name twice; a retry would do so five times.
    assert 1 <= len(asked) <= 2
    first = list(asked)
    assert "on a machine with network access, hf download" in unavailable_reason("hf:somebody/elsewhere")
    assert asked == first
