"""`crossmodal-bench prepare` and `extract`: every file checked, and what was found said in lines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import CrossModalDataModule, ImageSettings, TextSettings
from crossmodal_bench.data.datasets import (
    CuhkPedes,
    DatasetReader,
    Karpathy,
    PascalSentence,
    Precomputed,
    Synthetic,
)
from crossmodal_bench.data.prepare import extract, prepare


def module(root: Path, reader: DatasetReader, **settings: Any) -> CrossModalDataModule:
    return CrossModalDataModule(reader, root=str(root), cache=str(root / "cache"), **settings)


def test_prepare_says_what_a_folder_of_images_holds(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries({"train": 6, "val": 2, "test": 3}, per_image=lambda row: 2 + row % 2)
    folder = fakes.write_karpathy(tmp_path, "mine", entries)
    data = module(tmp_path, Karpathy("mine"))
    lines = list(prepare(data, min_count=1))
    words = {"a", "stands", "near", "object", "in", "picture", "number", *fakes.COLOURS, *fakes.THINGS}
    words |= {str(n) for n in range(6)}
    assert lines == [
        f"mine: {folder / 'dataset_mine.json'}",
        "  train 6 images, 15 captions, 2 to 3 per image",
        "  val   2 images, 5 captions, 2 to 3 per image",
        "  test  3 images, 7 captions, 2 to 3 per image",
        f"  vocabulary {4 + len(words)} entries (words with at least 1 occurrences, 4 special tokens)",
        "  labels none: content words are used instead",
        "  images all readable",
        "  regions none: set data.images.regions to grid or detector to extract",
        f"  fingerprint {data.corpus.fingerprint}",
    ]


def test_prepare_says_what_feature_arrays_hold(tmp_path: Path) -> None:
    folder = fakes.write_feature_arrays(tmp_path)
    data = module(tmp_path, PascalSentence(), validation=0.2)
    assert list(prepare(data, min_count=4)) == [
        f"pascal_sentence: {folder}",
        "  train 16 images, 16 captions, 1 per image",
        "  val   4 images, 4 captions, 1 per image",
        "  test  8 images, 8 captions, 1 per image",
        "  image features 12 wide, from the data set",
        "  text features 7 wide, from the data set",
        "  labels 4 (4 classes of the label arrays)",
        "  images none: features only",
        "  regions none",
        f"  fingerprint {data.corpus.fingerprint}",
    ]


def test_prepare_says_whose_regions_there_are(tmp_path: Path) -> None:
    folder = fakes.write_precomputed(tmp_path)
    data = module(tmp_path, Precomputed("f30k_precomp"))
    assert list(prepare(data, min_count=100)) == [
        f"flickr30k: {folder}",
        "  train 6 images, 30 captions, 5 per image",
        "  val   2 images, 10 captions, 5 per image",
        "  test  3 images, 15 captions, 5 per image",
        "  vocabulary 4 entries (words with at least 100 occurrences, 4 special tokens)",
        "  caption 'train/0#0' and 54 more have no word of it: methods that read words cannot run unless "
        "data.text.unknown_captions is keep",
        "  labels none: content words are used instead",
        "  images none: regions only",
        "  regions 4 per image, 7 wide, from f30k_precomp",
        f"  fingerprint {data.corpus.fingerprint}",
    ]
    drawn = list(prepare(module(tmp_path, Synthetic(size=20)), 1))
    assert "  regions 6 per image, 112 wide, from the data set" in drawn


def test_prepare_counts_the_words_that_training_will_see(tmp_path: Path) -> None:
    fakes.write_precomputed(tmp_path)
    found = []
    for words in ("plain", "treebank"):
        data = module(tmp_path, Precomputed("f30k_precomp"), text=TextSettings(words=words))
        assert data.corpus.captions is not None
        captions = tuple(f"{caption}!" for caption in data.corpus.captions)
        data.hand_over(replace(data.corpus, captions=captions))
        found += [line for line in prepare(data, 1) if "vocabulary" in line]
    plain, treebank = (int(line.split()[1]) for line in found)
    assert treebank == plain + 1, "the exclamation mark"


def test_prepare_counts_what_some_methods_cannot_use(tmp_path: Path) -> None:
    entries = fakes.karpathy_entries({"train": 6, "val": 2, "test": 4}, labels=lambda row: ["x"] * (row % 2))
    entries[-1]["sentences"][1]["raw"] = "???"
    fakes.write_karpathy(tmp_path, "mine", entries)
    lines = list(prepare(module(tmp_path, Karpathy("mine")), min_count=1))
    assert any(
        line.startswith("  caption '0011.jpg#1' has no word of it: methods that read") for line in lines
    )
    assert "  3 of 6 train images have no label: metrics by label leave them out" in lines
    assert "  2 of 4 test images have no label: metrics by label leave them out" in lines


def test_prepare_looks_at_the_regions_of_every_image(tmp_path: Path) -> None:
    folder = fakes.write_precomputed(tmp_path, rows={"train": range(20), "dev": range(2), "test": range(2)})
    path = folder / "train_ims.npy"
    regions = np.load(path)
    regions[[9, 11], 2, 3] = np.nan
    np.save(path, regions)
    data = module(tmp_path, Precomputed("f30k_precomp"))
    with pytest.raises(BadInput) as raised:
        list(prepare(data, min_count=1))
    assert str(raised.value) == (
        f"{path} holds NaN or infinite values in row 9; extract that image again (2 such images in all)"
    )
    data.build(["regions", "words"])
    with pytest.raises(BadInput, match=r"train_ims\.npy holds NaN or infinite values in row 11; extract"):
        data.views.images(np.array([8, 11]))


def test_prepare_counts_identities_where_images_share_them(tmp_path: Path) -> None:
    entries = fakes.cuhk_pedes_entries({"train": 4, "val": 2, "test": 3}, lambda person: 2 + (person == 0))
    fakes.write_cuhk_pedes(tmp_path, entries)
    assert list(prepare(module(tmp_path, CuhkPedes()), min_count=1))[1:4] == [
        "  train 9 images, 18 captions, 2 per image, 4 identities",
        "  val   4 images, 8 captions, 2 per image, 2 identities",
        "  test  6 images, 12 captions, 2 per image, 3 identities",
    ]


def test_prepare_counts_unreadable_images_and_names_the_first(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path)
    for name in ("0017.jpg", "0004.jpg"):
        fakes.truncate(folder / "images" / name, 0.4)
    with pytest.raises(BadInput) as raised:
        list(prepare(module(tmp_path, Karpathy("flickr8k")), 4))
    assert str(raised.value).startswith(f"{folder / 'images' / '0004.jpg'} cannot be read as an image")
    assert str(raised.value).endswith("(2 such images in all)")
    skipping = list(
        prepare(module(tmp_path, Karpathy("flickr8k"), images=ImageSettings(on_bad_image="skip")), 4)
    )
    assert skipping[1] == "  train 11 images, 22 captions, 2 per image"


def test_extract_says_where_the_features_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 3, "test": 2}))
    images = ImageSettings(network="mobilenet_v2", weights="none", size=32)
    sentence = extract(module(tmp_path, Karpathy("flickr8k"), images=images), batch_size=2, device="cpu")
    (store,) = (tmp_path / "cache" / "features").glob("*.npy")
    assert sentence.startswith(f"{store}: 5 x 1280, mobilenet_v2, weights none (")
    assert "5/5" in capsys.readouterr().out
    data = module(tmp_path, Karpathy("flickr8k"), images=images)
    written = store.stat().st_mtime_ns
    data.build(["features"])
    assert store.stat().st_mtime_ns == written, "a bench finds what extract has made"


def test_extract_makes_the_regions_that_a_bench_finds(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 3, "test": 2}))
    images = ImageSettings(network="mobilenet_v2", weights="none", regions="grid", size=32)
    sentence = extract(module(tmp_path, Karpathy("flickr8k"), images=images), batch_size=2, device="cpu")
    (store,) = (tmp_path / "cache" / "features").glob("*grid*.npy")
    assert sentence.startswith(f"{store}: 5 x 36 x 1280, mobilenet_v2, weights none (")
    data = module(tmp_path, Karpathy("flickr8k"), images=images)
    written = store.stat().st_mtime_ns
    spec = data.build(["regions"])
    assert (spec.region_count, spec.region_dim) == (36, 1280)
    assert store.stat().st_mtime_ns == written


def test_skipped_images_are_named_by_prepare_and_kept_for_the_record(tmp_path: Path) -> None:
    root = tmp_path / "data"
    fakes.write_dataset(root, "flickr8k")
    spoiled = next(path for path in sorted((root / "flickr8k" / "images").iterdir()) if path.is_file())
    spoiled.write_bytes(b"not an image")
    data = CrossModalDataModule(
        Karpathy("flickr8k"), root=str(root), images=ImageSettings(on_bad_image="skip")
    )
    lines = list(prepare(data, 1))
    assert any("skipped 1 unreadable" in line and spoiled.name in line for line in lines)
    assert data.corpus.skipped == (spoiled.name,)
    assert spoiled.name not in data.corpus.image_ids
