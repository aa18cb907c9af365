"""Which images and captions the rows of a user's vectors are, as far as ids and the data set tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import shown
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.evaluation.items import EvaluatedItems, items_of
from crossmodal_bench.evaluation.protocols.protocol import id_scheme, matches
from crossmodal_bench.evaluation.protocols.splits import (
    IdScheme,
    SplitItems,
    canonical_caption_id,
    canonical_id,
    image_named_by,
)
from crossmodal_bench.jobs.given.files import Column
from crossmodal_bench.jobs.inputs import items_of_test

_SHOWN = 3


@dataclass(frozen=True)
class Identified:
    """The items of N and M given rows, in the order of evaluation.

    Attributes:
        items: what is known about them.
        image_rows: (N,) the given row of each evaluated image.
        text_rows: (M,) the given row of each evaluated caption.
        images_known: whether ids say which images these are.
        owners_known: whether ids, or the user, say which image each caption describes.
        captions_known: whether ids say which captions of the data set these are.
        corpus: the data set, with the captions that were given, if it is available.
        remarks: what was assumed, in sentences.
    """

    items: EvaluatedItems
    image_rows: NDArray[np.int64]
    text_rows: NDArray[np.int64]
    images_known: bool
    owners_known: bool
    captions_known: bool
    corpus: Corpus | None = None
    remarks: tuple[str, ...] = ()

    @property
    def split_items(self) -> SplitItems:
        """What identifies the split."""
        assert self.items.owner is not None
        if self.corpus is not None and self.captions_known:
            return items_of_test(self.corpus)
        return SplitItems(
            image_ids=self.items.image_ids,
            caption_image=self.items.owner,
            caption_ids=self.items.caption_ids if self.captions_known else None,
        )


def identify(
    counts: tuple[int, int],
    dataset: str,
    corpus: Corpus | None,
    *,
    image_ids: Column | None,
    caption_ids: Column | None,
    caption_image: Column | None,
    needs_owners: bool = True,
) -> Identified:
    """Find out which items the given rows are.

    Args:
        counts: how many images and captions were given.
        dataset: the data set's own name, which determines how its ids are normalised.
        corpus: the data set, if it is available.
        image_ids: a name for each given image.
        caption_ids: a name for each given caption.
        caption_image: the row or the id of each caption's image.
        needs_owners: whether captions must belong to images; false if pairs define the positives.

    Raises:
        BadInput: counts do not match, or ids are missing, unknown or contradictory.
    """
    for column, count, what in (
        (image_ids, counts[0], "images"),
        (caption_ids, counts[1], "captions"),
        (caption_image, counts[1], "captions"),
    ):
        if column is not None and (len(column) != count or column.values.ndim != 1):
            raise BadInput(
                f"{column.name} has shape {column.values.shape} for {count} {what}; give one entry for each"
            )
    scheme = id_scheme(dataset)
    if corpus is not None:
        return _among(corpus, scheme, counts, image_ids, caption_ids, caption_image)
    return _by_themselves(scheme, counts, image_ids, caption_ids, caption_image, needs_owners=needs_owners)


def rows_of(
    values: NDArray[Any], ids: Sequence[str] | None, count: int, name: str, what: str
) -> NDArray[np.int64]:
    """The rows that entries name by number or by id.

    Args:
        values: (n,) whole numbers or strings.
        ids: the names of the ``count`` rows, if they have any.
        count: how many rows there are.
        name: the file or the argument, for messages.
        what: what the rows are: "image".

    Raises:
        BadInput: an entry is neither, or the entries are ambiguous between the two.
    """
    texts = [str(value) for value in values.tolist()]
    position = {known: row for row, known in enumerate(ids or ())}
    by_id = [position.get(text) for text in texts]
    by_number = [int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1 for text in texts]
    numbered = all(0 <= row < count for row in by_number)
    named = all(row is not None for row in by_id)
    if named and numbered and by_id != by_number:
        raise BadInput(
            f"{name} is ambiguous: its entries could be rows or ids; use {what} ids that are not numbers"
        )
    if named:
        return np.array(by_id, dtype=np.int64)
    if numbered:
        return np.array(by_number, dtype=np.int64)
    wrong = next(
        at
        for at, row in enumerate(by_id)
        if row is None and (ids is not None or not 0 <= by_number[at] < count)
    )
    raise BadInput(
        f"{name}: entry {wrong} is {shown(texts[wrong])}, which is not a given {what}; give rows from 0 to "
        f"{count - 1}" + (f", or the {what}s' ids" if ids is not None else "")
    )


def _among(
    corpus: Corpus,
    scheme: IdScheme,
    counts: tuple[int, int],
    image_ids: Column | None,
    caption_ids: Column | None,
    caption_image: Column | None,
) -> Identified:
    """Match the given rows to the items of the data set's test split, in its order."""
    remarks: list[str] = []
    items = items_of(corpus, "test")
    if image_ids is None:
        _check_count(counts[0], len(items.image_ids), "images", "--image-ids", corpus)
        image_rows = np.arange(counts[0])
        remarks.append(
            f"without image ids, rows are assumed to be in the order of {corpus.name}'s test images"
        )
    else:
        image_rows = _rows_of_known(image_ids, _spellings(items.image_ids, scheme), "image", corpus)
    if caption_ids is not None:
        corpus, text_rows = _captions_among(corpus, scheme, caption_ids)
        items = items_of(corpus, "test")
        if image_ids is None and caption_image is None:
            _check_images_in_order(text_rows, items, caption_ids, corpus)
    elif caption_image is None:
        _check_count(counts[1], len(items.caption_ids), "captions", "--caption-ids", corpus)
        if image_ids is not None and not np.array_equal(image_rows, np.arange(counts[0])):
            raise BadInput(
                f"{image_ids.name} is not in the order of {corpus.name}'s test images, so the order of the "
                "captions is unknown; give their ids too (--caption-ids), or each caption's image "
                "(--caption-image)"
            )
        text_rows = np.arange(counts[1])
        remarks.append(
            f"without caption ids, rows are assumed to be in the order of {corpus.name}'s test captions"
        )
    assert items.owner is not None
    if caption_image is not None:
        names = None if image_ids is None else image_ids.texts
        owner = rows_of(caption_image.values, names, counts[0], caption_image.name, "image")
        position = np.empty(counts[0], dtype=np.int64)
        position[image_rows] = np.arange(counts[0])
        owner = position[owner]
        if caption_ids is None:
            text_rows = _grouped(owner, items, caption_image, corpus)
        elif not np.array_equal(owner[text_rows], items.owner):
            row = int(text_rows[np.flatnonzero(owner[text_rows] != items.owner)[0]])
            raise BadInput(
                f"{caption_image.name}: caption {shown(caption_ids.texts[row])} has another image than in "
                f"{corpus.name}; leave the file out, since the ids already give the images"
            )
    if caption_ids is None:
        # Which of an image's captions is which would be a guess, and some metrics depend on their words.
        items = replace(items, captions=None)
    return Identified(
        items,
        image_rows,
        text_rows,
        images_known=image_ids is not None,
        owners_known=caption_ids is not None or (caption_image is not None and image_ids is not None),
        captions_known=caption_ids is not None,
        corpus=corpus,
        remarks=tuple(remarks),
    )


def _by_themselves(
    scheme: IdScheme,
    counts: tuple[int, int],
    image_ids: Column | None,
    caption_ids: Column | None,
    caption_image: Column | None,
    *,
    needs_owners: bool,
) -> Identified:
    """Identify the given rows without the data set, in the order given."""
    remarks: list[str] = []
    images = [str(row) for row in range(counts[0])] if image_ids is None else image_ids.texts
    owner: NDArray[np.int64] | None = None
    named = None if caption_ids is None else _images_of_captions(caption_ids, images, scheme, image_ids)
    if caption_image is not None:
        owner = rows_of(
            caption_image.values,
            None if image_ids is None else images,
            counts[0],
            caption_image.name,
            "image",
        )
        if named is not None and caption_ids is not None and not np.array_equal(named, owner):
            row = int(np.flatnonzero(named != owner)[0])
            raise BadInput(
                f"{caption_image.name}: caption {shown(caption_ids.texts[row])} is assigned to image "
                f"{shown(images[owner[row]])}, but its id names another; correct one of the two"
            )
    elif named is not None:
        owner = named
    elif counts[1] % counts[0] == 0 and needs_owners:
        each = counts[1] // counts[0]
        owner = np.repeat(np.arange(counts[0]), each)
        remarks.append(
            f"captions are assumed to be in the images' order, {each} per image; if they are not, give "
            "--caption-image"
        )
    elif needs_owners:
        raise BadInput(
            f"{counts[1]} captions cannot be divided evenly among {counts[0]} images; give each caption's "
            "image with --caption-image, or the positive pairs with --positives"
        )
    if owner is not None and image_ids is None and caption_ids is not None:
        place = "by its place" if caption_image is None else f"by {caption_image.name}"
        _check_names(caption_ids, owner, scheme, place)
    if owner is not None and not needs_owners and len(np.unique(owner)) < counts[0]:
        # Pairs define the positives; owners only say which queries belong together.
        owner = None
    if owner is not None and len(np.unique(owner)) < counts[0]:
        lonely = int(np.setdiff1d(np.arange(counts[0]), owner)[0])
        raise BadInput(f"image {shown(images[lonely])} has no caption; give it one, or leave it out")
    if caption_ids is not None:
        captions = caption_ids.texts
    elif owner is not None:
        # The index of each caption among those of its image.
        order = np.argsort(owner, kind="stable")
        firsts = np.searchsorted(owner[order], owner[order])
        within = np.empty(counts[1], dtype=np.int64)
        within[order] = np.arange(counts[1]) - firsts
        captions = [f"{images[image]}#{k}" for image, k in zip(owner.tolist(), within.tolist(), strict=True)]
    else:
        captions = [str(row) for row in range(counts[1])]
    return Identified(
        EvaluatedItems(images, captions, owner),
        np.arange(counts[0]),
        np.arange(counts[1]),
        images_known=image_ids is not None,
        owners_known=image_ids is not None and (caption_image is not None or named is not None),
        captions_known=caption_ids is not None,
        remarks=tuple(remarks),
    )


def _images_of_captions(
    caption_ids: Column, images: Sequence[str], scheme: IdScheme, image_ids: Column | None
) -> NDArray[np.int64] | None:
    """(M,) the images that the caption ids name; None if not all of them name one."""
    names = [image_named_by(name) for name in caption_ids.texts]
    if image_ids is None or not all(names):
        return None
    for spelled in (lambda name: name, lambda name: canonical_id(name, scheme)):
        position = {spelled(name): row for row, name in enumerate(images)}
        rows = [position.get(spelled(str(name))) for name in names]
        if len(position) == len(images) and all(row is not None for row in rows):
            return np.array(rows, dtype=np.int64)
    stranger = next(name for name, row in zip(caption_ids.texts, rows, strict=True) if row is None)
    raise BadInput(
        f"{caption_ids.name}: caption {shown(stranger)} names an image that is not in {image_ids.name}; "
        "correct one of the two"
    )


def _check_names(caption_ids: Column, owner: NDArray[np.int64], scheme: IdScheme, place: str) -> None:
    """Refuse captions that are taken to describe one image although their ids name several, or vice versa."""
    images = [image_named_by(name) for name in caption_ids.texts]
    if not all(images):
        return
    owners = owner.tolist()
    for names in (images, [canonical_id(str(name), scheme) for name in images]):
        if len(set(zip(names, owners, strict=True))) == len(set(names)) == len(set(owners)):
            return
    image_of: dict[str | None, int] = {}
    name_of: dict[int, str | None] = {}
    row = next(
        row
        for row, (name, image) in enumerate(zip(images, owners, strict=True))
        if image_of.setdefault(name, image) != image or name_of.setdefault(image, name) != name
    )
    raise BadInput(
        f"{caption_ids.name}: {place}, caption {shown(caption_ids.texts[row])} describes image "
        f"{owners[row]}, but the captions' ids contradict that; give the images' ids too (--image-ids)"
    )


def _check_images_in_order(
    text_rows: NDArray[np.int64], items: EvaluatedItems, caption_ids: Column, corpus: Corpus
) -> None:
    """Refuse images without ids where captions come in another order of images than the data set's.

    Whoever has put captions in an order of their own has probably put the images in the same.
    """
    owner = items.owner
    assert owner is not None

    def order(rows: NDArray[np.int64]) -> NDArray[np.int64]:
        first = np.full(len(items.image_ids), len(rows))
        np.minimum.at(first, owner, rows)
        return np.argsort(first, kind="stable")

    if not np.array_equal(order(text_rows), order(np.arange(len(text_rows)))):
        raise BadInput(
            f"{caption_ids.name} is not in the order of {corpus.name}'s test captions, so the order of the "
            "images is unknown; give their ids too (--image-ids)"
        )


def _spellings(names: Sequence[str], scheme: IdScheme) -> list[tuple[list[str], Any]]:
    """The known names, as they are and normalised, each with the function that normalises a given name."""
    canonical = [canonical_id(name, scheme) for name in names]
    spellings: list[tuple[list[str], Any]] = [(list(names), str)]
    if len(set(canonical)) == len(canonical):
        spellings.append((canonical, lambda name: canonical_id(name, scheme)))
    return spellings


def _captions_among(
    corpus: Corpus, scheme: IdScheme, caption_ids: Column
) -> tuple[Corpus, NDArray[np.int64]]:
    """The data set with only the given captions, and (M,) the given row of each of these.

    All test captions must be given; fewer are allowed if they form a named protocol's split, such as COCO's
    25,000 of 25,010.
    """
    rows = corpus.caption_rows("test")
    names = [corpus.caption_ids[row] for row in rows]
    canonical = [canonical_caption_id(name, scheme) for name in names]
    spellings: list[tuple[list[str], Any]] = [(names, str)]
    if len(set(canonical)) == len(canonical):
        spellings.append((canonical, lambda name: canonical_caption_id(name, scheme)))
    if corpus.caption_keys is not None:
        keys = [corpus.caption_keys[row].rpartition(":")[2] for row in rows]
        spellings.append((keys, lambda name: name.rpartition(":")[2]))
    known, spell = _spelling(caption_ids, spellings)
    given = {spell(name) for name in caption_ids.texts}
    kept = np.array([name in given for name in known])
    if 0 < kept.sum() == len(caption_ids) < len(known):
        fewer = _with_test_captions(corpus, rows[kept])
        if fewer is not None:
            corpus, known = fewer, [name for name in known if name in given]
    return corpus, _rows_of_known(caption_ids, [(known, spell)], "caption", corpus)


def _with_test_captions(corpus: Corpus, rows: NDArray[np.int64]) -> Corpus | None:
    """The data set with only these test captions, if they form a named protocol's split."""
    keep = corpus.split[corpus.caption_image] != "test"
    keep[rows] = True
    if len(np.unique(corpus.caption_image[keep])) < len(corpus.image_ids):
        return None
    fewer = corpus.with_captions(np.flatnonzero(keep))
    found = matches(
        corpus.name,
        items_of_test(fewer),
        real_labels=corpus.labels is not None,
        identities=corpus.identities is not None,
    )
    return fewer if any(match.verified for match in found) else None


def _spelling(given: Column, spellings: list[tuple[list[str], Any]]) -> tuple[list[str], Any]:
    """The spelling in which most of the given names are known; the first if tied."""
    return max(spellings, key=lambda each: len({each[1](name) for name in given.texts}.intersection(each[0])))


def _rows_of_known(
    given: Column, spellings: list[tuple[list[str], Any]], what: str, corpus: Corpus
) -> NDArray[np.int64]:
    """(n_known,) the given row of each known item; BadInput unless exactly these are given, once each."""
    known, spell = _spelling(given, spellings)
    row_of: dict[str, int] = {}
    for row, name in enumerate(given.texts):
        other = row_of.setdefault(spell(name), row)
        if other != row:
            raise BadInput(
                f"{given.name}: {shown(given.texts[other])} and {shown(name)} are the same {what}; "
                "give each once"
            )
    strangers = row_of.keys() - set(known)
    unknown = [name for name in given.texts if spell(name) in strangers]
    if unknown:
        raise BadInput(
            f"{given.name}: {len(unknown):,} of {len(given):,} {what}s are not in the test split of "
            f"{corpus.name} ({_some(unknown)}); give exactly its {len(known):,} {what}s"
        )
    missing = [name for name in known if name not in row_of]
    if missing:
        raise BadInput(
            f"{given.name}: {len(missing):,} of {len(known):,} test {what}s of {corpus.name} are missing "
            f"({_some(missing)}); give all of them"
        )
    return np.array([row_of[name] for name in known], dtype=np.int64)


def _grouped(
    owner: NDArray[np.int64], items: EvaluatedItems, caption_image: Column, corpus: Corpus
) -> NDArray[np.int64]:
    """(M,) the given row for each caption of the data set; an image's captions in the order given."""
    assert items.owner is not None
    counts = [np.bincount(rows, minlength=len(items.image_ids)) for rows in (owner, items.owner)]
    different = np.flatnonzero(counts[0] != counts[1])
    if len(different):
        image = int(different[0])
        raise BadInput(
            f"{caption_image.name}: image {shown(items.image_ids[image])} has {counts[0][image]} captions, "
            f"but {counts[1][image]} in {corpus.name}; give exactly those"
        )
    text_rows = np.empty(len(owner), dtype=np.int64)
    text_rows[np.argsort(items.owner, kind="stable")] = np.argsort(owner, kind="stable")
    return text_rows


def _check_count(given: int, known: int, what: str, option: str, corpus: Corpus) -> None:
    if given != known:
        raise BadInput(
            f"{given:,} {what} were given, but the test split of {corpus.name} has {known:,}; give those, "
            f"with their ids ({option})"
        )


def _some(names: Sequence[str]) -> str:
    more = " ..." if len(names) > _SHOWN else ""
    return ", ".join(shown(name) for name in names[:_SHOWN]) + more
