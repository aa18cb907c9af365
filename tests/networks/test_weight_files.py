"""State dicts as people have them are loaded; others name the key that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.networks.weight_files import fit_state, load_state

State = dict[str, Tensor]
HEAD = ("fc.",)


class Network(nn.Module):
    """A body with batch statistics, and a classifier of some classes."""

    def __init__(self, classes: int = 7) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5)
        self.fc = nn.Linear(5, classes)


def trained() -> State:
    torch.manual_seed(4)
    network = Network()
    network.norm.running_mean.add_(3)  # type: ignore[union-attr]
    return network.state_dict()


WAYS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "DataParallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "torch.compile": lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
    "a key model": lambda state: {"model": state, "epoch": 1, "optimizer": {"lr": 0.1}},
    "a key state_dict": lambda state: {"state_dict": state, "best_acc1": torch.tensor(70.0)},
    "both": lambda state: {"model": {f"module.{key}": value for key, value in state.items()}},
    "a whole model around it": lambda state: {
        "state_dict": {
            **{f"model.image_encoder.{key}": value for key, value in state.items()},
            "model.text_encoder.embedding": torch.zeros(3),
        }
    },
    "another number of classes": lambda state: {**state, **head(21)},
    "no classifier": lambda state: {key: value for key, value in state.items() if not key.startswith("fc.")},
    "one of two layers": lambda state: {**state, "fc.0.weight": torch.zeros(3, 3)},
    "no count of batches": lambda state: {
        key: value for key, value in state.items() if not key.endswith("num_batches_tracked")
    },
}


def head(classes: int) -> State:
    return {"fc.weight": torch.zeros(classes, 5), "fc.bias": torch.zeros(classes)}


@pytest.mark.parametrize("way", WAYS)
def test_the_body_is_loaded_however_it_was_saved(tmp_path: Path, way: str) -> None:
    state = trained()
    path = tmp_path / "weights.pth"
    torch.save(WAYS[way](state), path)
    network = Network()
    load_state(network, path, "tiny", HEAD)
    for key, value in network.state_dict().items():
        if not key.startswith("fc.") and not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key]), key


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(trained(), tmp_path / "weights.safetensors")
    network = Network()
    load_state(network, tmp_path / "weights.safetensors", "tiny")
    assert torch.equal(network.fc.bias, trained()["fc.bias"])
    (tmp_path / "weights.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BadInput, match=r"weights\.safetensors cannot be read as weights"):
        load_state(network, tmp_path / "weights.safetensors", "tiny")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (lambda state: {**state, "norm.bias": torch.zeros(9)}, "its 'norm.bias' is 9, not 5"),
        (
            lambda state: {f"module.{key}": value for key, value in state.items() if key != "norm.weight"},
            "it lacks 'module.norm.weight'",
        ),
        (
            lambda state: {**state, "norm2.bias": torch.zeros(5)},
            "it holds 'norm2.bias', which that network lacks",
        ),
        (lambda state: {}, "it holds no named tensors"),
        (lambda state: {"model": {"model": {"model": {"model": state}}}}, "it holds no named tensors"),
        (lambda state: [state], "it holds no named tensors"),
        (
            lambda state: {f"{part}.{key}": value for part in ("q", "k") for key, value in state.items()},
            "it holds several networks, under 'q.' and 'k.': keep one",
        ),
    ],
)
def test_what_is_wrong_is_named(state: Callable[[State], Any], reason: str) -> None:
    with pytest.raises(BadInput) as raised:
        fit_state(Network(), state(trained()), "w.pth", "tiny", HEAD)
    assert str(raised.value) == f"w.pth does not hold the weights of tiny ({reason}); name the right file"


def test_a_classifier_that_is_needed_must_fit() -> None:
    with pytest.raises(BadInput, match=r"its 'fc\.weight' is 21 x 5, not 7 x 5"):
        fit_state(Network(), {**trained(), **head(21)}, "w.pth", "tiny")


def test_old_names_of_densenet_are_read() -> None:
    network = nn.ModuleDict({"denselayer1": nn.ModuleDict({"norm1": nn.BatchNorm2d(2)})})
    state = {key.replace("norm1", "norm.1"): value + 1 for key, value in network.state_dict().items()}
    fit_state(network, state, "w.pth", "densenet")
    assert network.state_dict()["denselayer1.norm1.bias"].tolist() == [1.0, 1.0]
