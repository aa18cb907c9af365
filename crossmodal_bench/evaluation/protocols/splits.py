"""Is this test split the published one? Counts prove nothing; ids, their order and the captions do."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.validation import Items, Model

IdScheme = Literal["exact", "names", "flickr", "coco"]
"""How ids are brought to one spelling: as they are; without folder, extension and prefix; by the Flickr photo
number at the start of a file name; by the COCO number at its end."""

_REWORDED = 0.1
"""Share of listed photos whose captions may be worded differently: Flickr8K and Flickr30K spell those of 6 %
of their common photos differently (grey, gray), whereas permuted captions differ nearly everywhere."""
_PREFIX = re.compile(r"^[A-Za-z][\w-]*:")
_EXTENSION = re.compile(r"\.(jpe?g|png|bmp|gif|webp|tiff?|npy|npz)$", re.IGNORECASE)
_FLICKR = re.compile(r"(\d+)(?:_[0-9A-Za-z]+)*")
_COCO = re.compile(r"(?:COCO_)?(?:(?:train|val|test)\d{4}_)?0*(\d+)")
_NOISE = re.compile(r"[\W_]+")
_NUMBERED = re.compile(r"(.+)#\d+")

_Hash = Annotated[str, Field(pattern="^([0-9a-f]{16})?$")]


class KnownSplit(Model):
    """What is known about a protocol's test split, to recognise it on a user's disk.

    It is the content of ``split`` in ``protocols.yaml``. Hashes are 16 hexadecimal digits of a SHA-256 of
    lines; an empty one is unknown. ``describe`` computes them for a given split.

    ids: how image ids are brought to one spelling before anything is compared.
    images: hash of the image ids, sorted.
    draws: instead, if each seed has its own split: those of the splits of seed 0, 1, ...
    order: hash of the image ids in order, which determines the folds.
    captions_per_image: minimal number of captions of every image; the protocol's counts bound their sum.
    counts: hash of the image ids with their numbers of captions, if these differ.
    texts: hash of the image ids with their captions' letters and digits.
    caption_ids: hash of the image ids with their captions' ids, if the data set has any of its own; the first
        ``captions_per_image`` of each image.
    members: a file in the package that lists photos known to be in the split and known not to be.
    """

    ids: IdScheme = "names"
    images: _Hash = ""
    draws: Items[_Hash] = ()
    order: _Hash = ""
    captions_per_image: NonNegativeInt = 0
    counts: _Hash = ""
    texts: _Hash = ""
    caption_ids: _Hash = ""
    members: str = ""

    @property
    def verifiable(self) -> bool:
        """Whether enough is known to distinguish the split from others of the same size."""
        return bool(self.images or self.draws or self.members)

    def faults(self, items: SplitItems, *, ordered: bool) -> list[str]:
        """Why ``items`` are not this split, as clauses; empty if they are.

        Args:
            items: with the same numbers of images and captions as the split.
            ordered: whether the images must be in the order of the split.
        """
        if items.only_numbered(self.ids):
            return ["its images are only numbered, and have no ids by which to recognise them"]
        if not self.verifiable:
            return ["nothing is known yet by which to verify its split"]
        ids = items.canonical(self.ids)
        faults = self._wrong_images(ids) or self._wrong_captions(items, ids)
        if not faults and ordered and self.order != _hash(ids):
            faults = ["its images are in another order, and folds are blocks of that order"]
        return faults

    def _wrong_images(self, ids: Sequence[str]) -> list[str]:
        faults = []
        if self.images and self.images != _hash(sorted(ids)):
            faults.append(
                f"its images are different (hash {_hash(sorted(ids))}, but the split has {self.images})"
            )
        if self.draws and _hash(sorted(ids)) not in self.draws:
            faults.append(
                f"its images match none of the {len(self.draws)} draws (hash {_hash(sorted(ids))}, "
                f"but the draws have {', '.join(self.draws)})"
            )
        if self.members:
            known = _members(self.members)
            missing = len(known.members.keys() - set(ids))
            foreign = len(known.others.intersection(ids))
            parts = [f"{missing:,} known test images are missing"] if missing else []
            if foreign:
                parts.append(f"{foreign:,} known training or validation images are among them")
            if parts:
                faults.append(" and ".join(parts))
        return faults

    def _wrong_captions(self, items: SplitItems, ids: Sequence[str]) -> list[str]:
        per_image = items.captions_per_image
        fewest = int(per_image.argmin())
        if per_image[fewest] < self.captions_per_image:
            return [
                f"image '{items.image_ids[fewest]}' has {per_image[fewest]} captions, but every image of "
                f"the split has {self.captions_per_image}"
            ]
        if self.counts and self.counts != _counts_hash(ids, per_image):
            return ["its images have different numbers of captions"]
        if stray := items.stray_caption(ids, self.ids):
            return [stray]
        if self.caption_ids and items.caption_keys:
            found = _caption_ids_hash(items, ids, self.captions_per_image)
            if found != self.caption_ids:
                return ["its captions, by their ids, are different or describe other images"]
        if items.captions is None:
            return []
        if self.texts and self.texts != _hash(sorted(_caption_lines(items, ids))):
            return ["its captions are different or describe other images"]
        if self.members:
            known = _members(self.members).members
            lines = zip(ids, _caption_lines(items, ids), strict=True)
            wrong = sum(known.get(name, "") not in ("", _hash([line], digits=8)) for name, line in lines)
            if wrong > len(known) * _REWORDED:
                return [f"the captions of {wrong:,} known test images are different or describe other images"]
        return []


@dataclass(frozen=True)
class SplitItems:
    """The images and captions of a test split, in order.

    image_ids: N unique names.
    caption_image: (M,) position of each caption's image among the N.
    caption_ids: M names, or None. One that names an image (``1000.jpg#0``) must belong to that image.
    captions: M sentences, or None if there are only features.
    caption_keys: M ids that the data set itself gives its captions (COCO's annotation ids), or None.
    """

    image_ids: Sequence[str]
    caption_image: NDArray[np.int64]
    caption_ids: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    caption_keys: Sequence[str] | None = None

    @cached_property
    def captions_per_image(self) -> NDArray[np.int64]:
        """(N,) number of captions of each image."""
        return np.bincount(self.caption_image, minlength=len(self.image_ids))

    def canonical(self, scheme: IdScheme) -> list[str]:
        """The image ids in their common spelling; unchanged if two would become the same."""
        ids = [canonical_id(name, scheme) for name in self.image_ids]
        return ids if len(set(ids)) == len(ids) else list(self.image_ids)

    def only_numbered(self, scheme: IdScheme) -> bool:
        """Whether the image ids say no more than how many there are: 0 to N - 1."""
        return set(self.canonical(scheme)) == set(map(str, range(len(self.image_ids))))

    def stray_caption(self, ids: Sequence[str], scheme: IdScheme) -> str:
        """A clause about a caption assigned to another image than its id names; empty if there is none."""
        if self.caption_ids is None:
            return ""
        row_of = {name: row for row, name in enumerate(ids)}
        for name, row in zip(self.caption_ids, self.caption_image.tolist(), strict=True):
            numbered = _NUMBERED.fullmatch(name)
            # A bare number may be anything; only a "#0" after it makes it certain that it names an image.
            if numbered or not name.isdigit():
                named = row_of.get(canonical_id(numbered[1] if numbered else name, scheme), row)
                if named != row:
                    return f"caption '{name}' is assigned to image '{self.image_ids[row]}'"
        return ""


def canonical_id(name: str, scheme: IdScheme) -> str:
    """An image id in its common spelling: ``val2014/COCO_val2014_000000391895.jpg`` is COCO's ``391895``."""
    if scheme == "exact":
        return name
    stem = _EXTENSION.sub("", _PREFIX.sub("", name.replace("\\", "/").rpartition("/")[2]))
    pattern = {"flickr": _FLICKR, "coco": _COCO}.get(scheme)
    found = pattern.fullmatch(stem) if pattern else None
    return found[1] if found else stem


def image_named_by(caption_id: str) -> str | None:
    """The image that a caption's id names: ``1000.jpg`` for ``1000.jpg#0``; None if it names none."""
    numbered = _NUMBERED.fullmatch(caption_id)
    return numbered[1] if numbered else None


def canonical_caption_id(name: str, scheme: IdScheme) -> str:
    """A caption id in its common spelling: ``val2014/COCO_val2014_000000391895.jpg#2`` is ``391895#2``."""
    image = image_named_by(name)
    return canonical_id(name, scheme) if image is None else canonical_id(image, scheme) + name[len(image) :]


def split_hash(items: SplitItems, scheme: IdScheme = "names") -> str:
    """16 hexadecimal digits that identify a split: its image ids, in any order, with their caption counts."""
    return _counts_hash(items.canonical(scheme), items.captions_per_image)


def describe(items: SplitItems, scheme: IdScheme = "names") -> KnownSplit:
    """What a protocol would have to know about a split so that no other passes for it."""
    ids = items.canonical(scheme)
    per_image = items.captions_per_image
    uniform = int(per_image.min()) if (per_image == per_image[0]).all() else 0
    return KnownSplit(
        ids=scheme,
        images=_hash(sorted(ids)),
        order=_hash(ids),
        captions_per_image=uniform,
        counts="" if uniform else _counts_hash(ids, per_image),
        texts="" if items.captions is None else _hash(sorted(_caption_lines(items, ids))),
        caption_ids=_caption_ids_hash(items, ids, uniform) if items.caption_keys and uniform else "",
    )


def _hash(lines: Iterable[str], digits: int = 16) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:digits]


def _counts_hash(ids: Sequence[str], per_image: NDArray[np.int64]) -> str:
    return _hash(sorted(f"{name}\t{count}" for name, count in zip(ids, per_image.tolist(), strict=True)))


def _caption_lines(items: SplitItems, ids: Sequence[str]) -> list[str]:
    """A line for each image: its id, and what all tokenisations keep of its captions, sorted."""
    assert items.captions is not None
    texts: list[list[str]] = [[] for _ in ids]
    for row, caption in zip(items.caption_image.tolist(), items.captions, strict=True):
        texts[row].append(_NOISE.sub("", caption.lower()))
    return ["\t".join([name, *sorted(own)]) for name, own in zip(ids, texts, strict=True)]


def _caption_ids_hash(items: SplitItems, ids: Sequence[str], first: int) -> str:
    assert items.caption_keys is not None
    keys: list[list[str]] = [[] for _ in ids]
    for row, key in zip(items.caption_image.tolist(), items.caption_keys, strict=True):
        keys[row].append(_PREFIX.sub("", key))
    lines = ("\t".join([name, *sorted(own[:first])]) for name, own in zip(ids, keys, strict=True))
    return _hash(sorted(lines))


@dataclass(frozen=True)
class _Members:
    """Photos known to be in a split, with 8 digits of their captions' hash; and some known not to be."""

    members: dict[str, str]
    others: frozenset[str]


@cache
def _members(name: str) -> _Members:
    """The list in a file of the package: ``+ id hash`` for a member, ``- id`` for a photo that is not one."""
    rows = [line.split() for line in gzip.decompress(_listed(name)).decode().splitlines()]
    return _Members(
        members={row[1]: row[2] for row in rows if row[0] == "+"},
        others=frozenset(row[1] for row in rows if row[0] == "-"),
    )


@cache
def members_digest(name: str) -> str:
    """16 hexadecimal digits of the list of photos that a protocol names as ``members``.

    Raises BadInput if the package has no such list.
    """
    return hashlib.sha256(_listed(name)).hexdigest()[:16]


def _listed(name: str) -> bytes:
    path = resources.files(__package__) / name
    if not path.is_file():
        raise BadInput(f"{name} is missing next to protocols.yaml; reinstall the package")
    return path.read_bytes()
