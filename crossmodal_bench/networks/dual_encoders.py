"""The two towers of dual encoders from Hugging Face (CLIP, SigLIP, ALIGN), frozen, with their processors.

Pictures and sentences are preprocessed as the model's own files say, not as ``data.images`` does: with
another size, resampling or mean, it would not be the model whose numbers are published.
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
"""Prefix of a dual encoder's name; the name of a hub model or of a local folder follows."""
LONGEST = {"align": 64}
"""Maximal tokens per sentence, for families whose models could read more than their processors allow."""
PADDED = ("siglip", "siglip2")
"""Families trained on sentences padded to one length, without a mask."""
EXAMPLE = "hf:openai/clip-vit-base-patch32"
"""A name for messages to suggest."""
OWN_WEIGHTS = ("auto", "DEFAULT", "none")
"""Values of weights that fit any name: the model's own, or random ones."""
_WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""File names of a model's weights on the hub, whole or in parts."""
_PATIENCE = 5.0
"""Seconds that the hub may take to say whether it has a model."""
_NO_SETTING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Keys of a model's settings that don't affect its vectors: it is loaded in single precision."""


class Preprocess:
    """An image tower's ``preprocess`` without its model, for loader processes.

    Args:
        processor: an image processor of transformers.
    """

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, picture: Image.Image) -> Tensor:
        """(3, H, W) of an RGB picture.

        Raises:
            BadInput: the processor returns anything else, such as a picture cut into patches.
        """
        pixels = self.processor(images=picture, return_tensors="pt")["pixel_values"][0]
        if not isinstance(pixels, Tensor) or pixels.ndim != 3:
            raise BadInput(
                f"the image processor {type(self.processor).__name__} returns no picture of three channels; "
                "name a model with a single picture size"
            )
        return pixels.float()


class ImageTower(nn.Module):
    """(B, 3, H, W), as ``preprocess`` returns them, to (B, dim): the vectors compared with those of texts.

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
    """Sentences to (B, dim): the vectors compared with those of images.

    Args:
        model: a dual encoder of transformers.
        tokenizer: its tokenizer.

    Attributes:
        family: the model's type.
        longest: maximal number of tokens of a sentence.
        lowers: whether sentences are lower-cased here. SigLIP 2 was trained on lower-cased text, but the
            tokenizer of its models with one picture size (whose type is SigLIP's) leaves that to its caller.
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
        """The vectors, not normalised; longer sentences are truncated."""
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
        """The number of sentences that are too long and get truncated."""
        # Not verbose: the library would warn about the first one.
        tokens = self.tokenizer(self._read(sentences), padding=False, truncation=False, verbose=False)
        return sum(len(ids) > self.longest for ids in tokens["input_ids"])

    def settings(self) -> str:
        """Everything that determines the vectors of sentences, apart from the model."""
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
    """A tower with the facts for a record.

    Attributes:
        tower: in eval mode, single precision.
        family: clip, siglip, align ...
        weights: the model's name, or ``none`` for random weights.
        checksum: 16 hex digits of the whole model's parameters and its processor's settings.
        dim: width of the vectors.
    """

    def __init__(self, tower: ImageTower | TextTower, weights: str, checksum: str) -> None:
        self.tower, self.weights, self.checksum = tower.eval(), weights, checksum
        self.family = str(tower.model.config.model_type)
        try:
            self.dim = _width(tower)
        except BadInput:
            raise
        # Models of other kinds can raise anything.
        except Exception as error:
            raise BadInput(
                f"{type(tower.model).__name__} returns no vector ({first_line(error)}); name a dual encoder, "
                f"such as {EXAMPLE}"
            ) from error


@torch.inference_mode()
def _width(tower: ImageTower | TextTower) -> int:
    """The width of a tower's output, for a black picture or a single letter."""
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
        name: with or without ``hf:``; a hub model or a local folder.
        weights: ``auto`` or ``DEFAULT``: the model's own; ``none``: random ones (seed 0).

    Raises:
        BadInput: what is there is not a dual encoder; MissingInput: nothing is there.
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
        # A folder without a vocabulary loads as a tokenizer with nothing but its special tokens.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError("its tokenizer has no vocabulary; tokenizer.json may be missing")
        return tokenizer

    own_name = _own_name(name)
    model = _model(own_name, weights)
    tower = TextTower(model, _loaded(own_name, tokenizer_with_words))
    return LoadedTower(tower, _label(own_name, weights), _checksum(model, tower.settings()))


@contextmanager
def models_shared() -> Iterator[None]:
    """While open, the two towers of a name share one model, which is loaded once; then it is released."""
    _shared.append({})
    try:
        yield
    finally:
        _shared.pop()


_shared: list[dict[tuple[str, str], Any]] = []
"""The models of each open ``models_shared``, by name and weights."""


def unavailable_reason(name: str, weights: str = "auto") -> str:
    """Why ``hf:NAME`` is unavailable, in one sentence; empty if it is available.

    A local folder is checked when it is read; a hub model is available if its weights are cached, or if the
    hub confirms that it has it.

    Args:
        name: with or without ``hf:``.
        weights: see ``load_image_tower``; with ``none``, the settings are enough.

    Raises:
        BadInput: an empty name, or a folder that does not exist.
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
    # Hub errors, and those of a missing hub, can be of any class.
    except Exception as error:
        return str(_not_at_hand(name, error))
    return ""


def _own_name(name: str) -> str:
    """The name without ``hf:``; BadInput if it is empty, or a folder that does not exist."""
    own_name = name.removeprefix(HF)
    if not own_name:
        raise BadInput(
            f"'{name}' names no dual encoder; in NETWORK or TEXT, give a hub model, such as {EXAMPLE}, or a "
            "folder"
        )
    if own_name.startswith(("/", ".", "~")) and not Path(own_name).is_dir():
        raise BadInput(f"{HF}{own_name} does not exist; correct the folder in NETWORK or TEXT")
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
            f"weights '{weights}' cannot be combined with {HF}{name}, whose name selects them; omit WEIGHTS, "
            "or set it to none for random ones"
        )
    if weights == "none":
        config = _loaded(name, AutoConfig.from_pretrained)
        # The settings may ask for half precision, which would give half-precision features.
        model: Any = seeded(lambda: AutoModel.from_config(config)).float()
    else:
        # Likewise without an explicit type.
        model = _loaded(
            name, lambda *args, **kwargs: AutoModel.from_pretrained(*args, dtype=torch.float32, **kwargs)
        )
    has_towers = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    if not has_towers or not hasattr(model.config, "text_config"):
        raise BadInput(
            f"{HF}{name} is a {type(model).__name__}, which has no towers for pictures and sentences; name a "
            f"dual encoder, such as {EXAMPLE}"
        )
    return model.eval().requires_grad_(False)


def _loaded(name: str, load: Callable[..., Any]) -> Any:
    """The result of a transformers loader; whatever it raises becomes one sentence.

    Cached files are used without asking the hub, which could take minutes to time out.
    """
    folder = Path(name).is_dir()
    cached = None if folder else _cached(name, "config.json")
    try:
        if cached is not None:
            # As a folder: given a name, some loaders would still ask the hub.
            with suppress(OSError, ValueError):
                return load(str(cached.parent), trust_remote_code=False, local_files_only=True)
        return load(name, trust_remote_code=False)
    except ImportError as error:
        raise MissingInput(
            f"{HF}{name} needs a missing library ({first_line(error)}); pip install 'crossmodal-bench[hf]'"
        ) from error
    except Exception as error:
        if folder:
            raise BadInput(f"{HF}{name} cannot be loaded ({first_line(error)}); fix the folder") from error
        raise _not_at_hand(name, error) from error


def _cached(name: str, file: str) -> Path | None:
    """The path of a model's file in the hub's cache; None if it is not cached."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(name, file)
    # A name that the hub would reject cannot be in its cache.
    except HFValidationError:
        return None
    return Path(path) if isinstance(path, str) else None


def _not_at_hand(name: str, error: Exception) -> MissingInput:
    return MissingInput(
        f"{HF}{name} cannot be loaded ({first_line(error)}); on a machine with network access, hf download "
        f"{name} --local-dir DIR saves it to a folder, which {HF}DIR then names"
    )


def _label(name: str, weights: str) -> str:
    return "none" if weights == "none" else Path(name).name if Path(name).is_dir() else name


def _checksum(model: Any, settings: str) -> str:
    """Of all parameters, of the model's and the processor's settings, but not of their location."""
    of_model = _deciding(model.config.to_dict())
    return parameter_checksum(
        model, json.dumps(of_model, sort_keys=True, default=str).encode(), settings.encode()
    )


def _deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model and its parts, without those that don't affect its vectors."""
    return {
        key: _deciding(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key not in _NO_SETTING
    }


def _pooled(output: Any) -> Tensor:
    """A model's vectors: bare in some versions of transformers, wrapped in an output object in others."""
    vectors: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return vectors.float()
