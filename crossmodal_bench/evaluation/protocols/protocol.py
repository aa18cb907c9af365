"""What a number was measured on: named protocols, and which of them a test split meets."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from crossmodal_bench.core.errors import BadInput, nearest
from crossmodal_bench.core.files import parse_yaml, shown
from crossmodal_bench.core.validation import Items, Model, validated
from crossmodal_bench.evaluation import metric_table
from crossmodal_bench.evaluation.metric_table import LABELLED_FAMILIES
from crossmodal_bench.evaluation.protocols import judgements
from crossmodal_bench.evaluation.protocols.splits import IdScheme, KnownSplit, SplitItems
from crossmodal_bench.evaluation.ranking.positives import PositivePairs

Positives = Literal["caption", "identity", "label", "pairs"]
Pairs = Literal["", "given", "inputs", "eccv", "cxc"]
RankedFamily = Literal["ranks", "all_positives", "label_precision", "class_level"]

RULES = 1
"""The version of ``<dataset>-test``, for the rules about ties, positives and metrics on any split."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A test split, what counts as relevant on it, and what is reported.

    images: the exact number of images in the gallery; None for any number.
    captions: likewise; several numbers are alternatives, and an empty tuple means any number.
    positives: for the primary metric, 'caption' (the pairs themselves), 'identity' (all images and captions
        of one person, say), 'label' (any shared label) or 'pairs' (any set of pairs).
    pairs: where the pairs come from: 'eccv' or 'cxc' judgements, which also define the gallery and the
        queries, equal 'inputs', or 'given' by a user. Empty: there are none, or the code that evaluates under
        it supplies them.
    families: the families of ``metric_table`` to compute.
    primary: the metric that sorts a table and selects a checkpoint.
    folds: consecutive blocks of images, each with its own captions, that are evaluated separately and
        averaged.
    version: increases when the rules behind its numbers change; two versions are never compared.
    split: what is known about the test split.
    resembles: the named protocol whose numbers of images and captions the split has without being verified
        as it; empty otherwise.
    note: what a reader must know.

    Raises ValueError for a primary metric that the families lack or that is best when low, for families with
    different metrics of the same key, for pairs in a protocol that does not use them, and for folds with
    metrics that are not averaged over folds.
    """

    name: str
    dataset: str
    images: int | None = None
    captions: tuple[int, ...] = ()
    positives: Positives
    pairs: Pairs = ""
    families: tuple[RankedFamily, ...]
    primary: str
    folds: int = 1
    version: int = RULES
    split: KnownSplit = field(default_factory=KnownSplit)
    resembles: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        metrics = [metric for family in self.families for metric in metric_table.of_family(family)]
        keys = Counter(metric.key for metric in metrics)
        for key, kinds in keys.items():
            if kinds > 1:
                families = " or ".join(self.families)
                raise ValueError(f"protocol '{self.name}' has {kinds} kinds of {key}; choose {families}")
        # The best checkpoint is the one with the highest value.
        rising = [metric.key for metric in metrics if not metric.lower_is_better]
        if self.primary not in rising:
            raise ValueError(
                f"protocol '{self.name}' cannot be ranked by '{self.primary}'{nearest(self.primary, rising)}"
            )
        if self.pairs and self.positives != "pairs":
            raise ValueError(f"protocol '{self.name}' defines positives by {self.positives}, not by pairs")
        if self.folds > 1 and "all_positives" in self.families:
            raise ValueError(f"protocol '{self.name}' has folds, over which all_positives are not averaged")

    @property
    def needs_labels(self) -> bool:
        """Whether it computes anything from the images' labels."""
        return any(family in LABELLED_FAMILIES for family in self.families)

    @property
    def judged(self) -> judgements.Judged | None:
        """The human judgements that it uses, if any: they apply to one test split and to no other."""
        if self.pairs == "eccv" or self.pairs == "cxc":
            return self.pairs
        return None

    @property
    def test_only(self) -> bool:
        """Whether the correct answers are known for the test split only."""
        return self.judged is not None or self.pairs == "given"

    @property
    def redrawn(self) -> bool:
        """Whether each seed has its own split, so that runs of one row answer different queries."""
        return bool(self.split.draws)

    def of_any_size(self) -> Protocol:
        """The same metrics on any split: without counts, folds and knowledge about the split."""
        return replace(self, images=None, captions=(), folds=1, split=KnownSplit())

    @property
    def label(self) -> str:
        """The name with the version, as in tables and messages: ``flickr30k-1k@1``."""
        return f"{self.name}@{self.version}"

    def counts_agree(self, images: int, captions: int) -> bool:
        """Whether a split of that size could be this protocol's; verification takes more."""
        return self.images in (None, images) and (not self.captions or captions in self.captions)

    def measures(self, dataset: str, real_labels: bool, identities: bool) -> bool:
        """Whether its metrics can be computed on any split of that data set."""
        return (
            dataset == self.dataset
            and (real_labels or not self.needs_labels)
            and (identities or self.positives != "identity")
        )


class _Entry(Model):
    """A protocol as in ``protocols.yaml``, where the fields are explained."""

    dataset: Annotated[str, Field(min_length=1)]
    images: PositiveInt | None = None
    captions: Items[PositiveInt] = ()
    positives: Positives
    pairs: Pairs = ""
    families: Annotated[Items[RankedFamily], Field(min_length=1)]
    primary: str
    folds: PositiveInt = 1
    version: PositiveInt
    split: KnownSplit = KnownSplit()
    note: Annotated[str, Field(min_length=1)]


def parse_protocols(text: str, source: str) -> dict[str, Protocol]:
    """The protocols of a YAML text, by name; BadInput names ``source``, the protocol and the field."""
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise BadInput(f"{source} is not valid YAML ({error}); fix it") from error
    if not isinstance(content, dict):
        raise BadInput(f"{source} is {shown(content)}; it must map names to protocols")
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
                pairs=entry.pairs,
                families=entry.families,
                primary=entry.primary,
                folds=entry.folds,
                version=entry.version,
                split=entry.split,
                note=entry.note,
            )
        except ValueError as error:
            raise BadInput(f"{source}: {error}") from error
        judged = protocols[name].judged is not None
        if (entry.positives == "pairs") != judged:
            raise BadInput(
                f"{source}: protocol '{name}' has positives '{entry.positives}' and pairs '{entry.pairs}'; "
                "give pairs (eccv or cxc) if, and only if, positives are pairs"
            )
        if entry.images is not None and entry.images % entry.folds:
            raise BadInput(
                f"{source}: protocol '{name}' cuts {entry.images} images into {entry.folds} folds; "
                "choose a number of folds that divides them"
            )
        if entry.folds > 1 and entry.split.images and not entry.split.order:
            raise BadInput(
                f"{source}: protocol '{name}' has folds, which are blocks of the images' order; "
                "set split.order"
            )
    return protocols


def _named() -> dict[str, Protocol]:
    path = resources.files(__package__) / "protocols.yaml"
    return parse_protocols(path.read_text(encoding="utf-8"), path.name)


PROTOCOLS: dict[str, Protocol] = _named()
"""The named protocols."""


def get_protocol(name: str) -> Protocol:
    """The named protocol; BadInput with the nearest name if there is none.

    Examples:
        >>> get_protocol("flickr30k-1k").primary
        'rsum'
    """
    if name not in PROTOCOLS:
        raise BadInput(f"protocol '{name}' is unknown{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def is_redrawn(name: str) -> bool:
    """Whether each seed has its own split under the protocol of that name."""
    return name in PROTOCOLS and PROTOCOLS[name].redrawn


def primary_metric(name: str, dataset: str) -> str | None:
    """The primary metric of a protocol; for ``<dataset>-test``, of the data set's named ones, if known."""
    known = PROTOCOLS.get(name) or next(
        (protocol for protocol in PROTOCOLS.values() if protocol.dataset == dataset), None
    )
    return None if known is None else known.primary


@dataclass(frozen=True)
class Match:
    """How closely a test split matches that of a named protocol.

    protocol: the named one.
    images, captions: how many the split has.
    faults: what is wrong with the split although its counts match, as clauses; empty if it is verified, and
        if the counts don't match.
    obstacle: why nothing can be measured although it is the protocol's split, as a clause; empty if there is
        no obstacle.
    """

    protocol: Protocol
    images: int
    captions: int
    faults: tuple[str, ...]
    obstacle: str = ""

    @property
    def counts_agree(self) -> bool:
        """Whether the numbers of images and captions are the protocol's."""
        return self.protocol.counts_agree(self.images, self.captions)

    @property
    def verified(self) -> bool:
        """Whether the split is the protocol's."""
        return self.counts_agree and not self.faults

    @property
    def measurable(self) -> bool:
        """Whether its metrics are computed; for a split that only resembles it, under another name."""
        if self.protocol.judged is None:
            return self.counts_agree
        return self.verified and not self.obstacle

    @property
    def sentence(self) -> str:
        """The message about it for users."""
        name = self.protocol.name
        if self.obstacle:
            return f"{self.protocol.label} is not measured: {self.obstacle}"
        if self.verified:
            return f"this is the split of {self.protocol.label}"
        if not self.counts_agree:
            theirs = [f"{self.protocol.images:,} images"] if self.protocol.images is not None else []
            if self.protocol.captions:
                theirs.append(f"{' or '.join(f'{count:,}' for count in self.protocol.captions)} captions")
            return (
                f"not the split of {name}, which has {' and '.join(theirs)}; "
                f"this one has {self.images:,} and {self.captions:,}"
            )
        agreement = f"images {self.images:,} and captions {self.captions:,} agree with {name}"
        if not self.protocol.split.verifiable:
            return f"{agreement}, but {self.faults[0]}"
        return f"{agreement}, but {'; '.join(self.faults)}: this is another split"


def matches(
    dataset: str, items: SplitItems, *, real_labels: bool = False, identities: bool = False
) -> list[Match]:
    """How closely a test split matches that of each named protocol whose metrics can be computed on it.

    ``real_labels``: the items have labels of their own, not words of their captions. ``identities``: several
    images may show the same person or species, and the data say which. Raises BadInput for an empty split or
    one with repeated ids.
    """
    images = len(items.image_ids)
    captions = len(items.caption_image)
    if not images or captions < 1:
        raise BadInput(
            f"the test split of '{dataset}' has {images} images and {captions} captions; "
            "give it at least one of each"
        )
    if len(set(items.image_ids)) != images:
        raise BadInput(f"the test split of '{dataset}' repeats an image id; give each image its own id")
    alike = [
        protocol for protocol in PROTOCOLS.values() if protocol.measures(dataset, real_labels, identities)
    ]
    return [_match(protocol, items) for protocol in alike]


def _match(protocol: Protocol, items: SplitItems) -> Match:
    images, captions = len(items.image_ids), len(items.caption_image)
    if not protocol.counts_agree(images, captions):
        return Match(protocol, images, captions, ())
    faults = tuple(protocol.split.faults(items, ordered=protocol.folds > 1))
    obstacle = ""
    if protocol.judged is not None and not faults:
        obstacle = judgements.obstacle(protocol.judged, items)
    return Match(protocol, images, captions, faults, obstacle)


def resolve_protocols(
    dataset: str, items: SplitItems, *, real_labels: bool = False, identities: bool = False
) -> list[Protocol]:
    """What is measured on a test split: each named protocol whose split it verifiably is.

    If only the numbers of images and captions are a named protocol's, ``unverified`` of it takes its place:
    the same metrics under ``<dataset>-test``, next to which no published number may appear; but there is none
    for a protocol with judgements, which only apply to its own split. Any other split only has
    ``<dataset>-test``, which reports the same as the data set's first named protocol or, if there is none,
    ``own_protocol``. Arguments and errors are those of ``matches``.
    """
    compared = matches(dataset, items, real_labels=real_labels, identities=identities)
    captions = len(items.caption_image)
    near = [match for match in compared if match.measurable]
    if near:
        return [
            match.protocol if match.verified else replace(unverified(match.protocol), captions=(captions,))
            for match in near
        ]
    one_text_per_image = captions == len(items.image_ids)
    model = compared[0].protocol if compared else own_protocol(dataset, real_labels, one_text_per_image)
    return [
        replace(
            model,
            name=f"{dataset}-test",
            images=len(items.image_ids),
            captions=(captions,),
            folds=1,
            version=RULES,
            split=KnownSplit(),
            note="Not a published split: published numbers are not comparable.",
        )
    ]


def unverified(protocol: Protocol) -> Protocol:
    """The same metrics for a split of the same size that is not verified to be the protocol's.

    Its name is ``<dataset>-test``; with folds, in addition to the whole, ``<dataset>-test-5fold``.
    """
    folds = f"-{protocol.folds}fold" if protocol.folds > 1 else ""
    return replace(
        protocol,
        name=f"{protocol.dataset}-test{folds}",
        version=RULES,
        split=KnownSplit(),
        resembles=protocol.name,
        note=f"Split unverified: as many images and captions as {protocol.name}, but published numbers are "
        "not comparable.",
    )


def with_equal_inputs(protocol: Protocol) -> Protocol:
    """``<name>-equal``: the recalls of a protocol by captions, with equal inputs as equal answers.

    Its positives are pairs: an image and a caption are correct for each other if an image with the same bytes
    and a caption with the same words belong together. It is a protocol in addition to the plain one, never a
    replacement, because no paper counts this way.
    """
    return replace(
        protocol,
        name=f"{protocol.name}-equal",
        positives="pairs",
        pairs="inputs",
        families=("ranks",),
        primary=metric_table.summary_of("ranks").key,
        version=RULES,
        resembles="",
        note=f"As {protocol.name}, but captions with the same words and pictures with the same bytes are "
        "equal answers: published numbers are not comparable.",
    )


def with_given_pairs(
    protocol: Protocol, pairs: PositivePairs, image_ids: Sequence[str], caption_ids: Sequence[str]
) -> Protocol:
    """``<name>-pairs-<digits>``: the split of ``protocol``, with the positives defined by a user's pairs.

    The name identifies the pairs: two sets of them never share a table.

    Args:
        protocol: the one that the split meets; its folds don't apply.
        pairs: rows of the split's images and captions.
        image_ids, caption_ids: of the split.
    """
    lines = sorted(
        f"{image_ids[image]}\t{caption_ids[text]}"
        for image, text in zip(pairs.image.tolist(), pairs.text.tolist(), strict=True)
    )
    digits = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]
    return Protocol(
        name=f"{protocol.name}-pairs-{digits}",
        dataset=protocol.dataset,
        images=len(image_ids),
        captions=(len(caption_ids),),
        positives="pairs",
        pairs="given",
        families=("ranks", "all_positives"),
        primary=metric_table.summary_of("ranks").key,
        version=RULES,
        split=KnownSplit(),
        note=f"As {protocol.name}, but {len(pairs):,} given pairs define what is correct: published numbers "
        "are not comparable.",
    )


def measured_on(split: str, protocols: Sequence[Protocol]) -> list[Protocol]:
    """Those of ``protocols`` that a split is measured under: judged and given pairs are for test only."""
    return [protocol for protocol in protocols if split == "test" or not protocol.test_only]


def expected_protocols(dataset: str, wanted: str = "") -> list[Protocol]:
    """What will be measured once a data set's files are there, if they are the published ones.

    ``wanted`` is the named protocol for which they are read; empty for all of the data set's.
    """
    named = [
        protocol
        for protocol in PROTOCOLS.values()
        if protocol.name == wanted or (not wanted and protocol.dataset == dataset)
        if protocol.judged is None or judgements.is_installed()
    ]
    return [protocol if protocol.split.verifiable else unverified(protocol) for protocol in named] or [
        own_protocol(dataset)
    ]


def id_scheme(dataset: str) -> IdScheme:
    """The scheme that brings the data set's image ids to one spelling."""
    return next((known.split.ids for known in PROTOCOLS.values() if known.dataset == dataset), "names")


def own_protocol(dataset: str, real_labels: bool = False, one_text_per_image: bool = False) -> Protocol:
    """``<dataset>-test`` of a data set without named protocols, for a test split of any size.

    It has recalls, and with real labels also average precision; if each image then has one text (as in
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
