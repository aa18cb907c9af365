"""The two towers of dual encoders from Hugging Face (CLIP, SigLIP, ALIGN), frozen, with their processors.

A picture or a sentence becomes numbers as the model's own files say, not as ``data.images`` does: another
size, another resampling or another mean would be another model than the one whose numbers are published.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import first_line
from crossmodal_bench.networks.checksums import parameter_checksum
from crossmodal_bench.networks.seeding import seeded

HF = "hf:"
"""What the name of a dual encoder begins with; a name of the hub or a local folder follows."""
LONGEST = {"align": 64}
"""Tokens of a sentence, at most, by family, where the model could read more than its processor gives it."""
PADDED = ("siglip", "siglip2")
"""Families that were trained on sentences padded to one length, without a mask."""


class ImageTower(nn.Module):
    """(B, 3, H, W), as ``preprocess`` makes them, to (B, dim): what the model compares with its texts.

    Args:
        model: a dual encoder of transformers.
        processor: its image processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model, self.processor = model, processor

    def preprocess(self, picture: Image.Image) -> Tensor:
        """(3, H, W) of an RGB picture.

        Raises:
            BadInput: the processor gives anything else, as those do that cut pictures into patches.
        """
        pixels = self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
        if not isinstance(pixels, Tensor) or pixels.ndim != 3:
            raise BadInput(
                f"the image processor {type(self.processor).__name__} gives no picture of three channels; "
                "name a model of one picture size"
            )
        return pixels.float()

    def forward(self, pixels: Tensor) -> Tensor:
        """The vectors, not normalised."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))


class TextTower(nn.Module):
    """Sentences to (B, dim): what the model compares with its images.

    Args:
        model: a dual encoder of transformers.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.family = str(model.config.model_type)
        positions = int(model.config.text_config.max_position_embeddings)
        limits = (positions, int(tokenizer.model_max_length), LONGEST.get(self.family, positions))
        self.longest = min(limits)
        self._reads = frozenset(inspect.signature(model.get_text_features).parameters)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """The vectors, not normalised; longer sentences are cut."""
        padded = self.family in PADDED
        tokens = self.tokenizer(
            list(sentences),
            padding="max_length" if padded else True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        wanted = self._reads - {"attention_mask"} if padded else self._reads
        given = {name: ids.to(device) for name, ids in tokens.items() if name in wanted}
        return _pooled(self.model.get_text_features(**given))


class LoadedTower:
    """A tower with the facts of a record.

    Attributes:
        tower: in eval mode, single precision.
        family: clip, siglip, align ...
        weights: the model's name, or ``none`` for random weights.
        checksum: 16 hex digits of the whole model's parameters and of its processor's settings.
        dim: width of the vectors.
    """

    def __init__(self, tower: ImageTower | TextTower, weights: str, checksum: str) -> None:
        self.tower, self.weights, self.checksum = tower.eval(), weights, checksum
        self.family = str(tower.model.config.model_type)
        try:
            self.dim = _width(tower)
        except BadInput:
            raise
        # What a model of another make raises is its own.
        except Exception as error:
            raise BadInput(
                f"{type(tower.model).__name__} gives no vector ({first_line(error)}); name a dual encoder, "
                "as openai/clip-vit-base-patch32"
            ) from error


@torch.inference_mode()
def _width(tower: ImageTower | TextTower) -> int:
    """Of what a tower gives for a black picture, or for a letter."""
    if isinstance(tower, TextTower):
        vectors: Tensor = tower(["a"])
    else:
        vectors = tower(tower.preprocess(Image.new("RGB", (8, 8)))[None])
    _, dim = vectors.shape
    return dim


def load_image_tower(name: str, weights: str = "auto") -> LoadedTower:
    """The image tower of ``hf:NAME``.

    Args:
        name: with or without ``hf:``; of the hub, or a local folder.
        weights: ``auto`` or ``DEFAULT``: the model's own; ``none``: random ones (seed 0).

    Raises:
        BadInput: what is there is no dual encoder; MissingInput: nothing is there.
    """
    from transformers import AutoImageProcessor

    own_name = name.removeprefix(HF)
    model = _model(own_name, weights)
    processor = _loaded(
        own_name, lambda: AutoImageProcessor.from_pretrained(own_name, trust_remote_code=False)
    )
    return LoadedTower(ImageTower(model, processor), _label(own_name, weights), _checksum(model, processor))


def load_text_tower(name: str, weights: str = "auto") -> LoadedTower:
    """The text tower of ``hf:NAME``; arguments and exceptions are those of ``load_image_tower``."""
    from transformers import AutoTokenizer

    own_name = name.removeprefix(HF)
    model = _model(own_name, weights)
    tokenizer = _loaded(own_name, lambda: AutoTokenizer.from_pretrained(own_name, trust_remote_code=False))
    # A folder without a vocabulary loads as a tokenizer of its special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise BadInput(f"{HF}{own_name} has a tokenizer without a vocabulary; put tokenizer.json there")
    return LoadedTower(TextTower(model, tokenizer), _label(own_name, weights), _checksum(model, tokenizer))


def out_of_reach(name: str) -> str:
    """Why ``hf:NAME`` is not at hand, in a sentence; empty where it is.

    Of the hub only the settings are asked for, a few kilobytes; where they are, the weights are. What is in a
    local folder is seen when it is read.
    """
    own_name = name.removeprefix(HF)
    return "" if Path(own_name).is_dir() else _unreachable(own_name)


@cache
def _unreachable(name: str) -> str:
    from transformers import AutoConfig

    try:
        _loaded(name, lambda: AutoConfig.from_pretrained(name, trust_remote_code=False))
    except MissingInput as error:
        return str(error)
    return ""


def _model(name: str, weights: str) -> Any:
    from transformers import AutoConfig, AutoModel

    if weights not in ("auto", "DEFAULT", "none"):
        raise BadInput(
            f"weights '{weights}' are given for {HF}{name}, whose name says which; leave WEIGHTS out, or set "
            "it to none for random ones"
        )
    if weights == "none":
        config = _loaded(name, lambda: AutoConfig.from_pretrained(name, trust_remote_code=False))
        model: Any = seeded(lambda: AutoModel.from_config(config))
    else:
        # Without the type, a model in half precision would give features in half precision.
        model = _loaded(
            name, lambda: AutoModel.from_pretrained(name, dtype=torch.float32, trust_remote_code=False)
        )
    has_towers = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    if not has_towers or not hasattr(model.config, "text_config"):
        raise BadInput(
            f"{HF}{name} is a {type(model).__name__}, which has no towers for pictures and sentences; name a "
            "dual encoder, as openai/clip-vit-base-patch32"
        )
    return model.eval().requires_grad_(False)


def _loaded(name: str, load: Any) -> Any:
    """What a loader of transformers gives; whatever it raises as one sentence."""
    try:
        return load()
    except Exception as error:
        folder = Path(name)
        if folder.is_dir():
            raise BadInput(f"{HF}{name} cannot be loaded ({first_line(error)}); mend the folder") from error
        raise MissingInput(
            f"{HF}{name} cannot be loaded ({first_line(error)}); where there is a network, hf download "
            f"{name} --local-dir DIR makes a folder of it, and {HF}DIR names that"
        ) from error


def _label(name: str, weights: str) -> str:
    return "none" if weights == "none" else Path(name).name if Path(name).is_dir() else name


def _checksum(model: nn.Module, processor: Any) -> str:
    """Of all parameters, and of what the processor is made of, without the folder that it came from."""
    backend = getattr(processor, "backend_tokenizer", None)
    if backend is not None:
        made_of = backend.to_str()
    elif hasattr(processor, "to_json_string"):
        made_of = processor.to_json_string()
    else:
        made_of = type(processor).__name__
    return parameter_checksum(model, made_of.encode())


def _pooled(output: Any) -> Tensor:
    """The vectors that a model gives: bare in some versions of transformers, among other things in others."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vectors.float()
