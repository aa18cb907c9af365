"""The data module: exactly the views that are required, fitted on training captions only."""

from __future__ import annotations

import importlib
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import numpy as np
import pytest
import torch

from crossmodal_bench.core.batch import GroupBatch, PairBatch
from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.data import Corpus, CrossModalDataModule, ImageSettings, TextSettings, datamodule
from crossmodal_bench.data.datasets import DatasetReader, Karpathy, NUSWide10K, Precomputed, Synthetic
from crossmodal_bench.data.views import VIEWS
from crossmodal_bench.jobs import experiments

PER_IMAGE = (1, 3, 2, 2, 1, 2, 4, 1, 2, 2, 3)
IMAGE_FIELDS = {
    name: [name] for name in ("pixels", "pictures", "regions", "features", "labels", "identities")
}
TEXT_FIELDS = {
    "words": ["words", "lengths"],
    "wordpieces": ["wordpieces", "wordpiece_mask", "wordpiece_lengths"],
    "bow": ["bow"],
    "labels": ["labels"],
}


class Given(DatasetReader):
    """A reader of a corpus that is there already."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus, self.reads = corpus, 0

    def read(self, root: Path) -> Corpus:
        self.reads += 1
        return self.corpus


def module(corpus: Corpus, **settings: Any) -> CrossModalDataModule:
    return CrossModalDataModule(Given(corpus), **settings)


def reads(data: CrossModalDataModule) -> int:
    assert isinstance(data.dataset, Given)
    return data.dataset.reads


def trainer(phases: tuple[str, ...] = ("pairs",), **attributes: Any) -> Any:
    """As much of a Trainer as a data module looks at."""
    return SimpleNamespace(**{"lightning_module": SimpleNamespace(phases=phases), **attributes})


@pytest.fixture(scope="module")
def synthetic() -> Corpus:
    return Synthetic(size=20).read(Path())


def views_of(batch: Any) -> list[str]:
    return [
        name for name, value in vars(batch).items() if value is not None and name not in ("index", "image")
    ]


def expected_views(fields: dict[str, list[str]], requires: list[str]) -> list[str]:
    return [*chain.from_iterable(fields.get(view, []) for view in VIEWS if view in requires)]


def rows_of(loader: Any) -> list[int]:
    rows: list[int] = torch.cat([batch.index for batch in loader]).tolist()
    return rows


def captions_of(data: CrossModalDataModule) -> list[int]:
    rows: list[int] = torch.cat([batch.texts.index for batch in data.train_dataloader()]).tolist()
    return rows


# ---- views ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "requires", [[], *([view] for view in VIEWS), ["features", "words", "labels"], VIEWS]
)
def test_batches_hold_what_is_required_and_nothing_else(synthetic: Corpus, requires: list[str]) -> None:
    data = module(
        synthetic,
        batch_size=6,
        eval_batch_size=7,
        images=ImageSettings(size=16),
        text=TextSettings(min_count=1),
    )
    spec = data.build(requires)
    pair = next(iter(data.train_dataloader()))
    one_image, one_text = (next(iter(loader)) for loader in data.test_dataloader())
    for image, text in ((pair.images, pair.texts), (one_image, one_text)):
        # Pictures are for a generator to imitate: in training alone.
        wanted = [view for view in requires if view != "pictures" or image is pair.images]
        assert views_of(image) == expected_views(IMAGE_FIELDS, wanted)
        assert views_of(text) == expected_views(TEXT_FIELDS, requires)

    assert (spec.n_train_images, spec.n_train_captions) == (20, 100)
    sizes = {
        "features": (spec.feature_dim, pair.images.features),
        "regions": (spec.region_dim, pair.images.regions),
        "bow": (spec.bow_dim, pair.texts.bow),
    }
    for view, (size, tensor) in sizes.items():
        assert size == (tensor.shape[-1] if view in requires else 0)
    assert spec.region_count == (pair.images.regions.shape[1] if "regions" in requires else 0)
    assert spec.dataset_fingerprint == synthetic.fingerprint
    assert spec.n_identities == (20 if "identities" in requires else 0)
    assert spec.n_labels == (8 if "labels" in requires else 0) and not spec.multi_label
    for view, size, ids in (
        ("words", spec.vocabulary_size, pair.texts.words),
        ("wordpieces", spec.wordpiece_vocabulary_size, pair.texts.wordpieces),
    ):
        assert size > int(ids.max()) if view in requires else size == 0


def test_nothing_is_computed_that_is_not_required(synthetic: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nobody asked for this")

    for name in ("bags_of_words", "build_tokenizer", "extract_features", "identity_numbers"):
        monkeypatch.setattr(datamodule, name, refuse)
    monkeypatch.setattr(datamodule.Vocabulary, "fit", refuse)
    assert module(synthetic).build(["features", "labels", "regions", "pixels"]).feature_dim == 192


def test_an_unknown_view_names_the_nearest(synthetic: Corpus) -> None:
    with pytest.raises(BadInput, match=r"view 'feature' is unknown; did you mean 'features'\?"):
        module(synthetic).build(["feature"])


def test_building_again_is_free_and_other_views_are_built_anew(synthetic: Corpus) -> None:
    data = module(synthetic)
    first = data.build(["bow", "labels"])
    views = data.views
    assert data.build({"labels", "bow"}) is first and data.views is views
    second = data.build(["words"])
    assert second.vocabulary_size > 0 and second.bow_dim == 0
    assert data.views.vocabulary is not None and data.views.bow is None
    assert reads(data) == 1


def test_sizes_and_views_before_build_are_a_mistake_of_the_caller(synthetic: Corpus) -> None:
    for name in ("views", "spec"):
        with pytest.raises(RuntimeError, match="call build"):
            getattr(module(synthetic), name)


def features_only() -> Corpus:
    return fakes.corpus(
        captions=None,
        image_features=np.ones((11, 3), np.float32),
        text_features=np.ones((22, 4), np.float32),
    )


IMPOSSIBLE = [
    (features_only, "pixels", {}, "fake has no images: the view 'pixels' cannot be built from it"),
    (features_only, "regions", {}, "fake has no regions of its images: the view 'regions' cannot"),
    (features_only, "words", {}, "fake has no captions: the view 'words' cannot be built from it"),
    (features_only, "wordpieces", {}, "fake has no captions: the view 'wordpieces' cannot be built from it"),
    (features_only, "labels", {}, "fake has no labels, nor captions to take content words from"),
    (
        features_only,
        "features",
        {"images": ImageSettings(network="resnet18")},
        "fake has no images to run 'resnet18' on; omit NETWORK to use the features that come with it",
    ),
    (fakes.corpus, "features", {}, "fake has no image features, nor images to extract them from"),
    (
        lambda: fakes.corpus(captions=("of the",) * 22),
        "labels",
        {},
        "the training captions have no content words; label the images",
    ),
    (lambda: fakes.corpus(captions=("?!",) * 22), "bow", {}, "no bag of words can be built"),
]


@pytest.mark.parametrize(("make", "view", "settings", "expected"), IMPOSSIBLE)
def test_a_view_that_the_data_cannot_give(
    make: Any, view: str, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(BadInput) as raised:
        module(make(), **settings).build([view])
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_images_without_a_network_ask_for_one(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path)
    with pytest.raises(
        BadInput, match=r"flickr8k has no image features; name a network .*\(NETWORK=\.\.\.\)"
    ):
        CrossModalDataModule(Karpathy("flickr8k"), root=str(tmp_path)).build(["features"])


@pytest.mark.parametrize(
    ("name", "value", "least"),
    [("batch_size", 1, 2), ("eval_batch_size", 0, 1), ("num_workers", -1, 0)],
)
def test_sizes_that_no_loader_can_use(synthetic: Corpus, name: str, value: int, least: int) -> None:
    with pytest.raises(BadInput, match=rf"data\.{name} is {value}; it must be at least {least}"):
        module(synthetic, **{name: value})


# ---- only training captions are learnt from ---------------------------------------------------------------


def fitted(corpus: Corpus, **settings: Any) -> dict[str, Any]:
    """Everything that is fitted, in a form that can be compared."""
    text = TextSettings(min_count=1, content_labels=6, unknown_captions="keep")
    data = module(corpus, text=text, **settings)
    data.build(["words", "wordpieces", "bow", "labels"])
    views, rows = data.views, data.corpus.caption_rows("train")
    assert views.vocabulary is not None and views.labels is not None and views.wordpieces is not None
    return {
        "words": views.vocabulary.words,
        "pieces": [views.wordpieces[int(row)].tolist() for row in rows],
        "bow": views.bow[rows].toarray().tolist(),
        "labels": views.labels[data.corpus.image_rows("train")].tolist(),
    }


@pytest.mark.parametrize("split", ["val", "test"])
def test_captions_outside_train_change_nothing_that_is_fitted(split: str) -> None:
    corpus = fakes.corpus(per_image=PER_IMAGE)
    others = fakes.replaced(corpus.captions, corpus.caption_rows(split), "Wholly different zebras graze.")
    assert fitted(replace(corpus, captions=others)) == fitted(corpus)


def test_captions_of_train_change_everything_that_is_fitted() -> None:
    corpus = fakes.corpus(per_image=PER_IMAGE)
    others = fakes.replaced(
        corpus.captions, corpus.caption_rows("train")[:5], "Two zebras graze, two zebras."
    )
    before, after = fitted(corpus), fitted(replace(corpus, captions=others))
    assert all(before[name] != after[name] for name in before)


def test_what_is_held_out_for_validation_is_not_learnt_from() -> None:
    corpus = fakes.corpus(("train",) * 8 + ("test",) * 3, per_image=PER_IMAGE)
    held_out = corpus.with_validation(0.25).caption_rows("val")
    assert len(held_out)
    other = replace(corpus, captions=fakes.replaced(corpus.captions, held_out, "Different zebras graze."))
    assert fitted(other, validation=0.25) == fitted(corpus, validation=0.25)


def test_content_words_label_training_images_only() -> None:
    corpus = fakes.corpus(per_image=PER_IMAGE)
    data = module(corpus, text=TextSettings(content_labels=5))
    spec = data.build(["labels"])
    labels = data.views.labels
    assert labels is not None and (spec.n_labels, spec.multi_label) == (5, True)
    assert labels[corpus.image_rows("train")].any(axis=1).all()
    for split in ("val", "test"):
        assert not labels[corpus.image_rows(split)].any()
    described = data.describe()["labels"]
    assert described["kind"] == "content words" and described["count"] == 5
    assert described["rule"].startswith("the 5 most frequent content words of the training captions")
    assert data.corpus.labels is None, "no metric is computed from them"


# ---- loaders ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["caption", "image"])
def test_an_epoch_of_training(sampling: Any) -> None:
    corpus = fakes.corpus(per_image=PER_IMAGE)
    made = []
    for seed in (3, 3, 4):
        data = module(corpus, batch_size=4, sampling=sampling, seed=seed)
        data.build([])
        made.append(captions_of(data))
    assert made[0] == made[1] != made[2]
    if sampling == "caption":
        assert sorted(made[0]) == corpus.caption_rows("train").tolist()
    else:
        assert sorted(corpus.caption_image[made[0]].tolist()) == corpus.image_rows("train").tolist()


def test_evaluation_loaders_follow_the_splits() -> None:
    corpus = fakes.corpus(per_image=PER_IMAGE)
    data = module(corpus, eval_batch_size=2)
    data.build([])
    for split, loaders in (("val", data.val_dataloader()), ("test", data.test_dataloader())):
        found = [rows_of(loader) for loader in loaders]
        assert found == [corpus.image_rows(split).tolist(), corpus.caption_rows(split).tolist()]
    data.test_split = "val"
    assert [rows_of(loader) for loader in data.test_dataloader()] == [
        corpus.image_rows("val").tolist(),
        corpus.caption_rows("val").tolist(),
    ]


def test_without_a_validation_split_there_is_no_loader_for_it() -> None:
    data = module(fakes.corpus(("train",) * 5 + ("test",) * 2))
    data.build([])
    assert data.val_dataloader() == [] and len(data.test_dataloader()) == 2


def test_every_rank_has_its_share(synthetic: Corpus) -> None:
    found = []
    for rank in (0, 1, 2):
        data = module(synthetic, batch_size=8)
        data.trainer = trainer(global_rank=rank, world_size=3)
        data.build([])
        found.append(captions_of(data))
    assert {len(rows) for rows in found} == {34}
    assert set(chain.from_iterable(found)) == set(synthetic.caption_rows("train").tolist())


def test_a_phase_of_groups_has_every_image_once_with_all_its_captions(synthetic: Corpus) -> None:
    owner = synthetic.caption_image
    images: list[int] = []
    for rank in (0, 1, 2):
        data = module(synthetic, batch_size=4)
        data.trainer = trainer(("groups", "pairs"), global_rank=rank, world_size=3)
        data.build([])
        loaded = list(data.train_dataloader())
        groups = [one for one in loaded if isinstance(one, GroupBatch)]
        kinds = [type(one) for one in loaded]
        assert kinds == [GroupBatch] * len(groups) + [PairBatch] * (len(loaded) - len(groups))
        for batch in groups:
            rows = batch.texts.index.numpy()
            expected = [np.flatnonzero(owner == image) for image in batch.images.index.numpy()]
            assert rows.tolist() == np.concatenate(expected).tolist()
            assert batch.counts.tolist() == [len(one) for one in expected]
            assert owner[rows[batch.chosen.numpy()]].tolist() == batch.images.index.tolist()
            assert len(batch) == len(rows)
            images += batch.images.index.tolist()
    assert sorted(images) == synthetic.image_rows("train").tolist()


def test_the_caption_that_stands_for_an_image_is_drawn_by_seed_and_epoch(synthetic: Corpus) -> None:
    def chosen(seed: int, epoch: int) -> list[int]:
        data = module(synthetic, batch_size=20, seed=seed)
        data.trainer = trainer(("groups",), global_rank=0, world_size=1)
        data.build([])
        loader = data.train_dataloader()
        loader.order.set_epoch(epoch)
        (batch,) = loader
        picked = batch.texts.index[batch.chosen]
        return picked[batch.images.index.argsort()].tolist()

    assert chosen(0, 0) == chosen(0, 0)
    assert len({tuple(chosen(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_a_trainer_builds_what_its_method_requires(synthetic: Corpus) -> None:
    data = module(synthetic)
    data.trainer = trainer(lightning_module=SimpleNamespace(requires={"bow"}))
    data.setup("fit")
    assert data.spec.bow_dim > 0 and data.spec.feature_dim == 0


def test_a_corpus_can_be_handed_over(synthetic: Corpus) -> None:
    data = module(fakes.corpus())
    data.hand_over(synthetic)
    assert data.corpus is synthetic and reads(data) == 0


# ---- images and features ----------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    folder = fakes.write_karpathy(tmp_path)
    fakes.truncate(folder / "images" / "0002.jpg", 0.5)
    (folder / "images" / "0013.jpg").write_text("not found")
    return tmp_path


def test_unreadable_images_are_skipped_with_their_captions_when_asked(damaged: Path) -> None:
    data = CrossModalDataModule(
        Karpathy("flickr8k"), root=str(damaged), images=ImageSettings(size=8, on_bad_image="skip")
    )
    assert data.corpus.counts()["train"] == {"images": 11, "captions": 22}
    assert data.corpus.counts()["val"] == {"images": 3, "captions": 6}
    assert not {"0002.jpg", "0013.jpg"} & set(data.corpus.image_ids)
    data.build(["pixels"])
    assert sum(len(batch.images) for batch in data.train_dataloader()) == 22


def test_otherwise_an_unreadable_image_is_named_when_it_is_read(damaged: Path) -> None:
    data = CrossModalDataModule(
        Karpathy("flickr8k"), root=str(damaged), images=ImageSettings(size=8), num_workers=0
    )
    data.build(["pixels"])
    with pytest.raises(BadInput, match=r"0013\.jpg cannot be read as an image .* pass --on-bad-image skip"):
        list(data.val_dataloader()[0])


@pytest.mark.slow  # torch waits ten seconds for a loader's process that has raised something
def test_loader_processes_name_it_too_and_in_one_sentence(damaged: Path) -> None:
    data = CrossModalDataModule(
        Karpathy("flickr8k"), root=str(damaged), images=ImageSettings(size=8), num_workers=1
    )
    data.build(["pixels"])
    with pytest.raises(BadInput) as raised:
        list(data.train_dataloader())
    assert str(raised.value).startswith(str(damaged / "flickr8k" / "images" / "0002.jpg"))
    assert "\n" not in str(raised.value)


def test_features_of_a_network_and_where_they_come_from(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 3, "test": 2}))
    told: list[tuple[int, int]] = []
    data = CrossModalDataModule(
        Karpathy("flickr8k"),
        root=str(tmp_path),
        cache=str(tmp_path / "cache"),
        batch_size=4,
        images=ImageSettings(network="mobilenet_v2", weights="none", size=32),
    )
    data.progress = lambda done, total: told.append((done, total))
    assert data.build(["features"]).feature_dim == 1280
    source = data.describe()["features"]
    assert told == [(5, 5)]
    assert source["network"] == "mobilenet_v2" and source["weights"] == "none" and source["image_size"] == 32
    features = next(iter(data.train_dataloader())).images.features
    assert features.shape == (4, 1280) and torch.isfinite(features).all()


def test_precomputed_regions_and_where_they_come_from(tmp_path: Path) -> None:
    fakes.write_precomputed(tmp_path)
    data = CrossModalDataModule(Precomputed("f30k_precomp"), root=str(tmp_path), batch_size=4)
    spec = data.build(["regions", "words"])
    assert (spec.region_count, spec.region_dim) == (4, 7)
    batch = next(iter(data.train_dataloader()))
    for row, regions in zip(batch.images.index.tolist(), batch.images.regions.numpy(), strict=True):
        assert np.array_equal(regions, fakes.regions(row))
    source = data.describe()["features"]
    assert len(source.pop("weights_sha256")) == 16
    assert source == {
        "regions": "precomputed",
        "count": 4,
        "dim": 7,
        "network": "precomputed",
        "weights": "f30k_precomp",
    }


def test_a_grid_of_regions_beside_the_pooled_features(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 3, "test": 2}, 5))
    fakes.write_precomputed(folder, rows={"train": range(3), "test": range(3, 5)})
    data = CrossModalDataModule(
        Karpathy("flickr8k"),
        root=str(tmp_path),
        cache=str(tmp_path / "cache"),
        batch_size=4,
        images=ImageSettings(network="mobilenet_v2", weights="none", regions="grid", size=32),
    )
    told: list[tuple[int, int]] = []
    data.progress = lambda done, total: told.append((done, total))
    spec = data.build(["features", "regions"])
    assert (spec.region_count, spec.region_dim, spec.feature_dim) == (36, 1280, 1280)
    assert told == [(5, 5)], "one pass over the images makes both"
    source = data.describe()["features"]
    assert (source["regions"], source["count"], source["network"]) == ("grid", 36, "mobilenet_v2")
    assert source["pooled"]["regions"] is None and source["pooled"]["network"] == "mobilenet_v2"
    images = next(iter(data.train_dataloader())).images
    assert images.regions.shape == (4, 36, 1280) and images.features.shape == (4, 1280)
    # A map of one cell, pooled to one vector or spread over a grid.
    torch.testing.assert_close(images.regions.mean(1), images.features, rtol=1e-4, atol=1e-5)
    assert data.build(["regions"]).feature_dim == 0 and "pooled" not in data.describe()["features"]
    data.images = replace(data.images, regions="auto")
    data.build(["features", "regions"])
    source = data.describe()["features"]
    assert (source["regions"], source["pooled"]["network"]) == ("precomputed", "mobilenet_v2")


def test_images_without_regions_say_where_to_get_some(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path)
    with pytest.raises(MissingInput) as raised:
        CrossModalDataModule(Karpathy("flickr8k"), root=str(tmp_path)).build(["regions"])
    assert str(raised.value) == (
        "flickr8k has no regions of its images; put a folder *_precomp next to them, as published by SCAN's "
        "authors, or set data.images.regions to grid or detector (crossmodal-bench extract flickr8k "
        "--regions grid --network mobilenet_v2 extracts them beforehand)"
    )


def test_regions_cannot_be_extracted_without_images(tmp_path: Path) -> None:
    fakes.write_precomputed(tmp_path)
    data = CrossModalDataModule(
        Precomputed("f30k_precomp"), root=str(tmp_path), images=ImageSettings(regions="detector")
    )
    with pytest.raises(
        BadInput, match=r"flickr30k has no images to extract regions from; set data\.images\.regions to"
    ):
        data.build(["regions"])


# ---- words ------------------------------------------------------------------------------------------------


def test_the_vocabulary_may_count_validation_too_and_never_test() -> None:
    corpus = fakes.corpus(per_image=PER_IMAGE)
    for split, word in (("val", "zebras"), ("test", "okapis")):
        rows = corpus.caption_rows(split)
        corpus = replace(corpus, captions=fakes.replaced(corpus.captions, rows, f"{word} graze, {word}."))
    known, ids = {}, {}
    for vocabulary in ("train", "train+val"):
        data = module(corpus, text=TextSettings(min_count=1, vocabulary=vocabulary, unknown_captions="keep"))
        spec = data.build(["words"])
        assert data.views.vocabulary is not None and data.views.words is not None
        assert spec.vocabulary_size == len(data.views.vocabulary)
        known[vocabulary] = set(data.views.vocabulary.words)
        ids[vocabulary] = data.views.words
    assert known["train+val"] - known["train"] == {"zebras", "graze"}
    assert "okapis" not in known["train+val"]
    # Start, words, end; 1 is what is not known.
    validation, test = (int(corpus.caption_rows(split)[0]) for split in ("val", "test"))
    assert ids["train"][validation].tolist() == ids["train"][test].tolist() == [2, 1, 1, 1, 3]
    assert (ids["train+val"][validation][1:-1] > 3).all()
    assert (ids["train+val"][test] == 1).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_caption_without_a_known_word_is_named(split: str) -> None:
    corpus = fakes.corpus(per_image=PER_IMAGE)
    rows = corpus.caption_rows(split)[-2:]
    corpus = replace(corpus, captions=fakes.replaced(corpus.captions, rows, "Quetzalcoatl?"))
    with pytest.raises(BadInput) as raised:
        module(corpus, text=TextSettings(min_count=3)).build(["words"])
    assert str(raised.value) == (
        f"fake: caption '{corpus.caption_ids[rows[0]]}' has no word of the vocabulary (2 such captions in "
        "all); lower data.text.min_count, fix the caption, or set data.text.unknown_captions to keep"
    )
    data = module(corpus, text=TextSettings(min_count=3, unknown_captions="keep"))
    data.build(["words"])
    assert data.views.words is not None and data.views.words[int(rows[0])].tolist() == [2, 1, 3]


def test_a_caption_of_nothing_but_punctuation_has_no_word_unless_it_is_one() -> None:
    corpus = fakes.corpus()
    corpus = replace(corpus, captions=fakes.replaced(corpus.captions, np.array([21]), "."))
    with pytest.raises(
        BadInput, match=r"caption 'i10#1' has no word of the vocabulary \(1 such caption in all"
    ):
        module(corpus, text=TextSettings(min_count=1)).build(["words"])
    data = module(corpus, text=TextSettings(min_count=1, words="treebank"))
    assert data.build(["words"]).vocabulary_size > 4
    assert data.views.vocabulary is not None and "." in data.views.vocabulary.words


def test_what_a_record_says_about_the_data(synthetic: Corpus) -> None:
    data = module(synthetic)
    data.build(["features", "labels"])
    assert data.describe() == {
        "fingerprint": synthetic.fingerprint,
        "counts": synthetic.counts(),
        "labels": {"kind": "real", "count": 8, "rule": "8 scene categories of the generator"},
        "skipped_images": [],
        "cut_captions": 0,
        "features": None,
    }
    bare = module(fakes.corpus())
    bare.build(["bow"])
    assert bare.describe()["labels"] == {"kind": "none", "count": 0, "rule": ""}


def test_the_setting_for_validation_reaches_the_corpus(tmp_path: Path) -> None:
    fakes.write_feature_arrays(tmp_path, "nuswide10k")
    data = CrossModalDataModule(NUSWide10K(), root=str(tmp_path), validation=0.2)
    assert [data.corpus.counts()[split]["images"] for split in ("train", "val", "test")] == [16, 4, 8]


# ---- every data set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", experiments.names("datasets"))
def test_every_data_set_of_the_experiments_goes_from_files_to_batches(tmp_path: Path, name: str) -> None:
    changes = fakes.write_dataset(tmp_path, name)
    spec = experiments.dataset_settings(name, tmp_path)["data"]["dataset"]
    package, _, class_name = spec["class_path"].rpartition(".")
    reader = getattr(importlib.import_module(package), class_name)(**{**spec.get("init_args", {}), **changes})
    data = CrossModalDataModule(reader, root=str(tmp_path), batch_size=4, images=ImageSettings(size=8))
    corpus = data.corpus
    assert corpus.source and len(corpus.image_rows("test"))
    data.build(["bow", "labels", "pixels" if corpus.image_features is None else "features"])
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 4 and batch.texts.bow is not None and batch.images.labels is not None
    assert reader.read(tmp_path).fingerprint == corpus.fingerprint
    if name != "synthetic":
        with pytest.raises(BadInput, match=r"nowhere is missing; set DATA_ROOT to the folder that holds"):
            reader.read(tmp_path / "nowhere")
        (tmp_path / "empty").mkdir()
        with pytest.raises(BadInput, match=r"empty/\w+ is missing; put .* there"):
            reader.read(tmp_path / "empty")


def test_a_gpu_gets_regions_of_files_from_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_precomputed(tmp_path)
    monkeypatch.setattr(datamodule, "_cores", lambda: 16)
    for on_gpu, expected in ((False, 0), (True, 4)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda on_gpu=on_gpu: on_gpu)
        for chosen, workers in ((None, expected), (2, 2)):
            data = CrossModalDataModule(
                Precomputed("f30k_precomp"), root=str(tmp_path), batch_size=4, num_workers=chosen
            )
            data.build(["regions", "words"])
            loader = data.train_dataloader()
            assert (loader.num_workers, loader.pin_memory) == (workers, on_gpu)
            images, texts = data.test_dataloader()
            assert texts.num_workers == 0 and images.num_workers == (workers if on_gpu else 0)
