"""The data contract: the images, the captions, which caption describes which image, and the splits."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import first_line, is_unicode
from crossmodal_bench.data.images import ImageSource
from crossmodal_bench.data.regions import RegionSource

_BYTES = re.compile(r"""b(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
"""A line written with ``str(caption)`` where the caption was bytes."""
SPLITS = ("train", "val", "test")
LONGEST_CAPTION = 10_000
"""Characters, or about 1,700 words; the longest captions in use have a few hundred words."""


@dataclass(frozen=True)
class Labels:
    """What a data set says its images show; results by label are computed from nothing else.

    Attributes:
        values: (N,) class indices or (N, C) multi-hot.
        names: C names, or empty.
        rule: where the labels come from, printed with every result.
    """

    values: NDArray[np.int64]
    names: tuple[str, ...] = ()
    rule: str = ""

    def __len__(self) -> int:
        return len(self.values)

    @property
    def known(self) -> NDArray[np.bool_]:
        """(N,) which images have a label at all."""
        return np.asarray(self.values.any(axis=1) if self.multi_label else self.values >= 0)

    @property
    def multi_label(self) -> bool:
        """Whether the values are a multi-hot matrix."""
        return self.values.ndim == 2

    @property
    def count(self) -> int:
        """C, the number of classes."""
        return self.values.shape[1] if self.multi_label else int(self.values.max()) + 1


@dataclass(frozen=True)
class Corpus:
    """N images and M captions; all code follows these mappings, never "five captions per image".

    Attributes:
        name: the data set's name.
        image_ids: N unique names.
        caption_ids: M unique names.
        caption_image: (M,) index of the image that each caption describes.
        split: (N,) one of ``train``, ``val``, ``test`` per image; a caption belongs to its image's split.
        captions: M sentences, or None if the data set only has text features. If all of them are written as
            Python prints bytes (``b'a dog'``), those bytes are decoded.
        caption_keys: M ids that the data set itself gives its captions (COCO's annotation ids), or None. They
            only serve to recognise a known split; nothing is computed from them.
        labels: of N images, or None if the data set has none.
        identities: (N,) which person or species each image shows, if several images can show the same one;
            None if every image is its own identity. No identity is in two splits.
        images: where the pixels come from, or None.
        regions: the source of the regions that come with the data set, or None.
        positives: pairs (image id, caption id) of the test split that a user declares correct, whatever the
            captions describe; None if there are none.
        image_features: (N, D) features that come with the data set, or None.
        text_features: (M, D) text features that come with the data set, or None.
        source: the file or folder that it was read from, for messages.
        skipped: names of the images that were left out because they could not be read.

    Raises:
        BadInput: mismatched lengths, duplicate names, an unknown or empty split, an image without a caption,
            an empty or overlong caption, text that is not valid Unicode, or an identity in two splits.
    """

    name: str
    image_ids: tuple[str, ...]
    caption_ids: tuple[str, ...]
    caption_image: NDArray[np.int64]
    split: NDArray[np.str_]
    captions: tuple[str, ...] | None = None
    caption_keys: tuple[str, ...] | None = None
    labels: Labels | None = None
    identities: NDArray[np.int64] | None = None
    images: ImageSource | None = None
    regions: RegionSource | None = None
    image_features: NDArray[np.float32] | None = None
    text_features: NDArray[np.float32] | None = None
    source: str = field(default="", compare=False)
    skipped: tuple[str, ...] = ()
    positives: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.captions is not None and all(map(_BYTES.fullmatch, self.captions)):
            object.__setattr__(self, "captions", _decoded(self.captions, self.source or self.name))
        _check(self)

    def image_rows(self, split: str) -> NDArray[np.int64]:
        """Indices of the images of a split, in corpus order."""
        return np.flatnonzero(self.split == split)

    def caption_rows(self, split: str) -> NDArray[np.int64]:
        """Indices of the captions of a split, in corpus order."""
        return np.flatnonzero(self.split[self.caption_image] == split)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images and captions per split."""
        return {
            name: {"images": len(self.image_rows(name)), "captions": len(self.caption_rows(name))}
            for name in SPLITS
        }

    def without_images(self, rows: Sequence[int]) -> Corpus:
        """The corpus without some images and their captions (unreadable files, say).

        Args:
            rows: indices of the images to leave out; the others keep their order.
        """
        keep_image = np.ones(len(self.image_ids), dtype=bool)
        keep_image[list(rows)] = False
        keep_caption = keep_image[self.caption_image]
        renumber = np.cumsum(keep_image) - 1
        kept = np.flatnonzero(keep_image)
        labels = self.labels
        if labels is not None:
            labels = replace(labels, values=labels.values[keep_image])
        return replace(
            self,
            image_ids=tuple(compress(self.image_ids, keep_image)),
            caption_ids=tuple(compress(self.caption_ids, keep_caption)),
            caption_image=renumber[self.caption_image[keep_caption]],
            split=self.split[keep_image],
            captions=None if self.captions is None else tuple(compress(self.captions, keep_caption)),
            caption_keys=(
                None if self.caption_keys is None else tuple(compress(self.caption_keys, keep_caption))
            ),
            labels=labels,
            identities=None if self.identities is None else self.identities[keep_image],
            images=None if self.images is None else self.images.subset(kept),
            regions=None if self.regions is None else self.regions.subset(kept),
            positives=self._positives_among(keep_image, keep_caption),
            image_features=None if self.image_features is None else self.image_features[keep_image],
            text_features=None if self.text_features is None else self.text_features[keep_caption],
        )

    def with_captions(self, rows: NDArray[np.int64]) -> Corpus:
        """The corpus with only some of its captions; each image must keep at least one.

        Args:
            rows: indices of the captions to keep, ascending.
        """
        kept = np.zeros(len(self.caption_ids), dtype=bool)
        kept[rows] = True
        return replace(
            self,
            caption_ids=tuple(self.caption_ids[row] for row in rows),
            caption_image=self.caption_image[rows],
            captions=None if self.captions is None else tuple(self.captions[row] for row in rows),
            caption_keys=None if self.caption_keys is None else tuple(self.caption_keys[row] for row in rows),
            positives=self._positives_among(np.ones(len(self.image_ids), dtype=bool), kept),
            text_features=None if self.text_features is None else self.text_features[rows],
        )

    def _positives_among(
        self, images: NDArray[np.bool_], captions: NDArray[np.bool_]
    ) -> tuple[tuple[str, str], ...] | None:
        """The positives whose image and caption are both kept; None if there are none."""
        if self.positives is None:
            return None
        names = set(compress(self.image_ids, images)), set(compress(self.caption_ids, captions))
        return tuple(pair for pair in self.positives if pair[0] in names[0] and pair[1] in names[1]) or None

    def positive_rows(self) -> NDArray[np.int64] | None:
        """(n_pairs, 2) positions, among the test images and captions, of the user's positive pairs."""
        if self.positives is None:
            return None
        images = {self.image_ids[row]: position for position, row in enumerate(self.image_rows("test"))}
        captions = {self.caption_ids[row]: position for position, row in enumerate(self.caption_rows("test"))}
        return np.array([(images[image], captions[caption]) for image, caption in self.positives])

    def with_validation(self, share: float, seed: int = 0) -> Corpus:
        """The corpus with a validation split drawn from train, stratified by label for single labels.

        For data sets without one: hyperparameters are chosen on it, never on test. If images share
        identities, whole identities are drawn.

        Args:
            share: of the training images (or identities), for single labels of each label; 0 returns the
                corpus unchanged.
            seed: which draw.

        Raises:
            BadInput: a share outside 0 to 1 or too small for one image, or a corpus with a validation split.
        """
        if share == 0:
            return self
        if not 0 < share < 1:
            raise BadInput(
                f"data.validation is {share}; give the share of train to hold out, between 0 and 1"
            )
        if (self.split == "val").any():
            raise BadInput(f"{self.name} already has a validation split; set data.validation to 0")
        rng = np.random.default_rng([seed, 20170, len(self.image_ids)])
        train = self.image_rows("train")
        split = self.split.astype("<U5")
        if self.identities is not None:
            drawn = rng.permutation(np.unique(self.identities[train]))
            split[np.isin(self.identities, drawn[: round(share * len(drawn))])] = "val"
            return self._validated(split, share, len(train))
        strata = np.zeros(len(train), np.int64)
        if self.labels is not None and not self.labels.multi_label:
            strata = self.labels.values[train]
        for stratum in np.unique(strata):
            rows = rng.permutation(train[strata == stratum])
            split[rows[: round(share * len(rows))]] = "val"
        return self._validated(split, share, len(train))

    def _validated(self, split: NDArray[np.str_], share: float, n_train: int) -> Corpus:
        if not (split == "val").any():
            raise BadInput(
                f"data.validation is {share}, less than one of the {n_train} training images of {self.name}; "
                "give a larger share"
            )
        return replace(self, split=split)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over everything that a result depends on.

        Image files count by name and size, not by content, so that 100,000 files only take seconds.
        """
        digest = hashlib.sha256()
        labels = None if self.labels is None else self.labels.values
        label_names = () if self.labels is None else self.labels.names
        for strings in (
            self.image_ids,
            self.caption_ids,
            self.split.tolist(),
            self.captions or (),
            label_names,
        ):
            digest.update(hashlib.sha256("\n".join(strings).encode()).digest())
        arrays = (self.caption_image, labels, self.image_features, self.text_features, self.identities)
        for array in arrays:
            if array is not None:
                digest.update(f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        # The positives are left out: a protocol that uses them is named after them.
        # If there are pictures, regions are just one view of them, which records identify separately: results
        # without regions stay valid when someone adds them.
        source = self.images if self.images is not None else self.regions
        digest.update((source.fingerprint() if source is not None else "").encode())
        return digest.hexdigest()[:16]


def _decoded(captions: Sequence[str], where: str) -> tuple[str, ...]:
    """Captions written as bytes literals, decoded."""
    try:
        return tuple(ast.literal_eval(caption).decode() for caption in captions)
    except (ValueError, SyntaxError) as error:
        raise BadInput(
            f"{where}: its captions are written as Python bytes (b'...'), and one of them cannot be decoded "
            f"({first_line(error)}); write them as UTF-8 text"
        ) from error


def _check(corpus: Corpus) -> None:
    where = corpus.source or corpus.name
    _check_counts(corpus, where)
    _check_names(corpus, where)
    _check_splits(corpus, where)
    if corpus.captions is not None:
        _check_captions(corpus.caption_ids, corpus.captions, where)
    _check_rows(corpus, where)
    if corpus.positives is not None:
        _check_positives(corpus, corpus.positives, where)
    if corpus.identities is not None:
        _check_identities(corpus, corpus.identities, where)


def _check_counts(corpus: Corpus, where: str) -> None:
    n = len(corpus.image_ids)
    m = len(corpus.caption_ids)
    if len(corpus.split) != n:
        raise BadInput(f"{where}: {len(corpus.split)} split names for {n} images; give one per image")
    if len(corpus.caption_image) != m or (corpus.captions is not None and len(corpus.captions) != m):
        sentences = m if corpus.captions is None else len(corpus.captions)
        raise BadInput(
            f"{where}: {m} caption ids, {sentences} captions and {len(corpus.caption_image)} entries of "
            "caption_image; the counts must agree"
        )
    if m and not 0 <= corpus.caption_image.min() <= corpus.caption_image.max() < n:
        raise BadInput(f"{where}: caption_image refers to images outside 0..{n - 1}; correct it")


def _check_names(corpus: Corpus, where: str) -> None:
    split_of_captions = corpus.split[corpus.caption_image] if len(corpus.image_ids) else corpus.split
    _check_unique("image", corpus.image_ids, corpus.split, where)
    _check_unique("caption", corpus.caption_ids, split_of_captions, where)
    label_names = () if corpus.labels is None else corpus.labels.names
    for kind, names in (("image", corpus.image_ids), ("label", label_names)):
        if invalid := next((name for name in names if not is_unicode(name)), None):
            raise BadInput(f"{where}: {kind} '{invalid}' is not valid Unicode (half a character); rename it")


def _check_unique(kind: str, names: Sequence[str], splits: NDArray[np.str_], where: str) -> None:
    """Reject a duplicate name, and say in which splits it occurs."""
    if len(set(names)) == len(names):
        return
    seen: dict[str, str] = {}
    for name, split in zip(names, splits, strict=True):
        if name in seen:
            both = f"splits '{seen[name]}' and '{split}'" if seen[name] != split else f"split '{split}' twice"
            raise BadInput(f"{where}: {kind} '{name}' is in {both}; keep it once")
        seen[name] = str(split)


def _check_splits(corpus: Corpus, where: str) -> None:
    unknown = set(np.unique(corpus.split).tolist()) - set(SPLITS)
    if unknown:
        raise BadInput(f"{where}: unknown split '{min(unknown)}'; use train, val or test")
    for split in ("train", "test"):
        if not (corpus.split == split).any():
            raise BadInput(f"{where}: the split '{split}' is empty; assign at least one image to '{split}'")
    captions_of = np.bincount(corpus.caption_image, minlength=len(corpus.image_ids))
    if (captions_of == 0).any():
        lonely = corpus.image_ids[int(np.argmin(captions_of))]
        raise BadInput(f"{where}: image '{lonely}' has no caption; give it one or drop it")


def _check_positives(corpus: Corpus, positives: Sequence[tuple[str, str]], where: str) -> None:
    images = {corpus.image_ids[row] for row in corpus.image_rows("test")}
    captions = {corpus.caption_ids[row] for row in corpus.caption_rows("test")}
    if not positives:
        raise BadInput(f"{where}: positives lists no pairs; list some, or leave it out")
    for pair in positives:
        for name, known, what in ((pair[0], images, "image"), (pair[1], captions, "caption")):
            if name not in known:
                raise BadInput(
                    f"{where}: a positive pair names {what} '{name}', which the test split lacks; correct it"
                )


def _check_captions(names: Sequence[str], captions: Sequence[str], where: str) -> None:
    for name, caption in zip(names, captions, strict=True):
        if not caption.strip():
            raise BadInput(f"{where}: caption '{name}' is empty; write it or drop it")
        if len(caption) > LONGEST_CAPTION:
            raise BadInput(
                f"{where}: caption '{name}' has {len(caption)} characters; shorten it to at most "
                f"{LONGEST_CAPTION}, because a batch is padded to its longest caption"
            )
        if not is_unicode(caption):
            raise BadInput(f"{where}: caption '{name}' is not valid Unicode (half a character); fix it")


def _check_rows(corpus: Corpus, where: str) -> None:
    """Reject arrays that don't have one row per image, or per caption."""
    n = len(corpus.image_ids)
    m = len(corpus.caption_ids)
    for kind, array, rows in (
        ("labels", corpus.labels, n),
        ("identities", corpus.identities, n),
        ("regions", corpus.regions, n),
        ("image features", corpus.image_features, n),
        ("text features", corpus.text_features, m),
        ("caption keys", corpus.caption_keys, m),
    ):
        if array is not None and len(array) != rows:
            raise BadInput(f"{where}: {len(array)} rows of {kind} for {rows} items; the counts must agree")


def _check_identities(corpus: Corpus, identities: NDArray[np.int64], where: str) -> None:
    """Training and testing on the same person or species would measure memorisation."""
    first: dict[int, int] = {}
    for row, identity in enumerate(identities.tolist()):
        other = first.setdefault(identity, row)
        if corpus.split[other] != corpus.split[row]:
            raise BadInput(
                f"{where}: the identity of image '{corpus.image_ids[row]}' (split '{corpus.split[row]}') is "
                f"also that of '{corpus.image_ids[other]}' (split '{corpus.split[other]}'); "
                "keep each identity in one split"
            )
