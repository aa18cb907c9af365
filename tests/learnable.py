"""Two small corpora that every method can learn, its presets made smaller, and whether one has learnt."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import comb
from typing import Any
from unittest.mock import patch

import numpy as np
import pytorch_lightning as pl
import torch
import torchvision.models
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning.cli import LightningCLI
from tiny import QUIET
from torch import Tensor, nn

from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.data.corpus import Corpus, Labels
from crossmodal_bench.networks import classifiers
from crossmodal_bench.training.callbacks import RetrievalEvaluation
from crossmodal_bench.training.lightning_cli import instantiate
from crossmodal_bench.training.warm_start import Inheritance

WIDEST = {
    **dict.fromkeys(("dim", "embedding", "hidden", "caption_hidden", "caption_embedding"), 128),
    "image_hidden": 400,
    "text_hidden": 200,
    "generator_channels": 8,
    "discriminator_channels": 8,
}
"""How wide a layer is at most, by the name of the argument."""
VSRN_CAPTIONS = {"caption_hidden": 128, "caption_embedding": 128}
"""Of VSRN's caption model, whose widths a preset leaves to the host."""
LANGUAGE_MODEL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
SIDE = 48
"""Pixels of a picture."""


# ---- data -------------------------------------------------------------------------------------------------


class Regions:
    """(N, R, D) regions in memory."""

    origin = ""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values
        self.count, self.dim = values.shape[1:]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> NDArray[np.float32]:
        return self.values[row]

    def batch(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.values[rows]

    def subset(self, rows: NDArray[np.int64]) -> Regions:
        return Regions(self.values[rows])

    def fingerprint(self) -> str:
        return ""


class Pictures:
    """(N, H, W, 3) pictures in memory."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> Image.Image:
        return Image.fromarray(self.pixels[row])

    def subset(self, rows: NDArray[np.int64]) -> Pictures:
        return Pictures(self.pixels[rows])

    def fingerprint(self) -> str:
        return ""


def described_things(images: int = 96, things: int = 40, parts: int = 6, width: int = 48) -> Corpus:
    """Images of six things, one of them its class's: shown by regions and coloured tiles, named by captions.

    No two images and no two things are alike, so that what a preset has to cope with is its own rates,
    weights and schedules, and not near-duplicates.
    """
    rng = np.random.default_rng(0)
    classes, spare = 8, 32
    count = images + spare
    labels = np.arange(count) % classes
    others = [classes + rng.permutation(things - classes)[: parts - 1] for _ in range(count)]
    shown = np.concatenate([labels[:, None], others], axis=1)
    looks = rng.normal(size=(things, width))
    regions = np.maximum(looks[shown] + 0.3 * rng.normal(size=(count, parts, width)), 0).astype(np.float32)
    tiles = rng.integers(0, 256, size=(things, 3))[shown].reshape(count, 2, 3, 3)
    pixels = tiles.repeat(SIDE // 2, 1).repeat(SIDE // 3, 2) + rng.normal(0, 8, (count, SIDE, SIDE, 1))
    captions = [
        " ".join(["a", *(f"thing{number}" for number in rng.permutation(shown[row])), "."])
        for row in range(count)
        for _ in range(2)
    ]
    ids = tuple(f"image {row}" for row in range(count))
    return Corpus(
        name="described_things",
        image_ids=ids,
        caption_ids=tuple(f"{name}#{number}" for name in ids for number in range(2)),
        caption_image=np.repeat(np.arange(count), 2),
        split=np.array(["train"] * images + ["val"] * (spare - 8) + ["test"] * 8),
        captions=tuple(captions),
        labels=Labels(labels, rule="the first thing"),
        images=Pictures(pixels.clip(0, 255).astype(np.uint8)),
        regions=Regions(regions),
        image_features=regions.mean(1),
        source="drawn",
    )


def like_pascal(classes: int = 20, each: int = 5, image_width: int = 512, text_width: int = 60) -> Corpus:
    """100 pairs of 20 classes, with the statistics of Pascal Sentence's.

    Measured there: images (fc7) with 60 % zeros, of norm 29, 1.6 times as varied within classes as between
    them; texts with 7 % zeros, of norm 10.8, a quarter as varied within as between.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(classes * each) % classes

    def features(width: int, within: float, zeros: float, norm: float) -> NDArray[np.float32]:
        centres = rng.normal(size=(classes, width))
        values = centres[labels] + within**0.5 * rng.normal(size=(len(labels), width))
        values = np.maximum(values - np.quantile(values, zeros), 0)
        return (values * norm / np.linalg.norm(values, axis=1).mean()).astype(np.float32)

    images = features(image_width, within=1.6, zeros=0.6, norm=29.0)
    texts = features(text_width, within=0.28, zeros=0.07, norm=10.8)
    # A corpus must have something to test; nothing here looks at it.
    rows = np.arange(len(labels) + 1) % len(labels)
    ids = tuple(str(row) for row in range(len(rows)))
    return Corpus(
        name="like_pascal",
        image_ids=ids,
        caption_ids=ids,
        caption_image=np.arange(len(ids)),
        split=np.array(["train"] * len(labels) + ["test"]),
        labels=Labels(labels[rows], rule="drawn"),
        image_features=images[rows],
        text_features=texts[rows],
        source="drawn",
    )


# ---- a preset, smaller ------------------------------------------------------------------------------------


def shrunk(config: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """A configuration with narrow layers and small networks of pixels and word pieces, for data so small.

    Rates, weights, losses and schedules stay what they are.

    Args:
        config: of any method and preset.
        batch: how many pairs a batch has at most.
    """
    arguments = _narrow(config["model"]["init_args"])
    host = arguments.get("host", {})
    if host.get("class_path", "").endswith("VSRN"):
        host["init_args"] |= VSRN_CAPTIONS
    text = {**config["data"].get("text", {}), "min_count": 1}
    text_encoder = arguments.get("text_encoder", {})
    if text_encoder.get("class_path", "").endswith("LanguageModelEncoder"):
        text_encoder["init_args"]["config"] = LANGUAGE_MODEL
        text["tokenizer"] = None
    images = {**config["data"].get("images", {}), "weights": "none", "regions": "auto", "size": SIDE}
    encodes_pixels = arguments.get("image_encoder", {}).get("class_path", "").endswith("ConvNetEncoder")
    if not (encodes_pixels or host.get("init_args", {}).get("fine_tune", False)):
        images["network"] = None
    data = {**config["data"], "images": images, "text": text}
    data["batch_size"] = min(data.get("batch_size", batch), batch)
    return {**config, "model": {**config["model"], "init_args": arguments}, "data": data}


class SmallNetwork(nn.Module):
    """Stands in for any of torchvision's ResNets: five by five pixels, three layers, random weights."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        channels = (3, width // 2, width, width)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 5, 2, 2, bias=False), nn.BatchNorm2d(after), nn.ReLU())
                for before, after in itertools.pairwise(channels)
            )
        )
        self.fc: nn.Module = nn.Linear(width, 7)

    def forward(self, pixels: Tensor) -> Tensor:
        vectors: Tensor = self.fc(self.layers(pixels).mean((2, 3)))
        return vectors


@contextmanager
def small_networks(width: int = 64) -> Iterator[None]:
    """Networks of pixels under their own names, at a size for tests."""
    small = classifiers.NETWORKS["resnet18"]._replace(dim=width, map_dim=width)
    with (
        patch.object(torchvision.models, "get_model", lambda name, weights: SmallNetwork(width)),
        patch.dict(classifiers.NETWORKS, {name: small for name in classifiers.NETWORKS if "resnet" in name}),
    ):
        yield


def _narrow(part: Any, most: int | None = None) -> Any:
    """Every width below the arguments of a model, at most what ``WIDEST`` says."""
    if isinstance(part, dict):
        return {key: _narrow(value, WIDEST.get(key)) for key, value in part.items()}
    if isinstance(part, list):
        return [_narrow(value, most) for value in part]
    return part if most is None or part is None else min(part, most)


# ---- what comes of it -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """What a model makes of the training items, of images as queries and of texts.

    Attributes:
        recalls: R@10, as fractions.
        chances: what R@10 is in random order.
        precisions: mAP by class.
        deviations: of images and of texts, the standard deviation of their encodings (of several fragments,
            their mean), averaged over dimensions.
    """

    recalls: tuple[float, float]
    chances: tuple[float, float]
    precisions: tuple[float, float]
    deviations: tuple[float, float]


@dataclass(frozen=True)
class Course:
    """A training: how the model stood before it and behind it."""

    cli: LightningCLI
    before: Standing
    after: Standing

    @property
    def apart(self) -> bool:
        """Whether neither images nor texts have drawn together to one point.

        A regulariser may halve deviations, and has done no harm; a collapse goes on to 1e-4 of them.
        """
        pairs = zip(self.after.deviations, self.before.deviations, strict=True)
        return all(after > 0.2 * before for after, before in pairs)

    def __str__(self) -> str:
        return f"from {self.before} to {self.after}"


class _Stop(pl.Callback):
    """Ends a training behind so many batches, whatever its schedule has beyond them."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.fit_loop.total_batch_idx + 1 >= self.batches


def course(
    config: dict[str, Any],
    corpus: Corpus,
    batches: int,
    parents: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Course:
    """Train for so many batches, or for the preset's epochs where these are fewer.

    Args:
        config: as ``shrunk`` gives it.
        corpus: what is learnt.
        batches: how many steps at most.
        parents: state dictionaries that the training starts from, by method.
    """
    # Validation, too: rates that fall on a plateau look at it.
    callbacks = [_Stop(batches), Inheritance(parents or {}), RetrievalEvaluation()]
    validated = len(corpus.image_rows("val")) > 0
    cli = instantiate(
        config, callbacks, **QUIET, num_sanity_val_steps=0, limit_val_batches=1.0 if validated else 0
    )
    cli.datamodule.hand_over(corpus)
    with small_networks():
        cli.model.prepare(cli.datamodule.build(cli.model.requires))
        before = standing(cli.model, cli.datamodule)
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return Course(cli, before, standing(cli.model, cli.datamodule))


def standing(model: Any, data: CrossModalDataModule) -> Standing:
    """How a model stands on the training items."""
    encode = (model.encode_images, model.encode_texts)
    model.eval()
    with torch.no_grad():
        images, texts = (
            Encoding.cat([each(batch) for batch in loader])
            for each, loader in zip(encode, data.eval_dataloaders("train"), strict=True)
        )
        scores = model.score(images, texts).double()
    model.train()
    corpus = data.corpus
    rows = corpus.image_rows("train")
    owner = torch.from_numpy(np.searchsorted(rows, corpus.caption_image[corpus.caption_rows("train")]))
    right = owner[None, :] == torch.arange(len(rows))[:, None]
    assert corpus.labels is not None
    labels = torch.from_numpy(corpus.labels.values[rows])
    alike = labels[:, None] == labels[owner][None, :]
    return Standing(
        recalls=(_recall(scores, right), _recall(scores.T, right.T)),
        chances=(_chance(right), _chance(right.T)),
        precisions=(_precision(scores, alike), _precision(scores.T, alike.T)),
        deviations=(_deviation(images), _deviation(texts)),
    )


def _recall(scores: Tensor, right: Tensor, k: int = 10) -> float:
    """R@K of each row's query, ties against it: a collapsed model has none."""
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return float((((scores >= best) & ~right).sum(1) < k).double().mean())


def _chance(right: Tensor, k: int = 10) -> float:
    """R@K of the rows' queries in random order."""
    answers = right.shape[1]
    misses = [comb(answers - positives, k) / comb(answers, k) for positives in right.sum(1).tolist()]
    return 1 - sum(misses) / len(misses)


def _precision(scores: Tensor, right: Tensor) -> float:
    """mAP of each row's query, ties against it."""
    order = (scores - 1e-12 * right).argsort(1, descending=True)
    hits = right.gather(1, order).double()
    places = torch.arange(1, hits.shape[1] + 1)
    return float(((hits.cumsum(1) / places * hits).sum(1) / hits.sum(1)).mean())


def _deviation(encoding: Encoding) -> float:
    values = encoding.values.double()
    if encoding.lengths is not None:
        item = torch.repeat_interleave(torch.arange(len(encoding)), encoding.lengths)
        sums = torch.zeros(len(encoding), values.shape[1], dtype=values.dtype).index_add(0, item, values)
        values = sums / encoding.lengths[:, None]
    elif values.ndim == 3:
        values = values.mean(1)
    return float(values.std(0).mean())
