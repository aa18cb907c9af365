"""Torchvision's networks as backbones: which weights are loaded, and what is said where none can be."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import fakes
import pytest
import torch
import torchvision.models
from torch import Tensor, nn

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.networks import backbones
from crossmodal_bench.networks.backbones import load_backbone

DIM = 5
TINY = backbones.Network(backbones._resnet, DIM, backbones._stages, DIM)


class Tiny(nn.Module):
    """Stands in for a torchvision network: a convolution, a pooling and a classifier that is cut off."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, DIM, 3)
        self.fc: nn.Module = nn.Linear(DIM, 7)

    def forward(self, pixels: Tensor) -> Tensor:
        found: Tensor = self.fc(self.convolution(pixels).mean((2, 3)))
        return found


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, with a tiny network under the name of a large one."""
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: Tiny())
    monkeypatch.setitem(backbones.NETWORKS, "resnet18", TINY)
    return tmp_path


def test_it_can_be_trained(root: Path) -> None:
    network, source = load_backbone("resnet18", "none", root)
    assert all(one.requires_grad for one in network.parameters())
    assert source.dim == network(torch.zeros(2, 3, 8, 8)).shape[1] == DIM


def test_a_grid_is_the_feature_map_averaged_cell_by_cell_row_after_row(root: Path) -> None:
    network, source = load_backbone("resnet18", "none", root, grid=2)
    assert isinstance(network, backbones.Grid) and source.dim == DIM
    pixels = torch.randn(2, 3, 10, 10)  # a map of 8 x 8
    cells, whole = network(pixels), network.network(pixels)
    assert cells.shape == (2, 4, DIM)
    for cell, (row, column) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        expected = whole[:, :, row : row + 4, column : column + 4].mean((2, 3))
        torch.testing.assert_close(cells[:, cell], expected)
    assert load_backbone("resnet18", "none", root)[1].weights_sha256 == source.weights_sha256


def test_random_weights_are_the_same_everywhere(root: Path) -> None:
    torch.manual_seed(1)
    first = load_backbone("resnet18", "none", root)[1]
    torch.manual_seed(2)
    assert load_backbone("resnet18", "none", root)[1] == first
    assert first.weights == "none" and len(first.weights_sha256) == 16


def test_random_weights_let_signals_through_a_deep_network() -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU6()) for _ in range(12)]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), *blocks).eval()
    pixels = torch.randn(5, 3, 64, 64)
    before = network(pixels).std(dim=0).mean()
    backbones._calibrate(network)
    assert before < 1e-3
    assert {norm.momentum for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)} == {0.1}
    assert 0.1 < network.eval()(pixels).std(dim=0).mean() < 10


# ---- weights ----------------------------------------------------------------------------------------------


def save_weights(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    torch.save(Tiny().state_dict(), path)
    return path


def test_weights_by_path_are_the_ones_that_are_used(root: Path) -> None:
    path = save_weights(root / "mine.pth", seed=9)
    network, source = load_backbone("resnet18", str(path), root)
    assert torch.equal(network.state_dict()["convolution.bias"], torch.load(path)["convolution.bias"])
    assert source.weights == "mine.pth"
    copy = root / "copy.pth"
    copy.write_bytes(path.read_bytes())
    assert load_backbone("resnet18", str(copy), root)[1].weights_sha256 == source.weights_sha256
    other = save_weights(root / "other.pth", seed=10)
    assert load_backbone("resnet18", str(other), root)[1].weights_sha256 != source.weights_sha256


def test_a_checkpoint_that_wraps_its_state_dict(root: Path) -> None:
    plain = save_weights(root / "plain.pth", seed=9)
    wrapped = root / "wrapped.pth"
    torch.save({"state_dict": torch.load(plain), "epoch": 3}, wrapped)
    digests = {load_backbone("resnet18", str(path), root)[1].weights_sha256 for path in (plain, wrapped)}
    assert len(digests) == 1


def test_auto_finds_the_weights_of_that_network_below_the_data_root(root: Path) -> None:
    save_weights(root / "weights" / "resnet50-0001.pth", seed=1)
    save_weights(root / "weights" / "resnet18_imagenet.pth", seed=9)
    source = load_backbone("resnet18", "auto", root)[1]
    by_path = load_backbone("resnet18", str(root / "weights" / "resnet18_imagenet.pth"), root)[1]
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

    url = "https://download.example/models/resnet18-f37072fd.pth"

    def __str__(self) -> str:
        return "ResNet18_Weights.IMAGENET1K_V1"


def offer(monkeypatch: pytest.MonkeyPatch, weights: Download) -> None:
    """Let torchvision have these weights of every network, and no others."""
    enumeration = SimpleNamespace(__members__={"IMAGENET1K_V1": weights, "DEFAULT": weights})
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: enumeration)


@pytest.mark.parametrize("weights", ["auto", "DEFAULT", "IMAGENET1K_V1"])
def test_without_a_file_torchvisions_own_weights_are_used(
    root: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    offer(monkeypatch, Download(None))
    source = load_backbone("resnet18", weights, root)[1]
    assert source.weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert source.weights_sha256 != load_backbone("resnet18", "none", root)[1].weights_sha256


@pytest.mark.parametrize(
    "outcome", [URLError("no route to host"), RuntimeError('invalid hash value (expected "x")')]
)
def test_weights_that_cannot_be_downloaded_say_where_to_put_them(
    root: Path, monkeypatch: pytest.MonkeyPatch, outcome: Exception
) -> None:
    offer(monkeypatch, Download(outcome))
    with pytest.raises(MissingInput) as raised:
        load_backbone("resnet18", "auto", root)
    message = str(raised.value)
    assert message.startswith(f"{root / 'weights' / 'resnet18-f37072fd.pth'} is missing")
    assert f"{root / 'weights' / 'resnet18'}_*.pth" in message
    assert "WEIGHTS=none" in message and "\n" not in message


def test_weights_by_name_that_are_missing_are_one_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Download(URLError("no route to host")))
    save_weights(root / "weights" / "resnet18_mine.pth", seed=8)
    with pytest.raises(MissingInput) as raised:
        load_backbone("resnet18", "IMAGENET1K_V1", root)
    message = str(raised.value)
    assert message.startswith(f"{root / 'weights' / 'resnet18-f37072fd.pth'} is missing")
    assert f"put {Download.url} there" in message and "WEIGHTS=path" in message
    assert "_*.pth" not in message, "a file of another name would not be taken"


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1"])
def test_weights_by_name_are_taken_from_the_data_root_where_their_file_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    offer(monkeypatch, Download(URLError("no route to host")))
    path = save_weights(root / "weights" / "resnet18-f37072fd.pth", seed=9)
    # A file of the user's own is what `auto` means, and no name.
    save_weights(root / "weights" / "resnet18_mine.pth", seed=8)
    source = load_backbone("resnet18", weights, root)[1]
    assert source.weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert source.weights_sha256 == load_backbone("resnet18", str(path), root)[1].weights_sha256
    assert load_backbone("resnet18", "auto", root)[1].weights == "resnet18_mine.pth"


def test_a_name_that_torchvision_has_not_is_told_with_those_that_it_has(root: Path) -> None:
    with pytest.raises(
        BadInput, match=r"'IMAGENET1K_V3' are none of torchvision's for resnet50; give IMAGENET1K_V1"
    ):
        load_backbone("resnet50", "IMAGENET1K_V3", root)


def test_the_first_weights_of_a_resnet_can_be_asked_for() -> None:
    known = torchvision.models.get_model_weights("resnet152").__members__
    assert str(known["IMAGENET1K_V1"]) == "ResNet152_Weights.IMAGENET1K_V1"
    assert known["DEFAULT"] != known["IMAGENET1K_V1"]


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
def test_weights_that_are_none(root: Path, write: Callable[[Path], object], expected: str) -> None:
    path = root / "w.pth"
    write(path)
    with pytest.raises(BadInput) as raised:
        load_backbone("resnet18", str(path), root)
    assert str(path) in str(raised.value) and expected in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_network_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"network 'resnet51' is unknown; did you mean 'resnet\d+'\?"):
        load_backbone("resnet51", "none", tmp_path)


# ---- torchvision's own networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", backbones.NETWORKS)
def test_what_is_left_of_a_network_gives_features_of_the_width_that_is_said(name: str) -> None:
    known = backbones.NETWORKS[name]
    with torch.device("meta"):  # shapes only: nobody wants to wait for half a gigabyte of random weights
        network = known.pooled(torchvision.models.get_model(name, weights=None)).eval()
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, known.dim)
        cells = backbones.Grid(known.last_map(torchvision.models.get_model(name, weights=None)), 3).eval()
        assert cells(torch.zeros(2, 3, 224, 224)).shape == (2, 9, known.map_dim)
        assert cells.network(torch.zeros(2, 3, 224, 224)).shape == (2, known.map_dim, 7, 7)


def test_vgg19_stops_behind_the_relu_of_fc7() -> None:
    with torch.device("meta"):
        network: Any = backbones.NETWORKS["vgg19"].pooled(torchvision.models.get_model("vgg19", weights=None))
    kinds = [type(layer).__name__ for layer in network.classifier]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU"]
