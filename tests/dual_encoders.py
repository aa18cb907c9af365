"""Tiny dual encoders of Hugging Face's families, with random weights, saved as folders as users have them."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AlignConfig,
    AlignModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    EfficientNetImageProcessor,
    GemmaTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from crossmodal_bench.data.language.wordpieces import build_tokenizer

SENTENCES = ("the quick brown fox jumps over the lazy dog", "a large red circle left of a small blue square")
SIDE, PATCH, POSITIONS, DIM = 32, 16, 24, 12
LAYERS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def _clip(vocabulary: int) -> tuple[Any, Any]:
    text = {
        **LAYERS,
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {**LAYERS, "image_size": SIDE, "patch_size": PATCH}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM))
    size = {"height": SIDE, "width": SIDE}
    return model, CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size)


def _siglip(vocabulary: int) -> tuple[Any, Any]:
    text = {
        **LAYERS,
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
    }
    vision = {**LAYERS, "image_size": SIDE, "patch_size": PATCH}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    return model, SiglipImageProcessor(size={"height": SIDE, "width": SIDE})


def _align(vocabulary: int) -> tuple[Any, Any]:
    text = {**LAYERS, "vocab_size": vocabulary, "max_position_embeddings": POSITIONS, "pad_token_id": 0}
    vision = {
        "image_size": SIDE,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
        "depth_divisor": 8,
        "hidden_dim": DIM,
        "kernel_sizes": [3],
        "in_channels": [32],
        "out_channels": [16],
        "depthwise_padding": [],
        "strides": [2],
        "num_block_repeats": [1],
        "expand_ratios": [1],
    }
    model = AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=8))
    size = {"height": SIDE, "width": SIDE}
    return model, EfficientNetImageProcessor(size=size, crop_size=size)


FAMILIES = {"clip": _clip, "siglip": _siglip, "align": _align}


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a model with its processor and tokenizer."""
    tokenizer = build_tokenizer(None, SENTENCES, size=200)
    tokenizer.model_max_length = POSITIONS
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model, processor = FAMILIES[family](len(tokenizer))
    torch.random.set_rng_state(state)
    for part in (model, processor, tokenizer):
        part.save_pretrained(folder)
    return folder


def save_with_sentence_pieces(folder: Path) -> Path:
    """Write a SigLIP as it is downloaded: its tokenizer is a model of the library sentencepiece."""
    from sentencepiece import SentencePieceTrainer

    _save_without_tokenizer(folder)
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(folder / "spiece"),
        vocab_size=60,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": POSITIONS, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def save_with_gemmas_tokenizer(folder: Path) -> Path:
    """Write a SigLIP 2 of one picture size: SigLIP's model, and a tokenizer that tells cases apart."""
    _save_without_tokenizer(folder)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyzABCDEFG"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    GemmaTokenizer(vocab=ids, merges=[], model_max_length=POSITIONS).save_pretrained(folder)
    return folder


def _save_without_tokenizer(folder: Path) -> None:
    save("siglip", folder)
    for file in folder.glob("*token*"):
        file.unlink()


def instead_of_the_hubs() -> dict[str, str]:
    """What lets the method ``clip`` run without a network, as overrides of a configuration."""
    name = tiny()
    return {"data.images.network": name, "data.cache": str(Path(name.removeprefix("hf:")).parent / "cache")}


@cache
def tiny(family: str = "clip") -> str:
    """The name ``hf:FOLDER`` of a model that this process has saved once."""
    folder = Path(tempfile.mkdtemp(prefix=f"tiny-{family}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Not seed 0, which random weights have.
    return f"hf:{save(family, folder / f'tiny-{family}', seed=3)}"
