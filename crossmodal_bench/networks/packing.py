"""Recurrent networks over padded sentences whose lengths are on the host, so no step waits for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from crossmodal_bench.core.host import sent


@dataclass(frozen=True)
class SentenceStates:
    """The states of a recurrent network that has read B sentences.

    last: (layers and directions, B, D) after each sentence's last word. outputs: the states after every word,
    time step by time step, with sentences from long to short. lengths: (B,). places: (B,) position of each
    sentence in that order. The latter two are on the host.
    """

    last: Tensor
    outputs: PackedSequence
    lengths: Tensor
    places: Tensor

    def packed(self) -> Tensor:
        """(sum of lengths, D) states, sentence by sentence."""
        sizes = self.outputs.batch_sizes
        rows = (sizes.cumsum(0) - sizes) + self.places[:, None]
        rows = rows[torch.arange(len(sizes)) < self.lengths[:, None]]
        return self.outputs.data.index_select(0, sent(rows, self.outputs.data.device))

    def padded(self) -> Tensor:
        """(B, longest, D) states, 0 after the end of each sentence."""
        states, _ = pad_packed_sequence(self.outputs, batch_first=True)
        return states.index_select(0, sent(self.places, states.device))


def read_sentences(network: nn.GRU | nn.LSTM, words: Tensor, lengths: Tensor) -> SentenceStates:
    """Run the network over (B, L, W) padded word vectors of sentences of ``lengths`` (B,).

    Like torch's packing of unsorted sequences, but that copies the order to the device and back, and waits.

    Args:
        network: with batch_first.
        words: on any device.
        lengths: from 1 to L; on the host.
    """
    lengths = lengths.cpu()
    ordered, order = torch.sort(lengths, descending=True)
    places = order.argsort()
    packed = pack_padded_sequence(words.index_select(0, sent(order, words.device)), ordered, batch_first=True)
    outputs, state = network(packed)
    last = state[0] if isinstance(state, tuple) else state
    return SentenceStates(last.index_select(1, sent(places, last.device)), outputs, lengths, places)
