"""Captions written from one vector: GXN's decoder (Gu et al., CVPR 2018, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmodal_bench.core.host import sent

PADDING = 0
Chooser = Callable[[Tensor], Tensor]
"""(B, vocabulary) log probabilities to the (B,) words to write."""


class CaptionDecoder(nn.Module):
    """A GRU that starts from an image's vector, sees it at each step, and writes a caption word by word.

    The paper says "one-layer GRU" and leaves open how the vector enters: here, one linear layer and tanh turn
    it into the initial state, and another into a part of each step's input, next to the previous word. With
    the initial state alone, long captions lost sight of the image. The word vectors are its own, so that a
    decoder also works with a text encoder other than the one it was trained with. Always runs in the
    parameters' precision.

    Padding and the start token have probability 0: they are never the next word of a caption.

    Args:
        vocabulary_size: words, including padding (0).
        dim: width of the image's vector.
        hidden: units.
        embedding: width of the word vectors.
        start: id of the start token.
        end: id of the end token.
        dropout: on word vectors and states, when training on true words; never while sampling, so that the
            gradient of Eq. 6 is that of the distribution sampled from.
    """

    never: Tensor

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        hidden: int,
        embedding: int = 300,
        start: int = 2,
        end: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.start, self.end = start, end
        self.first = nn.Linear(dim, hidden)
        self.words = nn.Embedding(vocabulary_size, embedding)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.context = nn.Linear(dim, embedding)
        self.recurrent = nn.GRU(2 * embedding, hidden, batch_first=True)
        self.out = nn.Linear(hidden, vocabulary_size)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("never", torch.tensor([PADDING, start]), persistent=False)

    def log_likelihoods(
        self, vectors: Tensor, words: Tensor, mask: Tensor, sampling: float = 0.0, dropout: bool = True
    ) -> Tensor:
        """Log probability (B, L) of each given word after those before it; 0 where masked.

        Args:
            vectors: (B, dim).
            words: (B, L) ids without the start token.
            mask: (B, L) which of them are words; on the host.
            sampling: scheduled sampling (Bengio et al., NIPS 2015): the share of preceding words that are
                replaced by draws from the decoder's own distribution.
            dropout: False disables it even in training mode.
        """
        with torch.autocast(vectors.device.type, enabled=False):
            drop = self.dropout if dropout else nn.Identity()
            before = F.pad(words[:, :-1], (1, 0), value=self.start)
            if sampling and self.training:
                before = self._partly_own(vectors, before, sampling)
            state, context = self._read(vectors)
            seen = context[:, None].expand(-1, before.shape[1], -1)
            states, _ = self.recurrent(torch.cat([drop(self.words(before)), seen], 2), state)
            # The vocabulary-wide layer only sees real words.
            places = sent(mask.cpu().flatten().nonzero().flatten(), states.device)
            real = states.flatten(0, 1).index_select(0, places)
            log_probs = self._log_probabilities(drop(real))
            of_words = log_probs.gather(1, words.flatten().index_select(0, places)[:, None])[:, 0]
            likelihoods = torch.zeros(mask.numel(), dtype=log_probs.dtype, device=log_probs.device)
            return likelihoods.index_copy(0, places, of_words).view(mask.shape)

    @torch.no_grad()
    def greedy(self, vectors: Tensor, max_words: int) -> Tensor:
        """Greedy decoding: (B, n) ids, n <= max_words including end, then padding."""
        return self._written(vectors, max_words, lambda log_probs: log_probs.argmax(1))

    @torch.no_grad()
    def sample(self, vectors: Tensor, max_words: int) -> Tensor:
        """Words drawn from the decoder's distribution: (B, n) ids as for ``greedy``."""
        return self._written(vectors, max_words, drawn_words)

    @torch.no_grad()
    def beam(self, vectors: Tensor, max_words: int, width: int) -> Tensor:
        """The likeliest caption from a beam search of ``width`` hypotheses per image: (B, n) as ``greedy``.

        Captions compete by total log probability, without length normalisation.

        Raises:
            ValueError: a width below 1.
        """
        if width < 1:
            raise ValueError(f"width is {width}; it must be at least 1")
        _check(max_words)
        with torch.autocast(vectors.device.type, enabled=False):
            n, size = len(vectors), self.out.out_features
            state, context = self._read(vectors.repeat_interleave(width, 0))
            word = torch.full((n * width,), self.start, device=vectors.device)
            # At first, all hypotheses of an image are the same empty one: only one of them may grow.
            scores = vectors.new_full((n, width), -torch.inf, dtype=self.out.weight.dtype)
            scores[:, 0] = 0
            written = torch.zeros(n * width, 0, dtype=torch.int64, device=vectors.device)
            done = torch.zeros(n * width, dtype=torch.bool, device=vectors.device)
            lines = torch.arange(n, device=vectors.device)
            # Scores only fall, so a finished hypothesis in the lead stays there.
            while written.shape[1] < max_words and not done.view(n, width)[lines, scores.argmax(1)].all():
                log_probs, state = self._step(word, context, state)
                # A finished caption has a single continuation, padding, at no cost.
                log_probs = log_probs.masked_fill(done[:, None], -torch.inf)
                log_probs[:, PADDING] = log_probs[:, PADDING].masked_fill(done, 0)
                scores, best = (scores[:, :, None] + log_probs.view(n, width, size)).flatten(1).topk(width)
                origin = (best // size + width * lines[:, None]).flatten()
                word = (best % size).flatten()
                state, done = state[:, origin], done[origin] | (word == self.end)
                written = torch.cat([written[origin], word[:, None]], 1)
            return written.view(n, width, -1)[lines, scores.argmax(1)]

    def _written(self, vectors: Tensor, max_words: int, choose: Chooser) -> Tensor:
        _check(max_words)
        with torch.autocast(vectors.device.type, enabled=False):
            state, context = self._read(vectors)
            word = torch.full((len(vectors),), self.start, device=vectors.device)
            done = torch.zeros_like(word, dtype=torch.bool)
            written: list[Tensor] = []
            while len(written) < max_words and not (written and done.all()):
                log_probs, state = self._step(word, context, state)
                word = choose(log_probs).masked_fill(done, PADDING)
                done = done | (word == self.end)
                written.append(word)
            return torch.stack(written, 1)

    @torch.no_grad()
    def _partly_own(self, vectors: Tensor, before: Tensor, sampling: float) -> Tensor:
        """The preceding words, some of them drawn from the decoder's predictions given those before them."""
        # On the CPU, so that their number is known without waiting for the device.
        own = torch.rand(before.shape) < sampling
        own[:, 0] = False
        rows = [column.nonzero()[:, 0].to(before.device, non_blocking=True) for column in own.unbind(1)]
        last = max((position for position, those in enumerate(rows) if len(those)), default=0)
        (state, context), columns = self._read(vectors), list(before.unbind(1))
        for position in range(1, last + 1):
            states, state = self._advance(columns[position - 1], context, state)
            # The vocabulary-wide layer only sees the rows that take their own word.
            those = rows[position]
            if len(those):
                drawn = drawn_words(self._log_probabilities(states.index_select(0, those)))
                columns[position] = columns[position].index_copy(0, those, drawn)
        return torch.stack(columns, 1)

    def _read(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """The initial state (1, B, hidden), and the image's part of every step's input (B, embedding)."""
        vectors = vectors.to(self.first.weight.dtype)
        return torch.tanh(self.first(vectors))[None], self.context(vectors)

    def _step(self, word: Tensor, context: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities (B, vocabulary) of the word after ``word`` (B,), and the new state."""
        states, state = self._advance(word, context, state)
        return self._log_probabilities(states), state

    def _advance(self, word: Tensor, context: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The recurrent layer's output (B, hidden) after reading ``word`` (B,), and its new state."""
        states, state = self.recurrent(torch.cat([self.words(word), context], 1)[:, None], state)
        return states[:, 0], state

    def _log_probabilities(self, states: Tensor) -> Tensor:
        """(K, hidden) to (K, vocabulary)."""
        return F.log_softmax(self.out(states).index_fill(1, self.never, -torch.inf), 1)


def drawn_words(log_probs: Tensor) -> Tensor:
    """One word (B,) drawn from each row's distribution, given as (B, vocabulary) log probabilities.

    By the inverse of the cumulative distribution: one random number per row, where ``torch.multinomial``
    draws one per word of the vocabulary. A word of probability 0 is never drawn.
    """
    cumulative = log_probs.exp().cumsum(1)
    whole = cumulative[:, -1:]
    level = torch.rand(len(log_probs), 1, device=log_probs.device, dtype=log_probs.dtype) * whole
    # Rounded up to the total, it would exceed every word.
    level = torch.minimum(level, torch.nextafter(whole, torch.zeros_like(whole)))
    drawn = torch.searchsorted(cumulative, level, right=True)[:, 0]
    # NaN rows would run off the end; the loss reports them.
    return drawn.clamp(max=log_probs.shape[1] - 1)


def _check(max_words: int) -> None:
    if max_words < 1:
        raise ValueError(f"max_words is {max_words}; it must be at least 1")
