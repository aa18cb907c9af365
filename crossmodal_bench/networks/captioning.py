"""Captions generated from regions: VSRN's second task (Li et al., ICCV 2019, section 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal_bench.core.host import sent, unpadded_positions

PADDING = 0


class CaptionGenerator(nn.Module):
    """A GRU over the regions, and a GRU that attends to its states and writes the caption.

    As in VSRN's code, which takes it from video captioning (S2VT, Venugopalan et al., ICCV 2015, plus
    attention). Each step reads the previous word and the regions' states, weighted by
    softmax(w tanh(W [state of a region, own state] + b)); the initial own state is the last one of the
    regions. Its word vectors are its own, not those of the matching.

    Args:
        vocabulary_size: words, including padding (0).
        region_dim: width of the regions.
        hidden: units of both GRUs and of the attention.
        embedding: width of the word vectors.
        dropout: on the regions and on each step's input, 0.2 as in the authors' code. That code's other
            dropout, between the layers of a GRU, has no effect: there is only one layer.
    """

    def __init__(
        self,
        vocabulary_size: int,
        region_dim: int,
        hidden: int = 512,
        embedding: int = 300,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(region_dim, hidden)
        self.reader = nn.GRU(hidden, hidden, batch_first=True)
        self.words = nn.Embedding(vocabulary_size, embedding)
        self.attention = nn.Linear(2 * hidden, hidden)
        self.attention_score = nn.Linear(hidden, 1, bias=False)
        self.writer = nn.GRUCell(embedding + hidden, hidden)
        self.out = nn.Linear(hidden, vocabulary_size)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.projection, self.attention, self.attention_score, self.out):
            nn.init.xavier_normal_(layer.weight)

    def forward(self, regions: Tensor, words: Tensor) -> Tensor:
        """Log probabilities (B, L, vocabulary) of the next word after each given one.

        Args:
            regions: (B, R, region_dim).
            words: (B, L) ids, starting with the start token.
        """
        with torch.autocast(regions.device.type, enabled=False):
            return F.log_softmax(self.out(self._states(regions, words)), dim=2)

    def loss(self, regions: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """The captions' negative log likelihood, summed over words and divided by B (VSRN's section 3.4).

        Every word but the first is a target, and so is one padding word after the last, as in the authors'
        code, whose mask covers the first zero too. That code always unrolls 59 steps and truncates captions
        of more than 60 words; ours unrolls to the longest caption of the batch and truncates none. The loss
        of shorter captions is the same, since the other steps are masked.

        Runs in the parameters' precision, because half precision does not suit these GRUs.

        Args:
            regions: (B, R, region_dim).
            words: (B, L) ids from start to end, padded.
            lengths: (B,) from 1 to L, on the host.
        """
        lengths = lengths.cpu()
        longest = int(lengths.max())
        places = sent(unpadded_positions(lengths, longest), words.device)
        real = torch.arange(longest, device=words.device) < sent(lengths, words.device)[:, None]
        words = words[:, :longest].masked_fill(~real, PADDING)
        targets = F.pad(words[:, 1:], (0, 1), value=PADDING)
        with torch.autocast(regions.device.type, enabled=False):
            # The vocabulary-wide layer only sees real words.
            states = self._states(regions, words).flatten(0, 1).index_select(0, places)
            targets = targets.flatten().index_select(0, places)
            return F.cross_entropy(self.out(states), targets, reduction="sum") / len(words)

    @torch.no_grad()
    def greedy(self, regions: Tensor, max_words: int, start: int, end: int) -> Tensor:
        """Greedy decoding: (B, n) ids of n <= max_words words, without the start token.

        A caption stops at ``end`` or is cut off at ``max_words``, and is padded with 0; n is the longest.
        Dropout stays active in training mode, so call this in eval mode.

        Args:
            regions: (B, R, region_dim).
            max_words: maximal number of words, including end.
            start: id of the start token.
            end: id of the end token.

        Raises:
            ValueError: ``max_words`` below 1.
        """
        if max_words < 1:
            raise ValueError(f"max_words is {max_words}; it must be at least 1")
        with torch.autocast(regions.device.type, enabled=False):
            read, keys, state = self._read(regions)
            word = torch.full((len(regions),), start, device=regions.device)
            done = torch.zeros_like(word, dtype=torch.bool)
            written: list[Tensor] = []
            while len(written) < max_words and not done.all():
                state = self._step(self.words(word), state, read, keys)
                word = self.out(state).argmax(1).masked_fill(done, PADDING)
                done = done | (word == end)
                written.append(word)
            return torch.stack(written, 1)

    def _states(self, regions: Tensor, words: Tensor) -> Tensor:
        """(B, L, hidden): the writer's states after reading each of the words."""
        read, keys, state = self._read(regions)
        states = []
        for word in self.words(words).unbind(1):
            state = self._step(word, state, read, keys)
            states.append(state)
        return torch.stack(states, 1)

    def _read(self, regions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The reader's states and their part of the attention, both (B, R, hidden), and its last state."""
        projected = self.dropout(self.projection(regions.to(self.projection.weight.dtype)))
        read, last = self.reader(projected)
        of_regions, _ = self.attention.weight.chunk(2, dim=1)
        return read, F.linear(read, of_regions, self.attention.bias), last[0]

    def _step(self, word: Tensor, state: Tensor, read: Tensor, keys: Tensor) -> Tensor:
        """The writer's state (B, hidden) after one more word (B, embedding)."""
        _, of_writer = self.attention.weight.chunk(2, dim=1)
        query = F.linear(state, of_writer)
        weights = self.attention_score(torch.tanh(keys + query[:, None])).softmax(1)
        context = (weights.transpose(1, 2) @ read).squeeze(1)
        return self.writer(self.dropout(torch.cat([word, context], 1)), state)
