"""Torchvision's networks as backbones: which weights are loaded, and what is said where none can be."""

from __future__ import annotations

import pickle
import sys
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
from crossmodal_bench.networks import backbones, classifiers
from crossmodal_bench.networks.backbones import load_backbone

DIM = 5
TINY = classifiers.Network(classifiers._resnet, DIM, classifiers._stages, DIM)


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
    monkeypatch.setitem(classifiers.NETWORKS, "resnet18", TINY)
    return tmp_path


def test_it_can_be_trained(root: Path) -> None:
    network, source = load_backbone("resnet18", "none", root)
    assert all(one.requires_grad for one in network.parameters())
    assert source.dim == network(torch.zeros(2, 3, 8, 8)).shape[1] == DIM


def test_a_grid_is_the_feature_map_averaged_cell_by_cell_row_after_row(root: Path) -> None:
    network, source = load_backbone("resnet18", "none", root, grid=2)
    assert isinstance(network, classifiers.Grid) and source.dim == DIM
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
        BadInput, match=r"'IMAGENET1K_V3' are none of torchvision's for resnet50; use IMAGENET1K_V1"
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
    "list": (
        lambda path: torch.save([1, 2], path),
        "does not hold the weights of resnet18 (it holds no named tensors)",
    ),
    "numbered": (
        lambda path: torch.save({1: torch.zeros(2)}, path),
        "does not hold the weights of resnet18 (it holds no named tensors)",
    ),
    "another network": (
        lambda path: torch.save(nn.Linear(2, 2).state_dict(), path),
        "does not hold the weights of resnet18 (it lacks 'convolution.weight' and 1 more)",
    ),
    "a deeper network": (
        lambda path: torch.save({**Tiny().state_dict(), "convolution2.bias": torch.zeros(5)}, path),
        "does not hold the weights of resnet18 (it holds 'convolution2.bias', which that network lacks)",
    ),
    "two networks": (
        lambda path: torch.save(
            {f"{part}.{key}": value for part in "qk" for key, value in Tiny().state_dict().items()}, path
        ),
        "does not hold the weights of resnet18 (it holds several networks, under 'q.' and 'k.': keep one)",
    ),
    "another shape": (
        lambda path: torch.save({**Tiny().state_dict(), "convolution.bias": torch.zeros(9)}, path),
        "does not hold the weights of resnet18 (its 'convolution.bias' is 9, not 5)",
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


# ---- networks beyond the six of the papers --------------------------------------------------------------


OTHERS = {
    "alexnet": (4096, 256),
    "convnext_tiny": (768, 768),
    "densenet121": (1024, 1024),
    "efficientnet_b0": (1280, 1280),
    "googlenet": (1024, 1024),
    "inception_v3": (2048, 2048),
    "maxvit_t": (512, None),
    "mnasnet0_5": (1280, 1280),
    "mobilenet_v3_small": (1024, 576),
    "resnext50_32x4d": (2048, 2048),
    "shufflenet_v2_x0_5": (1024, 1024),
    "squeezenet1_1": (512, 512),
    "swin_t": (768, 768),
    "vgg16_bn": (4096, 512),
    "vit_b_32": (768, None),
    "wide_resnet50_2": (2048, 2048),
}
"""Width of the vector and of the last feature map, by one network of each family of torchvision."""


QUICK = ("alexnet", "convnext_tiny", "squeezenet1_1", "vit_b_32")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in OTHERS]
)
def test_any_network_of_torchvision_gives_what_its_classifier_reads(name: str) -> None:
    dim, map_dim = OTHERS[name]
    quick = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        network: Any = torchvision.models.get_model(name, weights=None, **quick).eval()
        classifier = network.state_dict().keys()
        pooled, width = classifiers.without_classifier(network, name)
        assert width == dim and pooled(torch.zeros(2, 3, 224, 224)).shape == (2, dim)
        assert pooled.train()(torch.zeros(2, 3, 224, 224)).shape == (2, dim), (
            "nothing half-way, in training either"
        )
        gone = set(classifier) - pooled.state_dict().keys()
        whole: Any = torchvision.models.get_model(name, weights=None, **quick).eval()
        assert all(key.startswith(classifiers.head_keys(whole, name)) for key in gone)
        if map_dim is None:
            with pytest.raises(BadInput, match=f"network '{name}' has no last feature map"):
                classifiers.last_map(whole, name)
        else:
            maps, channels = classifiers.last_map(whole, name)
            assert channels == map_dim and maps(torch.zeros(2, 3, 224, 224)).shape[:2] == (2, map_dim)


@pytest.mark.slow  # three real networks
def test_the_last_map_is_what_the_vector_is_the_mean_of() -> None:
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    for name in ("regnet_y_400mf", "shufflenet_v2_x0_5", "densenet121"):
        vector, maps = (
            cut(torchvision.models.get_model(name, weights=None).eval(), name)[0]
            for cut in (
                lambda network, name: classifiers.without_classifier(seeded(network), name),
                lambda network, name: classifiers.last_map(seeded(network), name),
            )
        )
        assert torch.allclose(maps(pixels).mean((2, 3)), vector(pixels), atol=1e-5)


def seeded(network: nn.Module) -> nn.Module:
    """The network with weights that are the same at every call."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.05, generator=generator)
    return network


def test_inception_is_given_the_pixels_that_it_knows(tmp_path: Path) -> None:
    network: Any = load_backbone("googlenet", "none", tmp_path)[0]
    assert network.transform_input and network.aux1 is None
    assert network.train()(torch.zeros(2, 3, 64, 64)).shape == (2, 1024)


def test_a_vision_transformer_takes_the_size_that_its_weights_are_for() -> None:
    known = torchvision.models.get_model_weights("vit_b_16").__members__
    assert backbones._settings_for("vit_b_16", known["IMAGENET1K_SWAG_E2E_V1"]) == {"image_size": 384}
    assert backbones._settings_for("vit_b_16", known["IMAGENET1K_V1"]) == {"image_size": 224}
    assert backbones._settings_for("resnet18", known["IMAGENET1K_V1"]) == {}


@pytest.fixture
def timm_network(tmp_path: Path) -> Any:
    timm = pytest.importorskip("timm")
    network = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=10)
    torch.save({"model": network.state_dict()}, tmp_path / "mine.pth")
    return network


def test_a_network_of_timm_reads_pixels_normalised_as_its_own_weights_were(
    timm_network: Any, tmp_path: Path
) -> None:
    name = "timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    network, source = load_backbone(name, str(tmp_path / "mine.pth"), tmp_path)
    assert (source.network, source.weights, source.dim) == (name, "mine.pth", 192)
    pixels = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    ours = (pixels - torch.tensor(classifiers.MEAN).view(3, 1, 1)) / torch.tensor(classifiers.STD).view(
        3, 1, 1
    )
    with torch.inference_mode():
        theirs = timm_network.eval().forward_head(
            timm_network.forward_features((pixels - 0.5) / 0.5), pre_logits=True
        )
        assert torch.allclose(network(ours), theirs, atol=1e-4)


def test_a_grid_of_timm_has_its_channels_last_or_first(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    for name, channels in (("timm:test_resnet", 96), ("timm:swin_tiny_patch4_window7_224", 768)):
        cells, source = load_backbone(name, "none", tmp_path, grid=2)
        assert source.dim == channels and cells(torch.zeros(1, 3, 224, 224)).shape == (1, 4, channels)
    with pytest.raises(BadInput, match="'timm:vit_tiny_patch16_224' has no last feature map"):
        load_backbone("timm:vit_tiny_patch16_224", "none", tmp_path, grid=2)


@pytest.mark.parametrize(
    ("name", "weights", "sentence"),
    [
        ("timm:resnet188", "none", r"network 'timm:resnet188' is unknown; did you mean"),
        (
            "timm:resnet18.nonsense",
            "none",
            r"'timm:resnet18.nonsense' cannot be created \(Invalid pretrained tag",
        ),
        ("timm:resnet18", "IMAGENET1K_V1", r"are torchvision's; timm's are selected by the network's name"),
        ("timm:resnet18.a1_in1k", "DEFAULT", r"resnet18\.a1_in1k_\*\.pth, or pass WEIGHTS=path"),
    ],
)
def test_what_timm_cannot_give_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, weights: str, sentence: str
) -> None:
    timm = pytest.importorskip("timm")
    make = timm.create_model

    def offline(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        if pretrained:
            raise OSError("no route to host")
        network: nn.Module = make(name, pretrained=pretrained, num_classes=num_classes)
        return network

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BadInput, match=sentence):
        load_backbone(name, weights, tmp_path)


def test_without_timm_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(BadInput, match=r"pip install 'crossmodal-bench\[timm\]'"):
        load_backbone("timm:resnet18", "none", tmp_path)


# ---- torchvision's own networks ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", classifiers.NETWORKS)
def test_what_is_left_of_a_network_gives_features_of_the_width_that_is_said(name: str) -> None:
    known = classifiers.NETWORKS[name]
    with torch.device("meta"):  # shapes only: nobody wants to wait for half a gigabyte of random weights
        network = known.pooled(torchvision.models.get_model(name, weights=None)).eval()
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, known.dim)
        cells = classifiers.Grid(known.last_map(torchvision.models.get_model(name, weights=None)), 3).eval()
        assert cells(torch.zeros(2, 3, 224, 224)).shape == (2, 9, known.map_dim)
        assert cells.network(torch.zeros(2, 3, 224, 224)).shape == (2, known.map_dim, 7, 7)


def test_vgg19_stops_behind_the_relu_of_fc7() -> None:
    with torch.device("meta"):
        network: Any = classifiers.NETWORKS["vgg19"].pooled(
            torchvision.models.get_model("vgg19", weights=None)
        )
    kinds = [type(layer).__name__ for layer in network.classifier]
    assert kinds == ["Linear", "ReLU", "Dropout", "Linear", "ReLU"]
