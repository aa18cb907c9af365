"""Speed of GXN's generation paths: sampled words, scheduled sampling, captions, picture networks.

    python benchmarks/generation.py [--batch 128] [--vocabulary 8481] [--pictures 64]

The plain ways: one random number for each word of the vocabulary (``torch.multinomial``); the
vocabulary-sized layer on all rows at each position; captions generated image by image, instead of 256 images
at a time as in validation and test; pictures in contiguous (channels-first) memory. Random numbers are drawn
in another order than in the plain ways, so sampled words are compared by frequency, and scheduled sampling
with the most likely word in place of a sampled one. Captions are equal; the picture losses agree to 1e-5.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from measurement import Measurement, alternate, print_table
from torch import Tensor, nn

from crossmodal_bench.methods.gxn import CaptionPath, PicturePath
from crossmodal_bench.networks import CaptionDecoder, decoder
from crossmodal_bench.networks.decoder import drawn_words

DIM, HIDDEN = 256, 256
WORDS = 12
TINY = {"batch": 4, "vocabulary": 40, "of_pictures": 2, "repeats": 1}
SHARE = 0.25
"""Share of own words in scheduled sampling, in the last epoch."""


def by_multinomial(log_probs: Tensor) -> Tensor:
    """One word (B,) drawn from each row's distribution, the plain way."""
    return log_probs.exp().multinomial(1)[:, 0]


@torch.no_grad()
def partly_own(
    writer: CaptionDecoder, vectors: Tensor, before: Tensor, draw: Callable[..., Tensor]
) -> Tensor:
    """Scheduled sampling the plain way: each row draws at each position, and most of that is discarded."""
    own = torch.rand(before.shape) < SHARE
    own[:, 0] = False
    (state, context), columns = writer._read(vectors), [before[:, 0]]
    for position in range(1, before.shape[1]):
        log_probs, state = writer._step(columns[-1], context, state)
        columns.append(torch.where(own[:, position], draw(log_probs), before[:, position]))
    return torch.stack(columns, 1)


@contextmanager
def likeliest_word() -> Iterator[None]:
    """Replace drawing a word by taking the most likely one."""
    original = decoder.drawn_words
    decoder.drawn_words = lambda log_probs: log_probs.argmax(1)  # type: ignore[assignment]
    try:
        yield
    finally:
        decoder.drawn_words = original  # type: ignore[assignment]


def draws(batch: int, vocabulary: int, repeats: int) -> Measurement:
    """Draw a word for each row of a batch."""
    torch.manual_seed(0)
    log_probs = (3 * torch.randn(batch, vocabulary)).log_softmax(1)
    few = torch.tensor([0.5, 0.0, 0.3, 0.2]).log().expand(20_000, -1)
    for draw in (by_multinomial, drawn_words):
        shares = torch.bincount(draw(few), minlength=4) / len(few)
        torch.testing.assert_close(shares, few[0].exp(), rtol=0, atol=0.015)
    plain, ours = alternate(lambda: by_multinomial(log_probs), lambda: drawn_words(log_probs), repeats)
    note = "other random numbers, the same distribution"
    return Measurement(f"words drawn, {batch} x {vocabulary:,}", plain, ours, note=note)


def scheduled_sampling(batch: int, vocabulary: int, repeats: int) -> Measurement:
    """The preceding words, a quarter of them the decoder's own."""
    torch.manual_seed(0)
    writer = CaptionDecoder(vocabulary, DIM, HIDDEN)
    vectors, before = torch.randn(batch, DIM), torch.randint(4, vocabulary, (batch, WORDS))
    with likeliest_word():
        torch.manual_seed(1)
        expected = partly_own(writer, vectors, before, lambda log_probs: log_probs.argmax(1))
        torch.manual_seed(1)
        assert torch.equal(writer._partly_own(vectors, before, SHARE), expected)
    plain, ours = alternate(
        lambda: partly_own(writer, vectors, before, by_multinomial),
        lambda: writer._partly_own(vectors, before, SHARE),
        repeats,
    )
    note = "other random numbers, the same with the most likely words"
    return Measurement(f"scheduled sampling, {batch} x {WORDS} x {vocabulary:,}", plain, ours, note=note)


@torch.no_grad()
def captions(images: int, vocabulary: int, repeats: int) -> Measurement:
    """Greedy captions of ``images`` images, as generated in validation."""
    torch.manual_seed(0)
    path = CaptionPath(hidden=HIDDEN, max_words=WORDS)
    path.decoder = CaptionDecoder(vocabulary, DIM, HIDDEN)
    vectors = torch.randn(images, DIM)

    def one_by_one() -> Tensor:
        return torch.cat([path.write(vector) for vector in vectors.split(1)])

    assert torch.equal(path.write(vectors), one_by_one())
    seconds = alternate(one_by_one, lambda: path.write(vectors), repeats, warm_up=False)
    return Measurement(f"captions written, {images} x {WORDS} x {vocabulary:,}", *seconds, note="equal")


class Step(nn.Module):
    """Losses and gradients of both picture networks on one batch, without optimiser steps."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.path = PicturePath(generator_channels=32, discriminator_channels=16)
        self.path.build(DIM)
        self.vectors, self.real = torch.randn(batch, DIM), torch.rand(batch, 3, 64, 64) * 2 - 1
        self.images = torch.arange(batch)

    def forward(self) -> Tensor:
        """(2,) losses of discriminator and generator."""
        torch.manual_seed(0)
        self.path.zero_grad()
        drawn, mean, log_variance = self.path.draw(self.vectors)
        discrimination = self.path.discriminator_loss(self.real, drawn, mean, self.images)
        generation, _ = self.path.generator_loss(drawn, mean, log_variance)
        (discrimination + generation).backward()
        return torch.stack([discrimination, generation]).detach()


def pictures(batch: int, repeats: int) -> Measurement:
    """A step of generator and discriminator."""
    from crossmodal_bench.networks import pictures as networks

    ours = Step(batch)
    plain = copy.deepcopy(ours)
    plain.path.to(memory_format=torch.contiguous_format)
    as_ours = networks._channels_last

    def planar() -> Tensor:
        networks._channels_last = lambda values: values.contiguous()  # type: ignore[assignment]
        try:
            return plain()
        finally:
            networks._channels_last = as_ours  # type: ignore[assignment]

    torch.testing.assert_close(ours(), planar(), rtol=1e-5, atol=1e-6)
    seconds = alternate(planar, ours, repeats)
    return Measurement(f"pictures, a step of {batch}", *seconds)


def measure(
    batch: int = 128, vocabulary: int = 8481, of_pictures: int = 64, repeats: int = 5
) -> list[Measurement]:
    """All four, quickly."""
    return [
        draws(batch, vocabulary, repeats),
        scheduled_sampling(batch, vocabulary, repeats),
        captions(batch // 2, vocabulary, 1),
        pictures(of_pictures, repeats),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=8481, help="size of the vocabulary")
    parser.add_argument("--pictures", type=int, default=64, help="pictures per step")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    print_table(measure(options.batch, options.vocabulary, options.pictures, options.repeats))


if __name__ == "__main__":
    main()
