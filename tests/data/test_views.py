"""Views: what each row becomes, and only what was asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import scipy.sparse
import torch

from crossmodal_bench.data.datasets import Synthetic
from crossmodal_bench.data.language.tokens import TokenRows
from crossmodal_bench.data.loader import BatchRows
from crossmodal_bench.data.pixels import augmented_pixels, normalised_pixels, small_picture
from crossmodal_bench.data.text import Vocabulary
from crossmodal_bench.data.views import GroupDataset, ImageDataset, PairDataset, TextDataset, Views

UNEVEN = (1, 3, 2, 5, 1, 2, 4, 1, 2, 2, 3)
ROWS = np.array([4, 0, 9])


def test_views_that_were_not_asked_for_are_none() -> None:
    views = Views(fakes.corpus())
    images, texts = views.images(ROWS), views.texts(ROWS)
    assert [name for name, value in vars(images).items() if value is not None] == ["index"]
    assert [name for name, value in vars(texts).items() if value is not None] == ["index", "image"]
    assert images.index.tolist() == texts.index.tolist() == [4, 0, 9]
    assert texts.image.tolist() == [2, 0, 4]


@pytest.mark.parametrize("kind", ["array", "memory map", "sparse"])
def test_rows_of_features_are_float32_in_the_order_asked_for(tmp_path: Path, kind: str) -> None:
    array = np.random.default_rng(0).random((22, 6))
    given: Any = array
    if kind == "memory map":
        np.save(tmp_path / "a.npy", array)
        given = np.load(tmp_path / "a.npy", mmap_mode="r")
    elif kind == "sparse":
        given = scipy.sparse.csr_matrix(array)
    views = Views(fakes.corpus(), features=given[:11], bow=given)
    expected = torch.from_numpy(array[ROWS].astype(np.float32))
    images, texts = views.images(ROWS), views.texts(ROWS)
    assert images.features is not None and texts.bow is not None
    assert torch.equal(images.features, expected) and torch.equal(texts.bow, expected)
    images.features.zero_()
    assert array[ROWS].any(), "a batch must not write into the data"


def test_labels_of_captions_are_those_of_their_images() -> None:
    corpus = fakes.corpus(per_image=UNEVEN)
    single = np.arange(11) % 4
    multi = np.random.default_rng(0).integers(0, 2, (11, 5))
    rows = np.array([25, 0, 7])
    for labels, kind in ((single, torch.int64), (multi, torch.float32)):
        views = Views(corpus, labels=labels)
        images, texts = views.images(np.array([10, 2])).labels, views.texts(rows).labels
        assert images is not None and texts is not None
        assert images.dtype == texts.dtype == kind
        assert images.tolist() == labels[[10, 2]].tolist()
        assert texts.tolist() == labels[corpus.caption_image[rows]].tolist()


def test_words_are_padded_to_the_longest_of_the_batch() -> None:
    captions = ("one two three", "one", "two two") + ("three one",) * 19
    corpus = fakes.corpus(captions=captions)
    vocabulary = Vocabulary.fit(captions, 1)
    views = Views(corpus, vocabulary=vocabulary)
    batch = views.texts(np.array([1, 2, 0]))
    assert batch.words is not None and batch.lengths is not None
    assert batch.lengths.tolist() == [3, 4, 5]
    assert batch.words.shape == (3, 5)
    for row, words, length in zip((1, 2, 0), batch.words, batch.lengths, strict=True):
        assert words[:length].tolist() == vocabulary.encode(captions[row]).tolist()
        assert (words[length:] == 0).all()
    assert views.texts(np.array([1])).words is not None
    assert views.texts(np.array([1])).words.shape == (1, 3)  # type: ignore[union-attr]


def test_pixels_and_regions_of_a_corpus() -> None:
    corpus = Synthetic(size=20).read(Path())
    source: Any = corpus.images
    views = Views(corpus, image_size=32, pixels=True, regions=corpus.regions)
    batch = views.images(np.array([7, 2]))
    assert batch.pixels is not None and batch.regions is not None
    assert batch.pixels.shape == (2, 3, 32, 32)
    for at, row in enumerate((7, 2)):
        assert torch.equal(batch.pixels[at], normalised_pixels(source[row], 32))
        assert np.array_equal(batch.regions[at].numpy(), source.regions(row))


def test_word_pieces_come_with_the_mask_of_real_ones() -> None:
    corpus = fakes.corpus()
    pieces = TokenRows.of([[1] * (2 + row % 3) for row in range(len(corpus.caption_ids))])
    batch = Views(corpus, wordpieces=pieces).texts(np.array([4, 0, 2]))
    assert batch.wordpieces is not None and batch.wordpiece_mask is not None
    assert batch.wordpieces.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert torch.equal(batch.wordpiece_mask, batch.wordpieces)


def test_identities_of_images() -> None:
    identities = np.arange(11) // 2
    batch = Views(fakes.corpus(), identities=identities).images(np.array([10, 2, 3]))
    assert batch.identities is not None and batch.identities.tolist() == [5, 1, 1]


def test_training_pixels_are_augmented_by_seed_epoch_and_caption() -> None:
    corpus = Synthetic(size=20).read(Path())
    source: Any = corpus.images
    views = Views(corpus, image_size=32, pixels=True)
    rows = np.array([3, 7, 3])

    def batch(seed: int = 0, epoch: int = 0, positions: Any = rows) -> torch.Tensor:
        found = PairDataset(views, "train", "caption", seed, "crop_flip")[BatchRows(epoch, positions)]
        assert found.images.pixels is not None
        return found.images.pixels

    assert torch.equal(batch(), batch())
    assert torch.equal(batch()[[1]], batch(positions=rows[[1]])), "whatever else is in the batch"
    assert not torch.equal(batch(), batch(seed=1)) and not torch.equal(batch(), batch(epoch=1))
    caption = int(corpus.caption_rows("train")[7])
    rng = np.random.default_rng([0, 0, caption, 1])
    wanted = augmented_pixels(source[int(corpus.caption_image[caption])], 32, "crop", "crop_flip", rng)
    assert torch.equal(batch()[1], wanted)
    plain = PairDataset(views, "train", "caption", 0)[BatchRows(0, rows)].images.pixels
    assert plain is not None
    assert torch.equal(plain[1], normalised_pixels(source[int(corpus.caption_image[caption])], 32))
    assert torch.equal(views.images(np.array([4])).pixels[0], views.pixels_of(4))  # type: ignore[index]


def test_pictures_for_a_generator_come_with_training_pairs_alone() -> None:
    corpus = Synthetic(size=20).read(Path())
    source: Any = corpus.images
    views = Views(corpus, pictures=True)
    batch = PairDataset(views, "train", "caption", 0, "crop_flip")[BatchRows(0, np.array([3, 0]))].images
    assert batch.pictures is not None and batch.pixels is None
    for picture, row in zip(batch.pictures, batch.index.tolist(), strict=True):
        assert torch.equal(picture, small_picture(source[row]))
    assert views.images(np.array([0])).pictures is None
    assert GroupDataset(views, "train", 0)[BatchRows(0, np.array([1]))].images.pictures is None


# ---- data sets --------------------------------------------------------------------------------------------


def test_pixels_and_pictures_of_a_training_pair_are_of_one_decoding() -> None:
    class Counted:
        """Pictures that count how often each is decoded."""

        def __init__(self, images: Any) -> None:
            self.images = images
            self.rows: list[int] = []

        def __getitem__(self, row: int) -> Any:
            self.rows.append(row)
            return self.images[row]

    corpus = Synthetic("tiny").read(Path())
    views = Views(corpus, image_size=32, pixels=True, pictures=True)
    expected = PairDataset(views, "train", "caption", 0, "crop_flip")[BatchRows(0, np.arange(5))].images
    counted = Counted(corpus.images)
    # A corpus checks its images, and what stands in for them here is none of its kinds.
    object.__setattr__(corpus, "images", counted)
    images = PairDataset(views, "train", "caption", 0, "crop_flip")[BatchRows(0, np.arange(5))].images
    assert counted.rows == images.index.tolist()
    assert torch.equal(images.pixels, expected.pixels)  # type: ignore[arg-type]
    assert torch.equal(images.pictures, expected.pictures)  # type: ignore[arg-type]


def test_caption_sampling_has_each_training_caption_once_with_its_image() -> None:
    corpus = fakes.corpus(per_image=UNEVEN)
    pairs = PairDataset(Views(corpus), "train", "caption", seed=0)
    assert len(pairs) == len(corpus.caption_rows("train")) == 14
    batch = pairs[BatchRows(0, np.arange(14))]
    assert batch.texts.index.tolist() == corpus.caption_rows("train").tolist()
    assert torch.equal(batch.texts.image, batch.images.index)
    assert pairs[BatchRows(0, np.array([13, 2]))].texts.index.tolist() == [13, 2]


def drawn(epoch: int, seed: int = 3, rows: Any = range(6)) -> dict[int, int]:
    corpus = fakes.corpus(per_image=UNEVEN)
    pairs = PairDataset(Views(corpus), "train", "image", seed)
    assert len(pairs) == 6
    batch = pairs[BatchRows(epoch, np.array(list(rows)))]
    assert torch.equal(batch.texts.image, batch.images.index)
    return dict(zip(batch.images.index.tolist(), batch.texts.index.tolist(), strict=True))


def test_image_sampling_draws_one_caption_per_image_by_seed_epoch_and_image() -> None:
    np.random.seed(1)
    whole = drawn(epoch=2)
    assert list(whole) == list(range(6))
    assert drawn(epoch=2) == whole
    # Neither the batch nor the order within it matters: ranks and resumed runs draw the same.
    assert {**drawn(epoch=2, rows=[5, 1]), **drawn(epoch=2, rows=[0, 4, 3, 2])} == whole
    assert drawn(epoch=3) != whole and drawn(epoch=2, seed=4) != whole


def test_image_sampling_comes_to_every_caption() -> None:
    owners = fakes.corpus(per_image=UNEVEN).caption_image
    counts = Counter(caption for epoch in range(60) for caption in drawn(epoch).values())
    assert set(counts) == set(np.flatnonzero(owners < 6).tolist())
    for image in range(6):
        mine = [counts[row] for row in np.flatnonzero(owners == image).tolist()]
        assert sum(mine) == 60 and min(mine) >= 60 / len(mine) / 3


def test_images_with_as_many_captions_draw_independently() -> None:
    pairs = PairDataset(Views(fakes.corpus(("train",) * 12 + ("test",), per_image=5)), "train", "image", 0)
    assert len(set((pairs[BatchRows(0, np.arange(12))].texts.index % 5).tolist())) > 2


def test_image_sampling_where_captions_lie_in_any_order() -> None:
    corpus = fakes.corpus(per_image=UNEVEN)
    shuffled = np.random.default_rng(0).permutation(len(corpus.caption_ids))
    assert corpus.captions is not None
    corpus = replace(
        corpus,
        caption_ids=tuple(corpus.caption_ids[i] for i in shuffled),
        captions=tuple(corpus.captions[i] for i in shuffled),
        caption_image=corpus.caption_image[shuffled],
    )
    for epoch in range(5):
        batch = PairDataset(Views(corpus), "train", "image", 0)[BatchRows(epoch, np.arange(6))]
        assert batch.images.index.tolist() == list(range(6))
        assert corpus.caption_image[batch.texts.index].tolist() == list(range(6))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluation_has_images_and_captions_once_each(split: str) -> None:
    corpus = fakes.corpus(per_image=UNEVEN)
    images, texts = ImageDataset(Views(corpus), split), TextDataset(Views(corpus), split)
    assert len(images) == corpus.counts()[split]["images"]
    assert len(texts) == corpus.counts()[split]["captions"]
    found_images = images[BatchRows(0, np.arange(len(images)))]
    found_texts = texts[BatchRows(0, np.arange(len(texts)))]
    assert found_images.index.tolist() == corpus.image_rows(split).tolist()
    assert found_texts.index.tolist() == corpus.caption_rows(split).tolist()
    assert set(found_texts.image.tolist()) == set(found_images.index.tolist())
