"""Sentences are read as torch's own packing of unsorted sequences reads them, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from crossmodal_bench.networks.packing import read_sentences


def plainly(network: nn.GRU | nn.LSTM, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Last states, padded states and packed ones."""
    packed = pack_padded_sequence(words, lengths, batch_first=True, enforce_sorted=False)
    outputs, state = network(packed)
    padded, _ = pad_packed_sequence(outputs, batch_first=True)
    real = torch.arange(padded.shape[1]) < lengths[:, None]
    return state[0] if isinstance(state, tuple) else state, padded, padded[real]


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_and_gradients_are_those_of_torchs_packing(
    kind: type[nn.GRU | nn.LSTM], bidirectional: bool
) -> None:
    torch.manual_seed(0)
    network = kind(4, 5, batch_first=True, bidirectional=bidirectional)
    words, lengths = torch.randn(6, 7, 4), torch.tensor([3, 5, 1, 5, 2, 3])
    read = read_sentences(network, words, lengths)
    mine = (read.last, read.padded(), read.packed())
    theirs = plainly(network, words, lengths)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    weights = list(network.parameters())
    gradients = [
        torch.autograd.grad(sum((part**2).sum() for part in parts), weights) for parts in (mine, theirs)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
