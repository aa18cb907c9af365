"""Image and text encoders: those of our records, those of the papers' tables, and whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import model_validator

from crossmodal_bench.core.validation import Model, WholeNumber, fault

_LATER_WEIGHTS = "IMAGENET1K_V2"
"""Torchvision's later weights, several points better than V1, which were current when the papers appeared."""

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
    """What produced an image's vectors, before the layers that a method trains on top.

    ``network`` is None if the data set provides the vectors. ``regions`` is the kind of regions:
    ``precomputed`` for those of a ``*_precomp`` folder, None for one vector per image. There are ``count``
    vectors of ``dim`` dimensions. ``fine_tuned``: whether the network was trained with the method.
    """

    network: str | None
    weights: str | None = None
    regions: str | None = None
    count: WholeNumber = 1
    dim: WholeNumber | None = None
    fine_tuned: bool = False

    @property
    def text(self) -> str:
        """The description shown to readers."""
        if self.network is None:
            what = f"{self.count} regions" if self.count != 1 else "image features"
            return f"{what} of width {self.dim} from the data set"
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
    """What encodes a text.

    ``encoder``: as in crossmodal_bench.networks.TextSource; ``bow`` for bags of words of the captions, the
    family of a dual encoder whose text tower produced the vectors, or None if the data set provides them.
    ``weights_sha256``: of loaded weights; None if none were loaded, and in older records.
    ``dim``: the width of bags of words and of given vectors.
    """

    encoder: str | None
    weights: str | None = None
    dim: WholeNumber | None = None
    fine_tuned: bool = False
    weights_sha256: str | None = None

    @property
    def text(self) -> str:
        """The description shown to readers."""
        if self.encoder is None:
            return f"text features of width {self.dim} from the data set"
        name = _NAMES.get(self.encoder, self.encoder)
        if self.weights == "none":
            return f"{name} ({_training(self.fine_tuned)}, from random weights)"
        if self.weights is not None:
            return f"{name} ({_training(self.fine_tuned)})"
        return name if self.dim is None else f"{name} of width {self.dim}"


class Encoders(Model):
    """Both encoders of one model; None for one that the method does not describe."""

    image: ImageFacts | None
    text: TextFacts | None


class PublishedImage(Model):
    """What a paper says about its image features.

    ``count`` vectors of ``dim`` dimensions per image. Arrays provided by a data set do not say what produced
    them and are recognised by their width, so ``dim`` is required for features that are usually provided.
    """

    network: Literal["sift", "vgg", "vgg19", "resnet101", "resnet152", "bottom-up"]
    fine_tuned: bool
    count: WholeNumber = 1
    dim: WholeNumber | None = None

    @model_validator(mode="after")
    def _is_recognised(self) -> PublishedImage:
        if self.network in ("sift", "vgg", "bottom-up") and self.dim is None:
            raise fault("is missing; add the width, by which provided features are recognised", "dim")
        return self

    @property
    def text(self) -> str:
        """The description shown to readers."""
        if self.network == "bottom-up":
            return f"{self.count} bottom-up regions of width {self.dim}"
        if self.dim is not None:
            return f"{_NAMES[self.network]} of width {self.dim}"
        return f"{_NAMES[self.network]} ({_training(self.fine_tuned)})"

    def agrees(self, ours: ImageFacts | None) -> bool:
        """Whether ours are these features, as far as a record can tell."""
        if ours is None or ours.fine_tuned != self.fine_tuned:
            return False
        if ours.network is None or ours.regions == "precomputed":
            kinds = ("bottom-up",) if ours.regions == "precomputed" else ("sift", "vgg")
            return self.network in kinds and (ours.count, ours.dim) == (self.count, self.dim)
        weights = ours.weights or "none"
        of_its_time = weights != "none" and _LATER_WEIGHTS not in weights
        return ours.regions is None and ours.network == self.network and of_its_time


class PublishedText(Model):
    """What a paper says about its text encoder; ``fine_tuned`` applies to a language model."""

    encoder: Literal["lda", "bow", "gru", "bigru", "bilstm", "bert"]
    dim: WholeNumber | None = None
    fine_tuned: bool | None = None

    @model_validator(mode="after")
    def _is_recognised(self) -> PublishedText:
        if self.encoder in ("lda", "bow") and self.dim is None:
            raise fault("is missing; add the width, by which provided features are recognised", "dim")
        if self.encoder == "bert" and self.fine_tuned is None:
            raise fault("is missing; say whether the language model is trained", "fine_tuned")
        return self

    @property
    def text(self) -> str:
        """The description shown to readers."""
        if self.fine_tuned is not None:
            return f"{_NAMES[self.encoder]} ({_training(self.fine_tuned)})"
        return _NAMES[self.encoder] if self.dim is None else f"{_NAMES[self.encoder]} of width {self.dim}"

    def agrees(self, ours: TextFacts | None) -> bool:
        """Whether ours is this encoder, as far as a record can tell."""
        if ours is None:
            return False
        if ours.encoder is None:
            return self.encoder in ("lda", "bow") and ours.dim == self.dim
        if self.fine_tuned is not None and (ours.fine_tuned != self.fine_tuned or ours.weights == "none"):
            return False
        return ours.encoder == self.encoder and self.dim in (None, ours.dim)


def _training(fine_tuned: bool) -> str:
    return "fine-tuned" if fine_tuned else "frozen"
