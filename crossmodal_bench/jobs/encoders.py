"""What stands for images and texts: in our records, in the papers' tables, and whether the two agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from crossmodal_bench.core.validation import Model, WholeNumber, fault

_LATER_WEIGHTS = "IMAGENET1K_V2"
"""Of torchvision: several points better than those of the papers' time, whose networks are V1."""

_NAMES: Mapping[str, str] = {
    "resnet101": "ResNet-101",
    "resnet152": "ResNet-152",
    "vgg19": "VGG-19",
    "vgg": "VGG fc7",
    "sift": "SIFT",
    "bottom-up": "bottom-up",
    "lda": "LDA",
    "bow": "bags of words",
    "words": "word vectors",
    "gru": "GRU",
    "bigru": "bidirectional GRU",
    "lstm": "LSTM",
    "bilstm": "bidirectional LSTM",
    "bert": "BERT",
    "clip": "CLIP",
    "siglip": "SigLIP",
    "siglip2": "SigLIP 2",
    "align": "ALIGN",
}


class ImageFacts(Model):
    """What made the vectors of an image, before the layers that a method trains on them.

    ``network`` is None where the data set gives the vectors, ``precomputed`` for regions of a folder
    ``*_precomp``. ``regions``: which kind, None for one vector per image, of which there are ``count``, each
    ``dim`` wide. ``fine_tuned``: whether the network was trained with the method.
    """

    network: str | None
    weights: str | None = None
    regions: str | None = None
    count: WholeNumber = 1
    dim: WholeNumber | None = None
    fine_tuned: bool = False

    @property
    def text(self) -> str:
        """As a reader is told."""
        if self.network is None:
            what = f"{self.count} regions" if self.count != 1 else "image features"
            return f"{what} of width {self.dim} given by the data set"
        if self.regions == "precomputed":
            return f"{self.count} precomputed regions of width {self.dim}"
        name = _NAMES.get(self.network, self.network)
        if self.regions is not None:
            name = f"{self.count} {self.regions} regions of {name}"
        if self.weights == "none":
            return f"{name} ({_training(self.fine_tuned)}, from random weights)"
        later = f", from weights {_LATER_WEIGHTS}" if _LATER_WEIGHTS in (self.weights or "") else ""
        return f"{name} ({_training(self.fine_tuned)}{later})"


class TextFacts(Model):
    """What reads a text.

    ``encoder``: as crossmodal_bench.networks.TextSource has it, ``bow`` for bags of words of the captions,
    the family of a dual encoder whose text tower made the vectors, None where the data set gives them.
    ``weights_sha256``: of loaded weights; None where none were, and in records that did not say yet.
    ``dim``: the width of bags of words and of given vectors.
    """

    encoder: str | None
    weights: str | None = None
    dim: WholeNumber | None = None
    fine_tuned: bool = False
    weights_sha256: str | None = None

    @property
    def text(self) -> str:
        """As a reader is told."""
        if self.encoder is None:
            return f"text features of width {self.dim} given by the data set"
        name = _NAMES.get(self.encoder, self.encoder)
        if self.weights == "none":
            return f"{name} ({_training(self.fine_tuned)}, from random weights)"
        if self.weights is not None:
            return f"{name} ({_training(self.fine_tuned)})"
        return name if self.dim is None else f"{name} of width {self.dim}"


class Encoders(Model):
    """Both sides of one model; None where a method does not say what a side is made of."""

    image: ImageFacts | None
    text: TextFacts | None


class PublishedImage(Model):
    """What a paper says of its image features.

    ``count`` vectors, ``dim`` wide, per image. Arrays that a data set gives do not say what made them: their
    widths must do, so what is used to be given has one.
    """

    network: Literal["sift", "vgg", "vgg19", "resnet101", "resnet152", "bottom-up"]
    fine_tuned: bool
    count: WholeNumber = 1
    dim: WholeNumber | None = None

    @model_validator(mode="after")
    def _is_recognised(self) -> PublishedImage:
        if self.network in ("sift", "vgg", "bottom-up") and self.dim is None:
            raise fault("is missing; add the width, by which given features are recognised", "dim")
        return self

    @property
    def text(self) -> str:
        """As a reader is told."""
        if self.network == "bottom-up":
            return f"{self.count} bottom-up regions of width {self.dim}"
        if self.dim is not None:
            return f"{_NAMES[self.network]} of width {self.dim}"
        return f"{_NAMES[self.network]} ({_training(self.fine_tuned)})"

    def agrees(self, ours: ImageFacts | None) -> bool:
        """Whether ours are these features, as far as a record can say."""
        if ours is None or ours.fine_tuned != self.fine_tuned:
            return False
        if ours.network is None or ours.regions == "precomputed":
            kinds = ("bottom-up",) if ours.regions == "precomputed" else ("sift", "vgg")
            return self.network in kinds and (ours.count, ours.dim) == (self.count, self.dim)
        weights = ours.weights or "none"
        of_its_time = weights != "none" and _LATER_WEIGHTS not in weights
        return ours.regions is None and ours.network == self.network and of_its_time


class PublishedText(Model):
    """What a paper says of its text encoder; ``fine_tuned`` is of a language model."""

    encoder: Literal["lda", "bow", "gru", "bigru", "bilstm", "bert"]
    dim: WholeNumber | None = None
    fine_tuned: bool | None = None

    @model_validator(mode="after")
    def _is_recognised(self) -> PublishedText:
        if self.encoder in ("lda", "bow") and self.dim is None:
            raise fault("is missing; add the width, by which given features are recognised", "dim")
        if self.encoder == "bert" and self.fine_tuned is None:
            raise fault("is missing; say whether the language model is trained", "fine_tuned")
        return self

    @property
    def text(self) -> str:
        """As a reader is told."""
        if self.fine_tuned is not None:
            return f"{_NAMES[self.encoder]} ({_training(self.fine_tuned)})"
        return _NAMES[self.encoder] if self.dim is None else f"{_NAMES[self.encoder]} of width {self.dim}"

    def agrees(self, ours: TextFacts | None) -> bool:
        """Whether ours is this encoder, as far as a record can say."""
        if ours is None:
            return False
        if ours.encoder is None:
            return self.encoder in ("lda", "bow") and ours.dim == self.dim
        if self.fine_tuned is not None and (ours.fine_tuned != self.fine_tuned or ours.weights == "none"):
            return False
        return ours.encoder == self.encoder and self.dim in (None, ours.dim)


def _training(fine_tuned: bool) -> str:
    return "fine-tuned" if fine_tuned else "frozen"
