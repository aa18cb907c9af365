"""Speed of the CIDEr-D reward, relative to the usual pure-Python computation.

    python benchmarks/reward.py

128 images with 5 sampled captions each, of 16 words and an EOS, and 5 references of 8 to 16 words; document
frequencies from ``--images`` images. Words have Zipf-like frequencies, and samples share about half their
words with a reference. The baseline does what the usual package does in each call: it counts the n-grams of
every candidate and of all its references in dictionaries, weights both by a precomputed table of document
frequencies, and compares them. It is spared that package's conversion of ids to strings. Both sides are
measured in this run, alternating, in one process.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from measurement import Measurement, alternate
from torch import Tensor

from crossmodal_bench.caption_metrics import CiderD

BATCH, SAMPLES, REFERENCES, WORDS, EOS = 128, 5, 5, 16, 0
TINY = {"images": BATCH, "vocabulary": 50, "repeats": 1}
Ngram = tuple[int, ...]


def captions(images: int, vocabulary: int) -> Tensor:
    """(N, 5, 17) references of 8 to 16 words and an EOS, words from 1 in order of frequency."""
    generator = torch.Generator().manual_seed(0)
    frequencies = 1 / torch.arange(1, vocabulary + 1).float()
    shape = (images, REFERENCES, WORDS + 1)
    ids = 1 + torch.multinomial(frequencies, math.prod(shape), replacement=True, generator=generator)
    lengths = torch.randint(8, WORDS + 1, shape[:2], generator=generator)
    return ids.view(shape).masked_fill(torch.arange(WORDS + 1) >= lengths[..., None], EOS)


def samples(references: Tensor, vocabulary: int) -> Tensor:
    """(B * 5, 17) captions of 16 words and an EOS: those of each image, about half their words redrawn."""
    generator = torch.Generator().manual_seed(1)
    ids = references.reshape(-1, WORDS + 1)
    drawn = captions(len(references), vocabulary).roll(1, 0).reshape(ids.shape)
    random = torch.randint(1, vocabulary + 1, ids.shape, generator=generator)
    drawn = torch.where(drawn == EOS, random, drawn)
    redrawn = torch.rand(ids.shape, generator=generator) < 0.5
    ids = torch.where(redrawn | (ids == EOS), drawn, ids)
    ids[:, WORDS] = EOS
    return ids


def sentence(ids: Tensor) -> list[int]:
    """Words up to the first EOS, inclusive."""
    words: list[int] = ids.tolist()
    return words[: words.index(EOS) + 1]


def ngrams(words: Sequence[int]) -> Counter[Ngram]:
    """How often each n-gram of 1 to 4 words occurs."""
    return Counter(
        tuple(words[place : place + n]) for n in range(1, 5) for place in range(len(words) - n + 1)
    )


def frequencies(images: Iterable[Iterable[Sequence[int]]]) -> dict[Ngram, float]:
    """In how many images each n-gram occurs."""
    found: dict[Ngram, float] = defaultdict(float)
    for image in images:
        for ngram in {ngram for words in image for ngram in ngrams(words)}:
            found[ngram] += 1
    return found


def cider_d(
    candidates: Sequence[Sequence[int]],
    references: Sequence[Sequence[Sequence[int]]],
    table: Mapping[Ngram, float],
    images: int,
) -> list[float]:
    """CIDEr-D of each candidate with its own references, by dictionaries."""

    def vector(words: Sequence[int]) -> tuple[list[dict[Ngram, float]], list[float], int]:
        weights: list[dict[Ngram, float]] = [{} for _ in range(4)]
        norms = [0.0] * 4
        bigrams = 0
        for ngram, count in ngrams(words).items():
            n = len(ngram) - 1
            weight = count * (math.log(images) - math.log(max(1.0, table.get(ngram, 0.0))))
            weights[n][ngram] = weight
            norms[n] += weight**2
            bigrams += count * (n == 1)
        return weights, [math.sqrt(norm) for norm in norms], bigrams

    scores = []
    for words, own_references in zip(candidates, references, strict=True):
        own, own_norms, own_length = vector(words)
        total = 0.0
        for reference in own_references:
            theirs, norms, length = vector(reference)
            penalty = math.exp(-((own_length - length) ** 2) / (2 * 6.0**2))
            for n in range(4):
                product = sum(
                    min(weight, theirs[n].get(ngram, 0.0)) * theirs[n].get(ngram, 0.0)
                    for ngram, weight in own[n].items()
                )
                norm = own_norms[n] * norms[n]
                total += penalty * product / norm if norm else 0.0
        scores.append(10 * total / 4 / len(own_references))
    return scores


def measure(images: int = 2000, vocabulary: int = 10_000, repeats: int = 5) -> list[Measurement]:
    """The reward of a batch both ways; values agree to 1e-5."""
    corpus = captions(images, vocabulary)
    indices = torch.arange(BATCH).repeat_interleave(SAMPLES)
    candidates = samples(corpus[:BATCH], vocabulary)
    scorer = CiderD(corpus, eos_id=EOS)
    table = frequencies([sentence(words) for words in image] for image in corpus)
    lists = [sentence(words) for words in candidates]
    references = [[sentence(words) for words in corpus[image]] for image in indices]
    expected = torch.tensor(cider_d(lists, references, table, images), dtype=torch.float64)
    torch.testing.assert_close(scorer(candidates, indices).double(), expected, rtol=1e-5, atol=1e-5)
    seconds = alternate(
        lambda: cider_d(lists, references, table, images), lambda: scorer(candidates, indices), repeats
    )
    return [Measurement(f"CIDEr-D reward, {BATCH} x {SAMPLES} captions", *seconds)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=29_000, help="images of the document frequencies")
    parser.add_argument("--vocabulary", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if options.images < BATCH or options.vocabulary < 2 or min(options.repeats, options.threads) < 1:
        parser.error(f"--images must be at least {BATCH}, --vocabulary at least 2, others at least 1")
    torch.set_num_threads(options.threads)

    corpus = captions(options.images, options.vocabulary)
    indices = torch.arange(BATCH).repeat_interleave(SAMPLES)
    candidates = samples(corpus[:BATCH], options.vocabulary)
    start = time.perf_counter()
    scorer = CiderD(corpus, eos_id=EOS)
    built = time.perf_counter() - start

    start = time.perf_counter()
    table = frequencies([sentence(one) for one in image] for image in corpus)
    counted = time.perf_counter() - start
    lists = [sentence(one) for one in candidates]
    references = [[sentence(one) for one in corpus[image]] for image in indices]

    expected = torch.tensor(cider_d(lists, references, table, options.images), dtype=torch.float64)
    difference = float((scorer(candidates, indices).double() - expected).abs().max())
    times: dict[str, list[float]] = {"usual": [], "ours": []}
    for _ in range(options.repeats):
        start = time.perf_counter()
        cider_d(lists, references, table, options.images)
        middle = time.perf_counter()
        scorer(candidates, indices)
        times["usual"].append(middle - start)
        times["ours"].append(time.perf_counter() - middle)
    usual, ours = (statistics.median(found) for found in times.values())
    print(
        f"reward of {BATCH} x {SAMPLES} captions, {torch.get_num_threads()} threads, "
        f"medians of {options.repeats}"
    )
    print(f"  dictionaries          {1000 * usual:8.1f} ms")
    print(f"  here                  {1000 * ours:8.1f} ms   ratio {usual / ours:.0f} x")
    print(f"  greatest difference   {difference:8.1e}      of scores up to {float(expected.max()):.2f}")
    print(
        f"index of {options.images} images: here {built:.1f} s; document frequencies alone, "
        f"dictionaries {counted:.1f} s"
    )


if __name__ == "__main__":
    main()
