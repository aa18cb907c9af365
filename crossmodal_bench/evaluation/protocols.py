"""What a number was measured on: named protocols, and which of them a test split may claim."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from crossmodal_bench.core.errors import BadInput, nearest

_COUNTS_ONLY = "No hash of the split is known: the counts alone are checked."
_COCO_CAPTIONS = (25010, 25000)
_COCO_NOTE = f"All 25,010 captions, or 5 an image as published on precomputed regions. {_COUNTS_ONLY}"


@dataclass(frozen=True)
class Protocol:
    """A test split, what counts as relevant on it, and what is reported.

    images, captions: how many the gallery must have, exactly; None leaves it open, several are all allowed.
    positives: for the primary metric, 'caption' (the pairs themselves), 'identity' (all images and captions
        of one person, say) or 'label' (any shared label).
    recall, label_precision: the groups of metrics that are computed.
    folds: consecutive blocks of images, each with its own captions, that are evaluated apart and averaged.
    split_hash: ``split_hash`` of the test images' ids, where it is known.
    primary: the metric that sorts a table and picks a checkpoint.
    class_level: the group of AP@50 and R@1 between images and classes; not beside recall, whose R@1 is
        another.
    """

    name: str
    dataset: str
    images: int | None
    captions: int | tuple[int, ...] | None
    positives: Literal["caption", "identity", "label"]
    recall: bool
    label_precision: bool
    primary: Literal["rsum", "mAP", "t2i/R@1", "t2i/AP@50"]
    folds: int = 1
    split_hash: str | None = None
    note: str = ""
    class_level: bool = False

    def __post_init__(self) -> None:
        if self.recall and self.class_level:
            raise ValueError(f"protocol '{self.name}' has two kinds of i2t/R@1; choose recall or class_level")

    @property
    def image_counts(self) -> tuple[int, ...]:
        """How many images the gallery may have; empty: any number."""
        return () if self.images is None else (self.images,)

    @property
    def caption_counts(self) -> tuple[int, ...]:
        """How many captions the gallery may have; empty: any number."""
        return (self.captions,) if isinstance(self.captions, int) else self.captions or ()

    def of_any_size(self) -> Protocol:
        """The same metrics on any split: without counts, folds and the split's hash."""
        return replace(self, images=None, captions=None, folds=1, split_hash=None)

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
            (not self.image_counts or len(image_ids) in self.image_counts)
            and (not self.caption_counts or n_captions in self.caption_counts)
            and self.measures(dataset, real_labels, identities)
            and self.split_hash in (None, split_hash(image_ids))
        )

    def measures(self, dataset: str, real_labels: bool, identities: bool) -> bool:
        """Can its metrics be computed on any split of that data set?"""
        return (
            dataset == self.dataset
            and (real_labels or not (self.label_precision or self.class_level))
            and (identities or self.positives != "identity")
        )


def split_hash(ids: Sequence[str]) -> str:
    """16 hexadecimal digits that name a set of test images: SHA-256 of the sorted ids, joined by newlines."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


def _pairs(
    name: str,
    dataset: str,
    images: int,
    captions: int | tuple[int, ...],
    note: str,
    split: str | None = None,
    folds: int = 1,
) -> Protocol:
    return Protocol(
        name,
        dataset,
        images,
        captions,
        "caption",
        True,
        False,
        "rsum",
        folds=folds,
        split_hash=split,
        note=note,
    )


def _classes(name: str, dataset: str, items: int, note: str, split: str | None = None) -> Protocol:
    return Protocol(name, dataset, items, items, "label", False, True, "mAP", split_hash=split, note=note)


def _species(name: str, dataset: str, images: int, captions: int, note: str) -> Protocol:
    return Protocol(
        name, dataset, images, captions, "label", False, False, "t2i/AP@50", note=note, class_level=True
    )


def _synthetic(size: str, images: int, captions: int) -> Protocol:
    return Protocol(
        f"synthetic-{size}",
        "synthetic",
        images,
        captions,
        "caption",
        True,
        True,
        "rsum",
        note="Rendered from a seed; compares methods of this package with each other and with nothing else.",
    )


PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        _pairs(
            "flickr30k-1k",
            "flickr30k",
            1000,
            5000,
            f"Karpathy's test split, 5 captions an image. {_COUNTS_ONLY}",
        ),
        _pairs(
            "flickr8k-1k",
            "flickr8k",
            1000,
            5000,
            "The official test split, 5 captions an image; image ids are file names.",
            split="dcb37c9f44f9c087",
        ),
        _pairs(
            "coco-5k",
            "coco",
            5000,
            _COCO_CAPTIONS,
            f"Karpathy's test split, whole. {_COCO_NOTE}",
        ),
        _pairs(
            "coco-1k-5fold",
            "coco",
            5000,
            _COCO_CAPTIONS,
            "Karpathy's test split cut, in the order of the file, into five consecutive folds of 1,000 "
            "images, each with its own captions as its only gallery; every metric is the mean of the five. "
            f"Easier than coco-5k and never comparable with it. {_COCO_NOTE}",
            folds=5,
        ),
        Protocol(
            "acmr-coco",
            "acmr_coco",
            16557,
            None,
            "caption",
            True,
            False,
            "rsum",
            note="ACMR's sizes, 66,226/16,557 of COCO train2014, in another draw; which metric its Table 4 "
            f"prints is unknown, its baselines' are R@10. {_COUNTS_ONLY}",
        ),
        Protocol(
            "cuhk-pedes",
            "cuhk_pedes",
            3074,
            6156,
            "identity",
            True,
            False,
            "t2i/R@1",
            note="The official test split, 1,000 persons; every image of the described person is right. "
            f"{_COUNTS_ONLY}",
        ),
        _species(
            "cub-ap50",
            "cub",
            2933,
            29330,
            "The 50 test classes of Reed et al., 10 captions an image; a class is the mean of its texts. "
            f"{_COUNTS_ONLY}",
        ),
        _species(
            "flowers-ap50",
            "flowers",
            1155,
            11550,
            "The 20 test classes of Reed et al., 10 captions an image; a class is the mean of its texts. "
            f"{_COUNTS_ONLY}",
        ),
        _classes(
            "wikipedia-2173-map",
            "wikipedia",
            693,
            "The official 2,173/693 split, 10 classes, one text an image; image ids are the list file's.",
            split="32130477596eadf2",
        ),
        _classes(
            "wikipedia-1300-map",
            "wikipedia",
            1566,
            "1,300/1,566 drawn with seed 0 from the same 2,866 pairs: ACMR's sizes, in another draw.",
            split="63533bcd9a84d231",
        ),
        _classes("pascal-map", "pascal_sentence", 200, f"800/200 pairs, 20 classes. {_COUNTS_ONLY}"),
        _classes("nuswide10k-map", "nuswide10k", 1000, f"8,000/1,000 pairs. {_COUNTS_ONLY}"),
        _synthetic("tiny", 48, 144),
        _synthetic("small", 400, 2000),
    )
}


def get_protocol(name: str) -> Protocol:
    """The named protocol; BadInput with the nearest name if there is none."""
    if name not in PROTOCOLS:
        raise BadInput(f"protocol '{name}' is not known{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def primary_metric(name: str, dataset: str) -> str | None:
    """The primary metric of a protocol, or of the data set's named ones for ``<dataset>-test``, if known."""
    known = PROTOCOLS.get(name) or next((p for p in PROTOCOLS.values() if p.dataset == dataset), None)
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

    ``<dataset>-test`` reports what the data set's named protocols report. Where there are none, it has
    recalls, and mAP with real labels; where each image then has one text (as Wikipedia), it is sorted by mAP,
    else by rsum. Raises BadInput for an empty split or one with repeated ids.
    """
    if not len(image_ids) or n_captions < 1:
        raise BadInput(
            f"the test split of '{dataset}' has {len(image_ids)} images and {n_captions} captions; "
            "give it at least one of each"
        )
    if len(set(image_ids)) != len(image_ids):
        raise BadInput(f"the test split of '{dataset}' repeats an image id; give each image an id of its own")
    alike = [p for p in PROTOCOLS.values() if p.measures(dataset, real_labels, identities)]
    named = [p for p in alike if p.fits(dataset, image_ids, n_captions, real_labels, identities)]
    if named:
        return named
    by_label = real_labels and n_captions == len(image_ids)
    own = Protocol(
        f"{dataset}-test",
        dataset,
        None,
        None,
        "label" if by_label else "caption",
        True,
        real_labels,
        "mAP" if by_label else "rsum",
    )
    return [
        replace(
            alike[0] if alike else own,
            name=own.name,
            images=len(image_ids),
            captions=n_captions,
            folds=1,
            split_hash=split_hash(image_ids),
            note="Not a published split: no published number is comparable.",
        )
    ]
