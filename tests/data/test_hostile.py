"""Every reader of data, given broken versions of its files: a value or a sentence, never anything else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import hostile
import numpy as np
import pytest
import torch
from hostile import Reader
from PIL import Image
from torch import nn

from crossmodal_bench.data import Corpus, features
from crossmodal_bench.data.datasets import (
    CUB,
    AcmrCoco,
    CuhkPedes,
    DatasetReader,
    Flowers,
    Karpathy,
    PascalSentence,
    Precomputed,
    Wikipedia,
)
from crossmodal_bench.data.features import FeatureSource, FeatureStore
from crossmodal_bench.data.files.pickled import load_pickled
from crossmodal_bench.data.images import ImageFiles
from crossmodal_bench.data.language.wordpieces import build_tokenizer, encode_wordpieces
from crossmodal_bench.data.language.words import SPLITTERS
from crossmodal_bench.data.pixels import normalised_pixels
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.data.view_builders import bags_of_words, training_labels
from crossmodal_bench.networks import weight_files

FEW = 8
SOURCE = FeatureSource("tiny", "none", "0" * 16, 3, 16, "crop")


def corpus(reader: DatasetReader) -> Callable[[Path], Corpus]:
    """Reads a corpus, its fingerprint and the first of what it has."""

    def read(root: Path) -> Corpus:
        found = reader.read(root)
        assert found.fingerprint and found.counts()
        if found.regions is not None:
            assert found.regions[0].dtype == np.float32
        if found.image_features is not None and found.text_features is not None:
            assert np.isfinite(found.image_features).all() and np.isfinite(found.text_features).all()
        return found

    return read


def pictured(root: Path) -> None:
    fakes.write_karpathy(root, entries=fakes.karpathy_entries({"train": 4, "val": 2, "test": 2}))


def labelled(root: Path) -> None:
    entries = fakes.karpathy_entries(
        {"train": 4, "val": 1, "restval": 1, "test": 2},
        labels=lambda row: ["a", row],
        filepath=lambda *_: "x",
    )
    fakes.write_karpathy(root, entries=entries)


def singly_labelled(root: Path) -> None:
    entries = fakes.karpathy_entries({"train": 3, "test": 2}, label=lambda row: row % 2)
    fakes.write_karpathy(root, entries=entries)


def both(root: Path) -> None:
    """The same captions with pictures, and with regions."""
    entries = fakes.karpathy_entries({"train": 3, "val": 1, "test": 2}, per_image=5)
    folder = fakes.write_karpathy(root, entries=entries)
    rows = {"train": range(3), "dev": range(3, 4), "test": range(4, 6)}
    fakes.write_precomputed(folder, rows=rows, ids="image")


def picture(suffix: str, **options: Any) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        image = Image.fromarray(fakes.pixels(1))
        (image.convert("P") if suffix == ".gif" else image).save(root / f"a{suffix}", **options)

    return write


def read_picture(root: Path) -> torch.Tensor:
    (path,) = root.iterdir()
    return normalised_pixels(ImageFiles([path])[0], 32)


def read_store(root: Path) -> np.ndarray:
    array = FeatureStore(root / "store.npy", SOURCE).array()
    assert array.shape[1:] == (3,)
    return array


class Mean(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3))


def begin(root: Path) -> None:
    """What an extraction leaves that is killed behind its second batch of two."""

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    for row in range(6):
        Image.fromarray(fakes.pixels(row)).save(root / f"{row}.bmp")
    with pytest.raises(KeyboardInterrupt):
        go_on(root, stop)


def go_on(root: Path, progress: Any = None) -> None:
    images = ImageFiles(sorted(root.glob("*.bmp")))
    store = FeatureStore(root / "store.npy", SOURCE)
    kept = {path: path.read_bytes() for path in root.glob("store.*")}
    try:
        features._extract(Mean(), images, [store], 2, "cpu", progress)
        assert store.array().shape == (6, 3)
    finally:
        if progress is None:
            for path in root.glob("store.*"):
                path.unlink()
            for path, content in kept.items():
                path.write_bytes(content)


def write_weights(root: Path) -> None:
    torch.manual_seed(0)
    torch.save({"state_dict": nn.Linear(3, 2).state_dict()}, root / "tiny.pth")


def write_captions(root: Path) -> None:
    lines = [fakes.caption(row) for row in range(8)]
    (root / "captions.txt").write_text("\n".join(lines), encoding="utf-8")


def read_captions(root: Path) -> None:
    """Captions through everything that makes numbers of them."""
    lines = (root / "captions.txt").read_bytes().decode("utf-8", "replace").split("\n")
    given = [line for line in lines if line.strip()] or ["a"]
    found = fakes.corpus(("train", "test"), [1, len(given)], captions=("A red dog barks.", *given))
    for kind in SPLITTERS:
        vocabulary = Vocabulary.fit(given, 1, kind)
        for caption in given:
            assert vocabulary.decode(vocabulary.encode(caption)) is not None
    assert found.fingerprint and bags_of_words(found, 10)[0].shape[0] == len(given) + 1
    assert len(training_labels(found, 5)) == 2
    tokenizer = build_tokenizer(None, given, 200)
    assert len(encode_wordpieces(tokenizer, given)[0]) == len(given)


def write_tokenizer(root: Path) -> None:
    tokenizer = build_tokenizer(None, [fakes.caption(row) for row in range(8)], 120)
    tokenizer.save_pretrained(root)
    (root / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 64}')


def write_vocabulary(root: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##b", "##c"]
    (root / "vocab.txt").write_text("\n".join(words) + "\n")
    (root / "config.json").write_text('{"model_type": "bert", "max_position_embeddings": 64}')


def read_tokenizer(root: Path) -> None:
    encode_wordpieces(build_tokenizer(str(root), ()), ["a b c dog"])


READERS = {
    "karpathy": Reader(pictured, corpus(Karpathy("flickr8k")), "*.json", inputs=1500),
    "karpathy, several labels": Reader(labelled, corpus(Karpathy("flickr8k")), "*.json", inputs=1500),
    "karpathy, one label": Reader(singly_labelled, corpus(Karpathy("flickr8k")), "*.json", inputs=1000),
    "acmr_coco": Reader(fakes.write_coco, corpus(AcmrCoco(train=9, test=3)), "*.json", inputs=500),
    "attached": Reader(both, corpus(Karpathy("flickr8k")), "*_*.*", inputs=1000),
    "precomputed": Reader(
        lambda root: fakes.write_precomputed(root, ids="caption", repeated=True),
        corpus(Precomputed("f30k_precomp")),
        "*.*",
        inputs=1500,
    ),
    "cuhk_pedes": Reader(fakes.write_cuhk_pedes, corpus(CuhkPedes()), "*.json", inputs=1500),
    "cuhk_pedes without splits": Reader(
        lambda root: fakes.write_cuhk_pedes(root, name="caption_all.json"),
        corpus(CuhkPedes(train_identities=4, val_identities=2)),
        "*.json",
        inputs=1000,
    ),
    "cub": Reader(fakes.write_cub, corpus(CUB()), "*.txt", inputs=1000),
    "flowers": Reader(fakes.write_flowers, corpus(Flowers()), "*.txt", inputs=800),
    "wikipedia": Reader(fakes.write_wikipedia, corpus(Wikipedia()), "*.*", inputs=1500),
    "feature arrays, .npy": Reader(
        fakes.write_feature_arrays, corpus(PascalSentence()), "*.npy", inputs=1500
    ),
    "feature arrays, .npz": Reader(
        lambda root: fakes.write_feature_arrays(root, suffix=".npz"),
        corpus(PascalSentence()),
        "*.npz",
        inputs=1000,
    ),
    "feature arrays, .mat": Reader(
        lambda root: fakes.write_feature_arrays(root, suffix=".mat", key="data"),
        corpus(PascalSentence()),
        "*.mat",
        inputs=1500,
    ),
    **{
        f"image{suffix}": Reader(picture(suffix, **options), read_picture, "*.*", inputs=500)
        for suffix, options in {
            ".jpg": {"progressive": True},
            ".png": {},
            ".bmp": {},
            ".gif": {},
            ".webp": {},
            ".tif": {"compression": "tiff_lzw"},
        }.items()
    },
    "pickled": Reader(
        lambda root: (root / "a.pkl").write_bytes(pickle.dumps([np.ones(3), [1.0, 2.0, 3.0]], protocol=2)),
        lambda root: load_pickled(root / "a.pkl"),
        "*.pkl",
        inputs=1500,
    ),
    "feature store": Reader(
        lambda root: np.save(root / "store.npy", np.ones((4, 3), np.float32)), read_store, "*.npy"
    ),
    "extraction": Reader(begin, go_on, "store.*", inputs=300),
    "weights": Reader(
        write_weights,
        lambda root: weight_files.load_state(nn.Linear(3, 2), root / "tiny.pth", "tiny"),
        "*.pth",
    ),
    "captions": Reader(write_captions, read_captions, "*.txt", inputs=400, named=False),
    "tokenizer": Reader(write_tokenizer, read_tokenizer, "*.json", inputs=250, named=False),
    "vocabulary": Reader(write_vocabulary, read_tokenizer, "*.*", inputs=150, named=False),
}


@pytest.mark.parametrize("name", READERS)
def test_a_broken_file_gives_a_value_or_a_sentence(tmp_path: Path, name: str) -> None:
    assert hostile.check(READERS[name], tmp_path, FEW) >= FEW


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_broken_files_give_values_or_sentences(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = hostile.check(READERS[name], tmp_path, READERS[name].inputs)
    with capsys.disabled():
        print(f"\n{name}: {inputs} broken files")
    assert inputs >= READERS[name].inputs


def test_a_reader_that_raises_anything_else_is_found(tmp_path: Path) -> None:
    def careless(root: Path) -> int:
        return len((root / "a.txt").read_text(encoding="utf-8"))

    def write(root: Path) -> None:
        (root / "a.txt").write_text("word " * 50)

    with pytest.raises(UnicodeDecodeError):
        hostile.check(replace(READERS["cub"], write=write, read=careless), tmp_path, 200)
