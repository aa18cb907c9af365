"""Several models as one: the similarities of every pair are summed, and the sums are ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossmodal_bench.core.encoding import Encoding, Scorer
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation.evaluate import Evaluation, evaluate_all
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.evaluation.ranking.positives import CaptionImage, Identities, PositivePairs
from crossmodal_bench.evaluation.ranking.precision import Labels

_EXACT = 2**24  # integers below this are exact in fp32


@dataclass(frozen=True)
class Member:
    """One model: its encodings of both complete galleries, and the score that compares them."""

    images: Encoding
    texts: Encoding
    score: Scorer


def evaluate_ensemble(
    protocol: Protocol,
    members: Sequence[Member],
    caption_image: CaptionImage,
    image_labels: Labels | None = None,
    image_identities: Identities | None = None,
    *,
    positives: PositivePairs | None = None,
    device: torch.device | str | None = None,
) -> Evaluation:
    """``evaluate_ensemble_all`` under one protocol; ``positives`` are its pairs, if it uses pairs."""
    (evaluation,) = evaluate_ensemble_all(
        [protocol],
        members,
        caption_image,
        image_labels,
        image_identities,
        positives=[positives],
        device=device,
    )
    return evaluation


def evaluate_ensemble_all(
    protocols: Sequence[Protocol],
    members: Sequence[Member],
    caption_image: CaptionImage,
    image_labels: Labels | None = None,
    image_identities: Identities | None = None,
    *,
    positives: Sequence[PositivePairs | None],
    device: torch.device | str | None = None,
) -> list[Evaluation]:
    """``evaluate_all`` with the sum of the members' scores; a single member scores exactly as it does alone.

    caption_image: (n_texts,) row of each text's image. positives: for each protocol, its pairs, if any.
    device: where the tiles are scored.

    Raises BadInput for a protocol with classes, whose queries are means of texts, and ValueError for no
    members, members with different galleries, and whatever ``evaluate_all`` raises.
    """
    for protocol in protocols:
        if "class_level" in protocol.families:
            raise BadInput(
                f"protocol '{protocol.name}' averages the texts of a class, which differently encoded "
                "members cannot share; use ensembles under protocols of images and texts"
            )
    images, texts, score = summed(members)
    return evaluate_all(
        protocols,
        images,
        texts,
        score,
        caption_image,
        image_labels,
        image_identities,
        positives=positives,
        device=device,
    )


def summed(members: Sequence[Member]) -> tuple[Encoding, Encoding, Scorer]:
    """Galleries of item numbers, and the scorer that adds up every member's scores of these items.

    The numbers are shaped like the members' own encodings, (n, 1) for vectors and (n, 1, 1) if any member has
    fragments, because the grid of tiles and its padding, and so the last digits, depend on that shape.

    Raises ValueError for no members, and for members with different galleries.
    """
    sizes = {(len(member.images), len(member.texts)) for member in members}
    if len(sizes) != 1:
        raise ValueError(f"an ensemble needs members of one gallery, got (images, texts) {sorted(sizes)}")
    encodings = [encoding for member in members for encoding in (member.images, member.texts)]
    vectors = all(encoding.lengths is None and encoding.values.ndim == 2 for encoding in encodings)
    (n_images, n_texts) = sizes.pop()
    double = max(n_images, n_texts) >= _EXACT or any(
        encoding.values.dtype == torch.float64 for encoding in encodings
    )

    def numbers(count: int) -> Encoding:
        values = torch.arange(count, dtype=torch.float64 if double else torch.float32)
        return Encoding(values.reshape((-1, 1) if vectors else (-1, 1, 1)))

    return numbers(n_images), numbers(n_texts), _Sum(members)


class _Sum:
    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._held: tuple[Any, list[Encoding]] = (None, [])

    def __call__(self, images: Encoding, texts: Encoding) -> Tensor:
        # A row of tiles passes the same images over and over, and fragments are large.
        if self._held[0] is not images:
            self._held = (images, [_items(member.images, images) for member in self._members])
        scores = [
            member.score(own, _items(member.texts, texts))
            for member, own in zip(self._members, self._held[1], strict=True)
        ]
        total = scores[0]
        for more in scores[1:]:
            total = total + more
        return total


def _items(encoding: Encoding, numbers: Encoding) -> Encoding:
    rows = numbers.values.flatten().long().to(encoding.values.device)
    items = encoding.take(rows).to(numbers.values.device)
    # Just as the tiles would widen it.
    values = items.values if items.values.dtype == torch.float64 else items.values.float()
    return Encoding(values, items.lengths)
