"""The generated data set: the same everywhere, learnable, with hard negatives."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import Corpus
from crossmodal_bench.data.datasets import Synthetic, synthetic
from crossmodal_bench.data.datasets.synthetic import (
    COLOURS,
    SCENES,
    SHAPES,
    SIZE_NAMES,
    Renderings,
    Scene,
    grid_descriptor,
)
from crossmodal_bench.data.language.words import tokenize
from crossmodal_bench.data.text import BagOfWords


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Synthetic(size=200).read(Path("not looked at"))


@pytest.fixture(scope="module")
def scenes(corpus: Corpus) -> tuple[Scene, ...]:
    assert isinstance(corpus.images, Renderings)
    return corpus.images.scenes


@pytest.mark.parametrize(("seed", "fingerprint"), [(0, "93f243c8823eb213"), (1, "d26c3765a9ce35f9")])
def test_the_data_are_those_of_every_other_machine(seed: int, fingerprint: str) -> None:
    assert Synthetic(size=20, seed=seed).read(Path()).fingerprint == fingerprint


def test_pixels_are_those_of_every_other_machine() -> None:
    images: Any = Synthetic(size=20).read(Path()).images
    assert [int(images.array(row).astype(np.int64).sum()) for row in (0, 3, 27)] == [
        1168234,
        2914094,
        1685818,
    ]


@pytest.mark.parametrize(
    ("size", "images", "per_image"),
    [("tiny", (160, 48, 48), 3), (20, (20, 4, 4), 5), ("25", (25, 5, 5), 5)],
)
def test_sizes(size: str | int, images: tuple[int, ...], per_image: int) -> None:
    assert SIZE_NAMES["small"] == (1000, 200, 400, 5)
    corpus = Synthetic(size=size).read(Path())
    counts = corpus.counts()
    assert tuple(counts[split]["images"] for split in ("train", "val", "test")) == images
    assert all(count["captions"] == per_image * count["images"] for count in counts.values())


@pytest.mark.parametrize("size", ["large", "0", 19, -30, "1e3", ""])
def test_a_size_that_is_none(size: str | int) -> None:
    with pytest.raises(BadInput, match=rf"synthetic size '{size}' is unknown; use tiny, small or a number"):
        Synthetic(size=size).read(Path())


def differences(one: Scene, other: Scene) -> int:
    """Objects in which two scenes of one category differ; 99 for other categories or numbers of objects."""
    if one.category != other.category or len(one.shapes) != len(other.shapes):
        return 99
    return sum(a != b for a, b in zip(one.shapes, other.shapes, strict=True))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_fourth_scene_is_a_near_duplicate_of_one_of_its_split(
    corpus: Corpus, scenes: tuple[Scene, ...], split: str
) -> None:
    mine = [scenes[row] for row in corpus.image_rows(split)]
    for at in range(3, len(mine), 4):
        assert min(differences(mine[at], earlier) for earlier in mine[:at]) <= 1
    close = sum(differences(a, b) == 1 for a, b in combinations(mine, 2))
    assert close >= len(mine) // 4
    # The pictures differ too, and not by light and noise alone.
    assert len(set(mine)) == len(mine)


def test_splits_share_no_picture(corpus: Corpus, scenes: tuple[Scene, ...]) -> None:
    seeds = {
        split: {scenes[row].seed for row in corpus.image_rows(split)} for split in ("train", "val", "test")
    }
    assert not seeds["train"] & seeds["val"] and not seeds["train"] & seeds["test"]


def test_captions_say_nothing_that_is_not_there(corpus: Corpus, scenes: tuple[Scene, ...]) -> None:
    assert corpus.captions is not None
    nouns = {tokenize(name)[0]: kind for kind, names in SHAPES.items() for name in names}
    spoken = 0
    for row, caption in enumerate(corpus.captions):
        scene = scenes[corpus.caption_image[row]]
        words = tokenize(caption)
        objects = {(shape.colour, shape.kind) for shape in scene.shapes}
        assert {word for word in words if word in SCENES} <= {scene.category}
        for colour, noun in pairwise(words):
            if colour in COLOURS and noun in nouns:
                spoken += 1
                assert (colour, nouns[noun]) in objects
        assert caption[0].isupper() and caption.endswith(".")
    assert spoken > len(corpus.captions)
    assert len(set(corpus.captions)) > 0.95 * len(corpus.captions)


def test_labels_are_the_scenes_categories(corpus: Corpus, scenes: tuple[Scene, ...]) -> None:
    assert corpus.labels is not None and corpus.labels.names == tuple(SCENES)
    assert [corpus.labels.names[i] for i in corpus.labels.values] == [scene.category for scene in scenes]
    assert set(corpus.labels.values.tolist()) == set(range(8))


def test_pixels_features_and_regions(corpus: Corpus) -> None:
    images: Any = corpus.images
    assert corpus.image_features is not None and corpus.image_features.shape == (280, 192)
    for row in (0, 3, 250):
        assert images[row].size == (64, 64) and images[row].mode == "RGB"
        assert np.array_equal(np.asarray(images[row]), images.array(row))
        assert np.array_equal(corpus.image_features[row], grid_descriptor(images.array(row)))
        regions = images.regions(row)
        assert regions.shape == (6, 112) and regions.dtype == np.float32 and np.isfinite(regions).all()
        scene = images.scenes[row]
        for shape, region in zip(scene.shapes, regions, strict=False):
            # The middle of an object's region has the object's colour, but for light and noise.
            centre = region[:108].reshape(6, 6, 3)[2:4, 2:4].mean((0, 1)) * 255
            colour = np.array(COLOURS[shape.colour])
            assert np.abs(centre / colour.max() - colour / colour.max()).max() < 0.3


def test_regions_come_with_the_pictures_and_add_nothing_to_their_fingerprint(corpus: Corpus) -> None:
    images: Any = corpus.images
    regions = corpus.regions
    assert regions is not None and (len(regions), regions.count, regions.dim) == (280, 6, 112)
    assert np.array_equal(regions[3], images.regions(3)) and regions[3].shape == (6, 112)
    assert np.array_equal(regions.subset(np.array([5, 2]))[0], regions[5])
    assert regions.origin == "" and replace(corpus, regions=None).fingerprint == corpus.fingerprint


def test_a_subset_draws_the_same_pictures(corpus: Corpus) -> None:
    images: Any = corpus.images
    subset = images.subset(np.array([5, 2]))
    assert len(subset) == 2 and np.array_equal(subset.array(0), images.array(5))
    assert subset.fingerprint() != images.fingerprint()


# ---- learnable, and not trivial ---------------------------------------------------------------------------


def test_categories_can_be_learnt_from_the_features(corpus: Corpus) -> None:
    assert corpus.labels is not None and corpus.image_features is not None
    train, test = corpus.image_rows("train"), corpus.image_rows("test")
    model = LogisticRegression(max_iter=200).fit(corpus.image_features[train], corpus.labels.values[train])
    assert model.score(corpus.image_features[test], corpus.labels.values[test]) > 0.5  # chance: 0.125


def test_captions_can_be_matched_far_above_chance_and_not_perfectly(corpus: Corpus) -> None:
    assert corpus.captions is not None and corpus.image_features is not None
    train, test = corpus.caption_rows("train"), corpus.caption_rows("test")
    bag = BagOfWords(200).fit([corpus.captions[row] for row in train])
    texts = bag.transform(corpus.captions).toarray()
    features = corpus.image_features - corpus.image_features[corpus.image_rows("train")].mean(0)
    model = Ridge(alpha=1.0).fit(texts[train], features[corpus.caption_image[train]])
    predicted, gallery = model.predict(texts[test]), features[corpus.image_rows("test")]
    scores = predicted @ gallery.T / np.linalg.norm(gallery, axis=1)
    own = corpus.caption_image[test] - corpus.image_rows("test")[0]
    rank = (scores > scores[np.arange(len(own)), own][:, None]).sum(1) + 1
    assert 2.5 * 100 / 40 < 100 * (rank == 1).mean() < 90
    assert np.median(rank) < 12  # chance: 20


def test_a_scene_is_drawn_once_and_every_process_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    source = synthetic.Synthetic("tiny").read(Path()).images
    assert isinstance(source, synthetic.Renderings)
    anew = synthetic.Renderings(source.scenes)
    drawn: list[int] = []
    draw = synthetic.Renderings._drawn

    def counted(self: synthetic.Renderings, row: int) -> NDArray[np.uint8]:
        drawn.append(row)
        return draw(self, row)

    monkeypatch.setattr(synthetic.Renderings, "_drawn", counted)
    regions = synthetic.RenderedRegions(anew)
    batch = regions.batch(np.array([7, 3, 7]))
    assert sorted(drawn) == [3, 7] and np.array_equal(batch[0], regions[7]) and batch.flags.writeable
    assert np.array_equal(np.asarray(anew[7]), draw(source, 7)) and sorted(drawn) == [3, 7]
    assert not anew.array(7).flags.writeable, "everybody gets the same one"
    assert len(pickle.dumps(anew)) == len(pickle.dumps(synthetic.Renderings(source.scenes)))
    assert np.array_equal(pickle.loads(pickle.dumps(anew)).array(3), draw(source, 3))
    monkeypatch.setattr(synthetic, "KEPT", 5)
    drawn.clear()
    few = synthetic.Renderings(source.scenes)
    for row in (4, 4, 5, 5):
        few.array(row)
    assert drawn == [4, 5, 5]
