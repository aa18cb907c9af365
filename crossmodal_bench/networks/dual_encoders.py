"""The two towers of dual encoders from Hugging Face (CLIP, SigLIP, ALIGN), frozen, with their processors.

A picture or a sentence becomes numbers as the model's own files say, not as ``data.images`` does: another
size, another resampling or another mean would be another model than the one whose numbers are published.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
EXAMPLE = "hf:openai/clip-vit-base-patch32"
"""A name that messages propose."""
OWN_WEIGHTS = ("auto", "DEFAULT", "none")
"""Weights that a name leaves to choose: its own, or random ones."""
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What the weights of a model are called on the hub, whole or in parts."""
_PATIENCE = 5.0
"""Seconds in which the hub must answer whether it has a model."""
_NO_SETTING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Keys of a model's settings that change none of its vectors: it is loaded in single precision."""


class Preprocess:
    """An image tower's ``preprocess`` without its model, as loader processes are given it.

    Args:
        processor: an image processor of transformers.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, picture: Image.Image) -> Tensor:
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


class ImageTower(nn.Module):
    """(B, 3, H, W), as ``preprocess`` makes them, to (B, dim): what the model compares with its texts.

    Args:
        model: a dual encoder of transformers.
        processor: its image processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.preprocess = Preprocess(processor)

    def forward(self, pixels: Tensor) -> Tensor:
        """The vectors, not normalised."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))


class TextTower(nn.Module):
    """Sentences to (B, dim): what the model compares with its images.

    Args:
        model: a dual encoder of transformers.
        tokenizer: its tokenizer.

    Attributes:
        family: the model's type.
        longest: tokens of a sentence, at most.
        lowers: whether sentences are lower-cased here. SigLIP 2 was trained on lower-cased text, which the
            tokenizer of its models of one picture size (whose type is that of SigLIP) leaves to its caller.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.family = str(model.config.model_type)
        positions = int(model.config.text_config.max_position_embeddings)
        limits = (positions, int(tokenizer.model_max_length), LONGEST.get(self.family, positions))
        self.longest = min(limits)
        self.lowers = self.family in PADDED and type(tokenizer).__name__.startswith("Gemma")
        self._reads = frozenset(inspect.signature(model.get_text_features).parameters)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        """The vectors, not normalised; longer sentences are cut."""
        padded = self.family in PADDED
        tokens = self.tokenizer(
            self._read(sentences),
            padding="max_length" if padded else True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        device = next(self.model.parameters()).device
        wanted = self._reads - {"attention_mask"} if padded else self._reads
        given = {name: ids.to(device) for name, ids in tokens.items() if name in wanted}
        return _pooled(self.model.get_text_features(**given))

    def cut(self, sentences: Sequence[str]) -> int:
        """How many of the sentences are longer than what is read of them."""
        # Not verbose: the library would warn of the first one.
        tokens = self.tokenizer(self._read(sentences), padding=False, truncation=False, verbose=False)
        return sum(len(ids) > self.longest for ids in tokens["input_ids"])

    def settings(self) -> str:
        """Everything but the model that decides the vectors of sentences."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        pieces = getattr(self.tokenizer, "sp_model", None)
        content = {
            "family": self.family,
            "longest": self.longest,
            "lowers": self.lowers or getattr(self.tokenizer, "do_lower_case", None),
            "padding_side": self.tokenizer.padding_side,
            "special_tokens": self.tokenizer.special_tokens_map,
            "tokenizer": sorted(self.tokenizer.get_vocab().items()) if backend is None else backend.to_str(),
            "pieces": None if pieces is None else pieces.serialized_model_proto().hex(),
        }
        return json.dumps(content, sort_keys=True, default=str)

    def _read(self, sentences: Sequence[str]) -> list[str]:
        return [sentence.lower() for sentence in sentences] if self.lowers else list(sentences)


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
                f"as {EXAMPLE}"
            ) from error


@torch.inference_mode()
def _width(tower: ImageTower | TextTower) -> int:
    """Of what a tower gives for a black picture, or for a letter."""
    if isinstance(tower, TextTower):
        vectors: Tensor = tower(["a"])
    else:
        device = next(tower.model.parameters()).device
        vectors = tower(tower.preprocess(Image.new("RGB", (8, 8)))[None].to(device))
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

    own_name = _own_name(name)
    model = _model(own_name, weights)
    processor = _loaded(own_name, AutoImageProcessor.from_pretrained)
    settings = processor.to_json_string() if hasattr(processor, "to_json_string") else str(type(processor))
    return LoadedTower(ImageTower(model, processor), _label(own_name, weights), _checksum(model, settings))


def load_text_tower(name: str, weights: str = "auto") -> LoadedTower:
    """The text tower of ``hf:NAME``; arguments and exceptions are those of ``load_image_tower``."""
    from transformers import AutoTokenizer

    def tokenizer_with_words(*args: Any, **kwargs: Any) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(*args, **kwargs)
        # A folder without a vocabulary loads as a tokenizer of its special tokens alone.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("its tokenizer has no vocabulary, as where tokenizer.json is missing")
        return tokenizer

    own_name = _own_name(name)
    model = _model(own_name, weights)
    tower = TextTower(model, _loaded(own_name, tokenizer_with_words))
    return LoadedTower(tower, _label(own_name, weights), _checksum(model, tower.settings()))


@contextmanager
def models_shared() -> Iterator[None]:
    """Within it, two towers of one name have one model, which is read once; at the end it is forgotten."""
    _shared.append({})
    try:
        yield
    finally:
        _shared.pop()


_shared: list[dict[tuple[str, str], Any]] = []
"""The models of each ``models_shared`` that is open, by name and weights."""


def out_of_reach(name: str, weights: str = "auto") -> str:
    """Why ``hf:NAME`` is not at hand, in a sentence; empty where it is.

    What is in a local folder is seen when it is read; of the hub's models, those are at hand whose weights
    are in its cache, or which it says that it has.

    Args:
        name: with or without ``hf:``.
        weights: see ``load_image_tower``; without them, the settings are enough.

    Raises:
        BadInput: no name, or a folder that does not exist.
    """
    own_name = _own_name(name)
    return "" if Path(own_name).is_dir() else _unreachable(own_name, needs_weights=weights != "none")


@cache
def _unreachable(name: str, *, needs_weights: bool) -> str:
    from huggingface_hub import HfApi

    if any(_cached(name, file) for file in (_WEIGHT_FILES if needs_weights else ("config.json",))):
        return ""
    try:
        HfApi().model_info(name, timeout=_PATIENCE)
    # What a hub, or the lack of one, raises is the hub's own.
    except Exception as error:
        return str(_not_at_hand(name, error))
    return ""


def _own_name(name: str) -> str:
    """The name without ``hf:``; BadInput where it names nothing, or a folder that does not exist."""
    own_name = name.removeprefix(HF)
    if not own_name:
        raise BadInput(
            f"'{name}' names no dual encoder; in NETWORK, or TEXT, give one of the hub, as {EXAMPLE}, or a "
            "folder"
        )
    if own_name.startswith(("/", ".", "~")) and not Path(own_name).is_dir():
        raise BadInput(f"{HF}{own_name} does not exist; correct the folder in NETWORK, or TEXT")
    return own_name


def _model(name: str, weights: str) -> Any:
    """The whole model, frozen, in single precision."""
    key = name, "none" if weights == "none" else "auto"
    for models in _shared:
        if key in models:
            return models[key]
    model = _new_model(name, weights)
    if _shared:
        _shared[-1][key] = model
    return model


def _new_model(name: str, weights: str) -> Any:
    from transformers import AutoConfig, AutoModel

    if weights not in OWN_WEIGHTS:
        raise BadInput(
            f"weights '{weights}' are given for {HF}{name}, whose name says which; leave WEIGHTS out, or set "
            "it to none for random ones"
        )
    if weights == "none":
        config = _loaded(name, AutoConfig.from_pretrained)
        # The settings may ask for half precision, whose features would be in half precision.
        model: Any = seeded(lambda: AutoModel.from_config(config)).float()
    else:
        # Without the type, likewise.
        model = _loaded(
            name, lambda *args, **kwargs: AutoModel.from_pretrained(*args, dtype=torch.float32, **kwargs)
        )
    has_towers = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    if not has_towers or not hasattr(model.config, "text_config"):
        raise BadInput(
            f"{HF}{name} is a {type(model).__name__}, which has no towers for pictures and sentences; name a "
            f"dual encoder, as {EXAMPLE}"
        )
    return model.eval().requires_grad_(False)


def _loaded(name: str, load: Callable[..., Any]) -> Any:
    """What a loader of transformers gives; whatever it raises as one sentence.

    What the hub's cache has is taken from there without asking the hub, whose silence would cost minutes.
    """
    folder = Path(name).is_dir()
    cached = None if folder else _cached(name, "config.json")
    try:
        if cached is not None:
            # As a folder: by its name, some loaders would ask the hub all the same.
            with suppress(OSError, ValueError):
                return load(str(cached.parent), trust_remote_code=False, local_files_only=True)
        return load(name, trust_remote_code=False)
    except ImportError as error:
        raise MissingInput(
            f"{HF}{name} needs a library ({first_line(error)}); pip install 'crossmodal-bench[hf]'"
        ) from error
    except Exception as error:
        if folder:
            raise BadInput(f"{HF}{name} cannot be loaded ({first_line(error)}); mend the folder") from error
        raise _not_at_hand(name, error) from error


def _cached(name: str, file: str) -> Path | None:
    """Where a file of a model is in the hub's cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, file)
    # What is no name of the hub's is not in its cache.
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _not_at_hand(name: str, error: Exception) -> MissingInput:
    return MissingInput(
        f"{HF}{name} cannot be loaded ({first_line(error)}); where there is a network, hf download {name} "
        f"--local-dir DIR makes a folder of it, and {HF}DIR names that"
    )


def _label(name: str, weights: str) -> str:
    return "none" if weights == "none" else Path(name).name if Path(name).is_dir() else name


def _checksum(model: Any, settings: str) -> str:
    """Of all parameters, of the model's settings, and of the processor's, but not of where they lie."""
    of_model = _deciding(model.config.to_dict())
    return parameter_checksum(
        model, json.dumps(of_model, sort_keys=True, default=str).encode(), settings.encode()
    )


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model and of its parts without those that decide nothing."""
    return {
        key: _deciding(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in _NO_SETTING
    }


def _pooled(output: Any) -> Tensor:
    """The vectors that a model gives: bare in some versions of transformers, among other things in others."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vectors.float()
