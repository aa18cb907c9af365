"""What a number was measured on: named protocols, and which of them a test split may claim."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import parse_yaml, shown
from crossmodal_bench.core.validation import Items, Model, validated
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.metric_table import LABELLED_FAMILIES

Positives = Literal["caption", "identity", "label", "pairs"]
RankedFamily = Literal["ranks", "label_precision", "class_level"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A test split, what counts as relevant on it, and what is reported.

    images: how many the gallery must have, exactly; None leaves it open.
    captions: likewise; each of several numbers is allowed, and none leaves it open.
    positives: for the primary metric, 'caption' (the pairs themselves), 'identity' (all images and captions
        of one person, say), 'label' (any shared label) or 'pairs' (a set of pairs that is given beside it).
    families: which of the families of ``metric_table`` are computed.
    primary: the metric that sorts a table and picks a checkpoint.
    folds: consecutive blocks of images, each with its own captions, that are evaluated apart and averaged.
    split_hash: ``split_hash`` of the test images' ids, where it is known.
    note: what a reader must know.

    Raises ValueError for a primary metric that the families don't have or that is best when low, and for
    families with different metrics of the same key.
    """

    name: str
    dataset: str
    images: int | None = None
    captions: tuple[int, ...] = ()
    positives: Positives
    families: tuple[RankedFamily, ...]
    primary: str
    folds: int = 1
    split_hash: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        metrics = [metric for family in self.families for metric in metric_table.of_family(family)]
        keys = Counter(metric.key for metric in metrics)
        for key, kinds in keys.items():
            if kinds > 1:
                families = " or ".join(self.families)
                raise ValueError(f"protocol '{self.name}' has {kinds} kinds of {key}; choose {families}")
        # Checkpoints are kept by the largest value.
        rising = [metric.key for metric in metrics if not metric.lower_is_better]
        if self.primary not in rising:
            raise ValueError(
                f"protocol '{self.name}' cannot be ranked by '{self.primary}'{nearest(self.primary, rising)}"
            )

    @property
    def needs_labels(self) -> bool:
        """Whether it computes anything from the images' labels."""
        return any(family in LABELLED_FAMILIES for family in self.families)

    def of_any_size(self) -> Protocol:
        """The same metrics on any split: without counts, folds and the split's hash."""
        return replace(self, images=None, captions=(), folds=1, split_hash=None)

    def fits(
        self,
        dataset: str,
        image_ids: Sequence[str],
        n_captions: int,
        real_labels: bool,
        identities: bool = False,
    ) -> bool:
        """Does this protocol describe exactly that test split?"""
        return (
            self.images in (None, len(image_ids))
            and (not self.captions or n_captions in self.captions)
            and self.measures(dataset, real_labels, identities)
            and self.split_hash in (None, split_hash(image_ids))
        )

    def measures(self, dataset: str, real_labels: bool, identities: bool) -> bool:
        """Can its metrics be computed on any split of that data set?"""
        return (
            dataset == self.dataset
            and (real_labels or not self.needs_labels)
            and (identities or self.positives != "identity")
        )


def split_hash(ids: Sequence[str]) -> str:
    """16 hexadecimal digits that name a set of test images: SHA-256 of the sorted ids, joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


class _Entry(Model):
    """A protocol as ``protocols.yaml`` has it, where the fields are explained."""

    dataset: Annotated[str, Field(min_length=1)]
    images: PositiveInt | None = None
    captions: Items[PositiveInt] = ()
    positives: Positives
    families: Annotated[Items[RankedFamily], Field(min_length=1)]
    primary: str
    folds: PositiveInt = 1
    split_hash: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = None
    note: Annotated[str, Field(min_length=1)]


def parse_protocols(text: str, source: str) -> dict[str, Protocol]:
    """The protocols of a YAML text, by name; BadInput that names ``source``, the protocol and the field."""
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise BadInput(f"{source} is not valid YAML ({error}); mend it") from error
    if not isinstance(content, dict):
        raise BadInput(f"{source} is {shown(content)}; give it protocols by name")
    protocols: dict[str, Protocol] = {}
    for name, fields in content.items():
        entry = validated(_Entry, fields, f"{source}: protocol '{name}'")
        try:
            protocols[name] = Protocol(
                name=name,
                dataset=entry.dataset,
                images=entry.images,
                captions=entry.captions,
                positives=entry.positives,
                families=entry.families,
                primary=entry.primary,
                folds=entry.folds,
                split_hash=entry.split_hash,
                note=entry.note,
            )
        except ValueError as error:
            raise BadInput(f"{source}: {error}") from error
        if entry.images is not None and entry.images % entry.folds:
            raise BadInput(
                f"{source}: protocol '{name}' cuts {entry.images} images into {entry.folds} folds; "
                "give a number of folds that divides them"
            )
    return protocols


def _named() -> dict[str, Protocol]:
    path = resources.files(__package__) / "protocols.yaml"
    return parse_protocols(path.read_text(encoding="utf-8"), path.name)


PROTOCOLS: dict[str, Protocol] = _named()
"""The named protocols."""


def get_protocol(name: str) -> Protocol:
    """The named protocol; BadInput with the nearest name if there is none."""
    if name not in PROTOCOLS:
        raise BadInput(f"protocol '{name}' is not known{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def primary_metric(name: str, dataset: str) -> str | None:
    """The primary metric of a protocol, or of the data set's named ones for ``<dataset>-test``, if known."""
    known = PROTOCOLS.get(name) or next(
        (protocol for protocol in PROTOCOLS.values() if protocol.dataset == dataset), None
    )
    return None if known is None else known.primary


def resolve_protocols(
    dataset: str,
    image_ids: Sequence[str],
    n_captions: int,
    real_labels: bool,
    identities: bool = False,
) -> list[Protocol]:
    """Every named protocol that this test split meets exactly, else the one ``<dataset>-test``.

    A subset of a known split, or one more caption, makes another protocol, beside which no published number
    may stand. ``real_labels``: the items have labels of their own, not words of their captions.
    ``identities``: several images may show the same person or species, and the data say which.

    ``<dataset>-test`` reports what the data set's named protocols report; where there are none, what
    ``own_protocol`` does. Raises BadInput for an empty split or one with repeated ids.
    """
    if not len(image_ids) or n_captions < 1:
        raise BadInput(
            f"the test split of '{dataset}' has {len(image_ids)} images and {n_captions} captions; "
            "give it at least one of each"
        )
    if len(set(image_ids)) != len(image_ids):
        raise BadInput(f"the test split of '{dataset}' repeats an image id; give each image an id of its own")
    alike = [
        protocol for protocol in PROTOCOLS.values() if protocol.measures(dataset, real_labels, identities)
    ]
    named = [
        protocol
        for protocol in alike
        if protocol.fits(dataset, image_ids, n_captions, real_labels, identities)
    ]
    if named:
        return named
    return [
        replace(
            alike[0] if alike else own_protocol(dataset, real_labels, n_captions == len(image_ids)),
            name=f"{dataset}-test",
            images=len(image_ids),
            captions=(n_captions,),
            folds=1,
            split_hash=split_hash(image_ids),
            note="Not a published split: no published number is comparable.",
        )
    ]


def own_protocol(dataset: str, real_labels: bool = False, one_text_per_image: bool = False) -> Protocol:
    """``<dataset>-test`` of a data set without named protocols, on a test split of any size.

    It has recalls, and average precision with real labels; where each image then has one text (as
    Wikipedia), it is sorted by the latter.
    """
    by_label = real_labels and one_text_per_image
    return Protocol(
        name=f"{dataset}-test",
        dataset=dataset,
        positives="label" if by_label else "caption",
        families=("ranks", "label_precision") if real_labels else ("ranks",),
        primary=metric_table.summary_of("label_precision" if by_label else "ranks").key,
    )
