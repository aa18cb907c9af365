"""Vectors of captions by a frozen text tower: made once, resumable, named after what made them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import read_json
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.features import (
    FeatureSource,
    FeatureStore,
    PartialStore,
    Progress,
    locked_store,
    note_of,
    store_name,
)
from crossmodal_bench.networks.dual_encoders import HF, LoadedTower, TextTower, load_text_tower

_CUT = "cut_captions"
"""The note's key for the number of captions that were too long for the tower."""


@dataclass(frozen=True)
class TextFeatures:
    """Vectors of captions, and what made them.

    Attributes:
        store: the vectors.
        loaded: the tower.
        longest: maximal number of tokens that it reads of a caption.
        cut: number of captions that are longer.
    """

    store: FeatureStore
    loaded: LoadedTower
    longest: int
    cut: int


def extract_text_features(
    corpus: Corpus,
    cache: Path,
    network: str,
    weights: str = "auto",
    *,
    batch_size: int = 64,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TextFeatures:
    """The vectors for (captions, network, weights), made if they don't exist yet.

    As in crossmodal_bench.data.features.extract_features: a killed run resumes where it stopped, and of
    several processes one works while the others wait.

    Args:
        corpus: with captions.
        cache: folder of the stores.
        network: ``hf:NAME``.
        weights: see crossmodal_bench.networks.dual_encoders.load_image_tower.
        batch_size: captions at a time; not part of the name, because it only affects rounding.
        device: where the network runs.
        progress: receives progress updates.

    Raises:
        BadInput: no captions, another kind of network, unusable weights, or features that are not finite.
    """
    if corpus.captions is None:
        raise BadInput(f"{corpus.name} has no captions to run '{network}' on; omit TEXT")
    if not network.startswith(HF):
        raise BadInput(
            f"data.text.network is '{network}'; name a dual encoder whose text tower reads the captions, "
            f"such as {HF}openai/clip-vit-base-patch32"
        )
    loaded = load_text_tower(network, weights)
    assert isinstance(loaded.tower, TextTower)
    source = FeatureSource(
        network, loaded.weights, loaded.checksum, loaded.dim, image_size=None, image_fit=None
    )
    store = FeatureStore(cache / "text_features" / f"{store_name(_digest(corpus), source)}.npy", source)
    if not store.path.is_file():
        try:
            with locked_store(store.path):
                if not store.path.is_file():
                    _extract(loaded, corpus, store, batch_size, device, progress)
        except OSError as error:
            raise BadInput(
                f"{store.path.parent} cannot be written ({error.strerror}); "
                "free space or choose another RUNS folder"
            ) from error
    return TextFeatures(store, loaded, loaded.tower.longest, _cut(store, loaded.tower, corpus.captions))


@torch.inference_mode()
def _extract(
    loaded: LoadedTower,
    corpus: Corpus,
    store: FeatureStore,
    batch_size: int,
    device: str,
    progress: Progress | None,
) -> None:
    captions = corpus.captions
    assert captions is not None
    tower = loaded.tower.to(device)
    assert isinstance(tower, TextTower)
    partial = PartialStore(store, len(captions), {_CUT: tower.cut(captions)})
    done = partial.noted()
    partial.open(done)
    while done < len(captions):
        vectors = tower(captions[done : done + batch_size])
        partial.write([vectors.float().cpu()], done)
        done += len(vectors)
        if progress is not None:
            progress(done, len(captions))
    partial.finish()


def _cut(store: FeatureStore, tower: TextTower, captions: Sequence[str]) -> int:
    """How many captions are too long and truncated: as noted, or counted if there is no note."""
    try:
        noted = read_json(note_of(store))
    except BadInput:
        noted = None
    count = noted.get(_CUT) if isinstance(noted, dict) else None
    return count if isinstance(count, int) else tower.cut(captions)


def _digest(corpus: Corpus) -> str:
    """A digest of the captions alone, in order: their images don't matter."""
    digest = hashlib.sha256()
    for caption in corpus.captions or ():
        digest.update(caption.encode() + b"\0")
    return digest.hexdigest()[:16]
