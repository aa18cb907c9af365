"""Features of a frozen network: right, cached by what made them, and resumable."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.data import Corpus, features
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.data.features import FeatureStore, extract_features
from crossmodal_bench.data.pixels import normalised_pixels
from crossmodal_bench.networks import backbones, classifiers

DIM = 5
TINY = classifiers.Network(classifiers._resnet, DIM, classifiers._stages, DIM)


class Tiny(nn.Module):
    """Stands in for a torchvision network: a convolution, a pooling and a classifier that is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, DIM, 3)
        self.fc: nn.Module = nn.Linear(DIM, 7)
        self.batches: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.batches.append(len(pixels))
        found: Tensor = self.fc(self.convolution(pixels).mean((2, 3)))
        return found


class Bench:
    """A corpus, a cache, and what every network that was made has been asked for."""

    def __init__(self, corpus: Corpus, root: Path) -> None:
        self.corpus, self.root = corpus, root
        self.made: list[Tiny] = []

    def make(self, name: str, weights: None) -> Tiny:
        assert name in classifiers.NETWORKS and weights is None
        self.made.append(Tiny())
        return self.made[-1]

    def extract(self, corpus: Corpus | None = None, **changes: Any) -> FeatureStore:
        settings: dict[str, Any] = {
            "network": "resnet18",
            "weights": "none",
            "image_size": 16,
            "batch_size": 4,
        }
        return extract_features(
            corpus or self.corpus, self.root / "cache", data_root=self.root, **{**settings, **changes}
        )

    def computed(self) -> list[int]:
        """Batch sizes that went through the latest network."""
        return self.made[-1].batches


def saved_weights(path: Path) -> str:
    torch.manual_seed(9)
    torch.save(Tiny().state_dict(), path)
    return str(path)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 7, "val": 3, "test": 3}))
    made = Bench(Karpathy("flickr8k").read(tmp_path), tmp_path)
    monkeypatch.setattr(torchvision.models, "get_model", made.make)
    monkeypatch.setitem(classifiers.NETWORKS, "resnet18", TINY)
    return made


# ---- extraction -------------------------------------------------------------------------------------------


def test_batched_features_are_those_of_one_image_at_a_time(bench: Bench) -> None:
    told: list[tuple[int, int]] = []
    store = bench.extract(progress=lambda done, total: told.append((done, total)))
    array = store.array()
    assert array.shape == (13, DIM) and array.dtype == np.float32 and not array.flags.writeable
    assert told == [(4, 13), (8, 13), (12, 13), (13, 13)]
    network, source = backbones.load_backbone("resnet18", "none", bench.root)
    assert bench.corpus.images is not None
    with torch.inference_mode():
        for row in range(13):
            one = network(normalised_pixels(bench.corpus.images[row], 16)[None])[0]
            np.testing.assert_allclose(array[row], one.numpy(), rtol=1e-4, atol=1e-6)
    assert store.source.image_size == 16 and store.source.dim == source.dim == DIM


def test_a_killed_extraction_goes_on_behind_its_last_batch(bench: Bench, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done >= 8:
            raise Killed

    with pytest.raises(Killed):
        bench.extract(progress=kill)
    assert bench.computed() == [4, 4]
    assert not list((tmp_path / "cache" / "features").glob("*.npy"))
    told: list[int] = []
    resumed = bench.extract(progress=lambda done, total: told.append(done))
    assert bench.computed() == [4, 1] and told == [12, 13]

    unbroken = extract_features(
        bench.corpus, tmp_path / "other", "resnet18", "none", data_root=tmp_path, image_size=16, batch_size=4
    )
    assert np.array_equal(resumed.array(), unbroken.array())
    assert resumed.path.name == unbroken.path.name
    assert not list(resumed.path.parent.glob("*.partial"))


def test_a_killed_extraction_of_a_grid_goes_on_behind_its_last_batch(bench: Bench, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done >= 8:
            raise Killed

    with pytest.raises(Killed):
        bench.extract(regions="grid", progress=kill)
    told: list[int] = []
    store = bench.extract(regions="grid", progress=lambda done, total: told.append(done))
    assert told == [12, 13]
    assert (store.source.regions, store.source.count, store.source.dim) == ("grid", 36, DIM)
    array = store.array()
    assert array.shape == (13, 36, DIM) and array.dtype == np.float32
    network, _ = backbones.load_backbone("resnet18", "none", bench.root, grid=6)
    assert bench.corpus.images is not None
    with torch.inference_mode():
        for row in (0, 7, 8, 12):
            one = network(normalised_pixels(bench.corpus.images[row], 16)[None])[0]
            np.testing.assert_allclose(array[row], one.numpy(), rtol=1e-4, atol=1e-6)
    regions = store.regions()
    assert (len(regions), regions.count, regions.dim) == (13, 36, DIM)
    assert isinstance(regions.maps[0], np.memmap) and np.array_equal(regions[7], array[7])


class Counted:
    """Images that count how often they are decoded."""

    def __init__(self, images: Any) -> None:
        self.images, self.decoded = images, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Any:
        self.decoded += 1
        return self.images[row]

    def fingerprint(self) -> str:
        found: str = self.images.fingerprint()
        return found


def test_one_pass_makes_the_vectors_and_the_grid_of_a_network(bench: Bench, tmp_path: Path) -> None:
    images = Counted(bench.corpus.images)
    corpus = replace(bench.corpus, images=images)
    vectors = bench.extract(corpus, with_grid=True)
    assert images.decoded == len(images) and bench.computed() == [4, 4, 4, 1]
    cells = bench.extract(corpus, regions="grid")
    assert images.decoded == len(images) and bench.computed() == []
    apart = extract_features(
        corpus, tmp_path / "apart", "resnet18", "none", data_root=tmp_path, image_size=16, batch_size=4
    )
    assert apart.path.name == vectors.path.name and np.array_equal(apart.array(), vectors.array())
    assert not (apart.path.parent / cells.path.name).exists(), "nobody has asked for the grid"
    alone = extract_features(
        corpus, tmp_path / "apart", "resnet18", "none", data_root=tmp_path, image_size=16, regions="grid"
    )
    np.testing.assert_allclose(alone.array(), cells.array(), rtol=1e-5, atol=1e-6)
    # The mean of the grid's cells is the mean of the map where the cells are of one size; here they overlap.
    assert cells.array().shape == (13, 36, DIM)


def test_who_asks_for_vectors_gets_them_where_the_network_has_no_map_for_a_grid(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise BadInput("no last feature map")

    monkeypatch.setattr(features, "load_with_grid", refuse)
    assert bench.extract(with_grid=True).array().shape == (13, DIM)
    with pytest.raises(BadInput, match="no last feature map"):
        bench.extract(regions="grid")


def test_a_store_that_is_there_is_not_made_again(bench: Bench) -> None:
    first = bench.extract()
    written = first.path.stat().st_mtime_ns
    again = bench.extract(batch_size=2)
    assert again == first and first.path.stat().st_mtime_ns == written
    assert bench.computed() == []


def test_two_processes_that_need_the_same_store_make_it_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = threading.Event(), threading.Event()
    original = features._extract

    def slow(*arguments: Any) -> None:
        started.set()
        assert go_on.wait(20)
        original(*arguments)

    monkeypatch.setattr(features, "_extract", slow)
    stores: list[FeatureStore] = []
    first = threading.Thread(target=lambda: stores.append(bench.extract()))
    second = threading.Thread(target=lambda: stores.append(bench.extract()))
    first.start()
    assert started.wait(20)
    started.clear()
    second.start()
    assert not started.wait(0.3), "the second one must wait for the first"
    go_on.set()
    first.join(20), second.join(20)
    assert len(stores) == 2 and stores[0].path == stores[1].path
    assert sorted(len(one.batches) for one in bench.made) == [0, 4]


@pytest.mark.parametrize(
    "change",
    [
        lambda bench: {"network": "resnet50"},
        lambda bench: {"image_size": 17},
        lambda bench: {"weights": saved_weights(bench.root / "w.pth")},
        lambda bench: {"image_fit": "squash"},
        lambda bench: {"regions": "grid"},
        lambda bench: {"corpus": bench.corpus.without_images([12])},
    ],
    ids=["network", "image size", "weights", "image fit", "regions", "data"],
)
def test_whatever_makes_other_features_makes_another_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: Callable[[Bench], dict[str, Any]]
) -> None:
    monkeypatch.setitem(classifiers.NETWORKS, "resnet50", TINY)
    first = bench.extract()
    other = bench.extract(**change(bench))
    assert other.path != first.path and other.path.is_file() and len(other.array()) >= 12


def test_extraction_leaves_the_random_states_alone(bench: Bench) -> None:
    torch.manual_seed(77)
    state = torch.random.get_rng_state()
    bench.extract()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_features_that_are_not_finite_name_the_row(bench: Bench) -> None:
    path = bench.root / "nan.pth"
    state = Tiny().state_dict()
    state["convolution.bias"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(BadInput, match="resnet18 outputs non-finite features from row 0; check its weights"):
        bench.extract(weights=str(path))


@pytest.mark.parametrize("workers", [False, True])
def test_an_unreadable_image_is_named_in_one_sentence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, workers: bool
) -> None:
    original = torch.utils.data.DataLoader

    def loader(*arguments: Any, **settings: Any) -> Any:
        return original(*arguments, **{**settings, "num_workers": int(workers)})

    monkeypatch.setattr(torch.utils.data, "DataLoader", loader)
    broken = bench.root / "flickr8k" / "images" / "0009.jpg"
    fakes.truncate(broken, 0.5)
    with pytest.raises(BadInput) as raised:
        bench.extract()
    assert str(raised.value).startswith(f"{broken} cannot be read as an image (")
    assert "\n" not in str(raised.value)
    assert bench.computed() == [4, 4]


def test_a_corpus_without_images(bench: Bench) -> None:
    with pytest.raises(BadInput, match="fake has no images to extract features from"):
        bench.extract(corpus=fakes.corpus())


def test_a_network_must_be_named_for_all_but_a_detector(bench: Bench) -> None:
    with pytest.raises(BadInput, match=r"flickr8k: no network is named to extract with; set NETWORK or"):
        bench.extract(network=None, regions="grid")


def test_a_cache_that_cannot_be_written_is_named(bench: Bench) -> None:
    (bench.root / "cache").write_text("a file where the folder should be")
    with pytest.raises(
        BadInput, match=r"cache/features cannot be written \(.*\); free space or choose another"
    ):
        bench.extract()


# ---- a whole run -----------------------------------------------------------------------------------------


def test_a_real_network_on_real_files(tmp_path: Path) -> None:
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 3, "test": 2}, suffix=".png"))
    corpus = Karpathy("flickr8k").read(tmp_path)
    store = extract_features(
        corpus, tmp_path / "cache", "mobilenet_v2", "none", data_root=tmp_path, image_size=32, batch_size=3
    )
    array = store.array()
    assert array.shape == (5, 1280) and np.isfinite(array).all()
    # Random weights too must give numbers that a network can be trained on.
    assert 0.01 < array.std(axis=0).mean() < 10
    note = json.loads(store.path.with_suffix(".json").read_text())
    assert note["done"] == 5 and note["network"] == "mobilenet_v2" and note["image_size"] == 32
