"""Features of a frozen network: right, cached by what made them, and resumable."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import fakes
import numpy as np
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from crossmodal_bench.data import Corpus, features
from crossmodal_bench.data.datasets import Karpathy
from crossmodal_bench.data.features import FeatureStore, extract_features, load_network
from crossmodal_bench.data.views import normalised_pixels
from crossmodal_bench.errors import BadInput, MissingInput

DIM = 5


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
        assert name in features.NETWORKS and weights is None
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


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    fakes.write_karpathy(tmp_path, entries=fakes.karpathy_entries({"train": 7, "val": 3, "test": 3}))
    made = Bench(Karpathy("flickr8k").read(tmp_path), tmp_path)
    monkeypatch.setattr(torchvision.models, "get_model", made.make)
    monkeypatch.setitem(features.NETWORKS, "resnet18", (features._resnet, DIM))
    return made


# ---- extraction -------------------------------------------------------------------------------------------


def test_batched_features_are_those_of_one_image_at_a_time(bench: Bench) -> None:
    told: list[tuple[int, int]] = []
    store = bench.extract(progress=lambda done, total: told.append((done, total)))
    array = store.array()
    assert array.shape == (13, DIM) and array.dtype == np.float32 and not array.flags.writeable
    assert told == [(4, 13), (8, 13), (12, 13), (13, 13)]
    network, source = load_network("resnet18", "none", bench.root)
    assert not network.training and not any(one.requires_grad for one in network.parameters())
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
        lambda bench: {"weights": str(save_weights(bench.root / "w.pth", seed=9))},
        lambda bench: {"corpus": bench.corpus.without_images([12])},
    ],
    ids=["network", "image size", "weights", "data"],
)
def test_whatever_makes_other_features_makes_another_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, change: Callable[[Bench], dict[str, Any]]
) -> None:
    monkeypatch.setitem(features.NETWORKS, "resnet50", (features._resnet, DIM))
    first = bench.extract()
    other = bench.extract(**change(bench))
    assert other.path != first.path and other.path.is_file() and sum(bench.computed()) >= 12


def test_extraction_leaves_the_random_states_alone(bench: Bench) -> None:
    torch.manual_seed(77)
    state = torch.random.get_rng_state()
    bench.extract()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_weights_are_the_same_everywhere(bench: Bench) -> None:
    torch.manual_seed(1)
    first = load_network("resnet18", "none", bench.root)[1]
    torch.manual_seed(2)
    assert load_network("resnet18", "none", bench.root)[1] == first
    assert first.weights == "none" and len(first.weights_sha256) == 16


def test_random_weights_let_signals_through_a_deep_network() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU6()) for _ in range(12)]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *blocks).eval()
    pixels = torch.randn(5, 3, 64, 64)
    before = network(pixels).std(dim=0).mean()
    features._calibrate(network)
    assert before < 1e-3
    assert 0.1 < network.eval()(pixels).std(dim=0).mean() < 10


def test_features_that_are_not_finite_name_the_row(bench: Bench) -> None:
    path = bench.root / "nan.pth"
    state = Tiny().state_dict()
    state["convolution.bias"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(BadInput, match="resnet18 gives non-finite features from row 0; check its weights"):
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


def test_a_cache_that_cannot_be_written_is_named(bench: Bench) -> None:
    (bench.root / "cache").write_text("a file where the folder should be")
    with pytest.raises(
        BadInput, match=r"cache/features cannot be written \(.*\); free space or choose another"
    ):
        bench.extract()


# ---- weights ----------------------------------------------------------------------------------------------


def save_weights(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    torch.save(Tiny().state_dict(), path)
    return path


def test_weights_by_path_are_the_ones_that_are_used(bench: Bench) -> None:
    path = save_weights(bench.root / "mine.pth", seed=9)
    network, source = load_network("resnet18", str(path), bench.root)
    assert torch.equal(network.state_dict()["convolution.bias"], torch.load(path)["convolution.bias"])
    assert source.weights == "mine.pth"
    copy = bench.root / "copy.pth"
    copy.write_bytes(path.read_bytes())
    assert load_network("resnet18", str(copy), bench.root)[1].weights_sha256 == source.weights_sha256
    other = save_weights(bench.root / "other.pth", seed=10)
    assert load_network("resnet18", str(other), bench.root)[1].weights_sha256 != source.weights_sha256


def test_a_checkpoint_that_wraps_its_state_dict(bench: Bench) -> None:
    plain = save_weights(bench.root / "plain.pth", seed=9)
    wrapped = bench.root / "wrapped.pth"
    torch.save({"state_dict": torch.load(plain), "epoch": 3}, wrapped)
    digests = {load_network("resnet18", str(path), bench.root)[1].weights_sha256 for path in (plain, wrapped)}
    assert len(digests) == 1


def test_auto_finds_the_weights_of_that_network_below_the_data_root(bench: Bench) -> None:
    save_weights(bench.root / "weights" / "resnet50-0001.pth", seed=1)
    save_weights(bench.root / "weights" / "resnet18_imagenet.pth", seed=9)
    source = load_network("resnet18", "auto", bench.root)[1]
    by_path = load_network("resnet18", str(bench.root / "weights" / "resnet18_imagenet.pth"), bench.root)[1]
    assert source == by_path and source.weights == "resnet18_imagenet.pth"


class Download:
    """Torchvision's default weights, or their server being out of reach."""

    def __init__(self, outcome: Exception | None) -> None:
        self.outcome = outcome

    def get_state_dict(self, **_: Any) -> dict[str, Tensor]:
        if self.outcome is not None:
            raise self.outcome
        torch.manual_seed(5)
        return Tiny().state_dict()

    def __str__(self) -> str:
        return "ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.parametrize("weights", ["auto", "DEFAULT"])
def test_without_a_file_torchvisions_own_weights_are_used(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: {"DEFAULT": Download(None)})
    source = load_network("resnet18", weights, bench.root)[1]
    assert source.weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert source.weights_sha256 != load_network("resnet18", "none", bench.root)[1].weights_sha256


@pytest.mark.parametrize(
    "outcome", [URLError("no route to host"), RuntimeError('invalid hash value (expected "x")')]
)
def test_weights_that_cannot_be_downloaded_say_where_to_put_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, outcome: Exception
) -> None:
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: {"DEFAULT": Download(outcome)})
    with pytest.raises(MissingInput) as raised:
        load_network("resnet18", "auto", bench.root)
    message = str(raised.value)
    assert message.startswith(f"{bench.root / 'weights' / 'resnet18'}_*.pth is missing")
    assert "WEIGHTS=none" in message and "\n" not in message


def write_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"convolution.bias": [1, 2]}, protocol=2))


def write_code(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "are missing; give the path of a resnet18 state dict, DEFAULT or none"),
    "text": (lambda path: path.write_text("<html>"), "cannot be read as weights; it must be a state dict"),
    "pickle": (write_pickle, "cannot be read as weights; it must be a state dict"),
    "whole model": (write_code, "cannot be read as weights; it must be a state dict"),
    "list": (lambda path: torch.save([1, 2], path), "holds no weights of resnet18 ("),
    "numbered": (lambda path: torch.save({1: torch.zeros(2)}, path), "holds no weights of resnet18 ("),
    "another network": (
        lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
        "holds no weights of resnet18 (",
    ),
    "another shape": (
        lambda path: torch.save({**Tiny().state_dict(), "fc.bias": torch.zeros(9)}, path),
        "holds no weights of resnet18 (",
    ),
    "truncated": (lambda path: fakes.truncate(save_weights(path, 1)), "cannot be read as weights"),
}


@pytest.mark.parametrize(("write", "expected"), WRONG.values(), ids=WRONG)
def test_weights_that_are_none(bench: Bench, write: Callable[[Path], object], expected: str) -> None:
    path = bench.root / "w.pth"
    write(path)
    with pytest.raises(BadInput) as raised:
        load_network("resnet18", str(path), bench.root)
    assert str(path) in str(raised.value) and expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_network_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"network 'resnet51' is unknown; did you mean 'resnet\d+'\?"):
        load_network("resnet51", "none", tmp_path)


# ---- torchvision's own networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", features.NETWORKS)
def test_what_is_left_of_a_network_gives_features_of_the_width_that_is_said(name: str) -> None:
    cut, dim = features.NETWORKS[name]
    with torch.device("meta"):  # shapes only: nobody wants to wait for half a gigabyte of random weights
        network = cut(torchvision.models.get_model(name, weights=None)).eval()
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, dim)


def test_vgg19_stops_behind_the_relu_of_fc7() -> None:
    with torch.device("meta"):
        network: Any = features.NETWORKS["vgg19"][0](torchvision.models.get_model("vgg19", weights=None))
    kinds = [type(layer).__name__ for layer in network.classifier]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU"]


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
