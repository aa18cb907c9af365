from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from crossmodal_bench.networks import Perceptron


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("last", ["tanh", "relu", "identity"])
def test_is_the_product_of_its_layers(activation: Any, last: Any) -> None:
    torch.manual_seed(0)
    network = Perceptron((5, 4, 3, 2), activation, last)
    x = torch.randn(6, 5)
    functions = {"tanh": torch.tanh, "relu": torch.relu, "identity": lambda value: value}
    expected = x
    linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linear):
        expected = functions[last if i == 2 else activation](expected @ layer.weight.T + layer.bias)
    torch.testing.assert_close(network(x), expected)


def test_weights_are_the_matrices_only() -> None:
    network = Perceptron((5, 4, 3), standardise=True, dropout=0.5)
    assert [tuple(weight.shape) for weight in network.weights()] == [(4, 5), (3, 4)]
    assert all(
        a is b
        for a, b in zip(network.weights(), [p for p in network.parameters() if p.ndim == 2], strict=True)
    )


def test_dropout_is_between_layers_and_in_training_only() -> None:
    torch.manual_seed(0)
    network = Perceptron((5, 64, 64, 40), "relu", "identity", dropout=0.5)
    kinds = [type(layer) for layer in network.layers]
    assert kinds.count(nn.Dropout) == 2
    assert kinds[-2] is nn.Linear, "the output is never dropped"
    x = torch.randn(3, 5)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_no_dropout_by_default() -> None:
    network = Perceptron((5, 4, 3))
    x = torch.randn(3, 5)
    assert torch.equal(network(x), network(x))


def test_standardising_takes_out_scale_and_offset_without_parameters() -> None:
    torch.manual_seed(0)
    plain, standard = Perceptron((5, 4, 3)), Perceptron((5, 4, 3), standardise=True)
    assert sum(p.numel() for p in plain.parameters()) == sum(p.numel() for p in standard.parameters())
    x = torch.randn(64, 5)
    torch.testing.assert_close(standard(x), standard(1000 * x + 50), rtol=1e-3, atol=1e-4)
    # Outside training the running statistics count: a row's output has nothing to do with its batch.
    standard.eval()
    torch.testing.assert_close(standard(x)[:3], standard(x[:3]))
