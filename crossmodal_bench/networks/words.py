"""One vector per word: a recurrent network over learned word vectors, its states packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmodal_bench.networks.packing import read_sentences


class WordStates(nn.Module):
    """Word vectors learned from scratch, and a GRU whose state after each word represents that word.

    As in VSE++, SCAN, BFAN and VSRN: word vectors are initialised uniformly in -0.1 ... 0.1, and the two
    directions of a bidirectional network are averaged.

    Args:
        vocabulary_size: words, including padding (0).
        embedding: width of the word vectors.
        dim: width of the states.
        bidirectional: whether the words are also read backwards.
    """

    def __init__(self, vocabulary_size: int, embedding: int, dim: int, bidirectional: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, embedding)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.recurrent = nn.GRU(embedding, dim, batch_first=True, bidirectional=bidirectional)

    def forward(self, words: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The states of all words and the last state of each caption, not normalised.

        Always in single precision at least: the states are ranked, and cuDNN's recurrent networks would
        otherwise run in half precision without the gradient scaling that it needs.

        Args:
            words: (B, L) ids, padded.
            lengths: (B,) from 1 to L, on the host.

        Returns:
            (sum of lengths, dim), caption by caption, and (B, dim).
        """
        with torch.autocast(words.device.type, enabled=False):
            read = read_sentences(self.recurrent, self.words(words), lengths)
            states = read.packed()
            if self.recurrent.bidirectional:
                forwards, backwards = states.chunk(2, dim=1)
                states = (forwards + backwards) / 2
            return states, read.last.mean(0)
