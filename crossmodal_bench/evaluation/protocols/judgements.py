"""Human judgements on COCO's test split beyond a caption's own image, from the package eccv-caption.

It has the captions of the test split on which Karpathy's successors evaluate, by COCO's annotation ids, and
two sets of judgements: ECCV Caption (Chun et al., ECCV 2022) and Crisscrossed Captions (Parekh et al., EACL
2021). Only its files are read; none of its code runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crossmodal_bench.core.errors import BadInput, MissingInput
from crossmodal_bench.core.files import read_json
from crossmodal_bench.core.npy import load_npy
from crossmodal_bench.evaluation.protocols.splits import IdScheme, SplitItems, canonical_id
from crossmodal_bench.evaluation.ranking.positives import PositivePairs

Judged = Literal["eccv", "cxc"]
"""A set of judgements, named as in the package's files."""

PACKAGE = "eccv_caption"
INSTALL = "pip install 'crossmodal-bench[eccv]'"

_GALLERY = "coco_test_ids.npy"
_IMAGES: IdScheme = "coco"


@dataclass(frozen=True)
class Judgements:
    """The gallery, the queries and their correct answers, by COCO's numbers.

    Attributes:
        captions: (25000,) the captions of the gallery.
        of_images: for each query image, the captions that are correct for it; some may not be among
            ``captions``.
        of_captions: for each query caption, the images that are correct for it.
    """

    captions: NDArray[np.int64]
    of_images: Mapping[int, tuple[int, ...]]
    of_captions: Mapping[int, tuple[int, ...]]


def is_installed() -> bool:
    """Whether the package is installed; it is not imported."""
    return _folder() is not None


def read_judgements(judged: Judged) -> Judgements:
    """A set of judgements.

    Raises:
        MissingInput: the package is not installed.
        BadInput: its files are damaged.
    """
    folder = _folder()
    if folder is None:
        raise MissingInput(f"the package eccv-caption is not installed; {INSTALL}")
    return _read(judged, folder)


def judgements_digest(judged: Judged) -> str:
    """16 hexadecimal digits of the judgements' files; empty if the package is not installed."""
    folder = _folder()
    if folder is None:
        return ""
    digest = hashlib.sha256()
    for path in _files(judged, folder):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def obstacle(judged: Judged, items: SplitItems) -> str:
    """Why nothing can be measured with the judgements on a split, as a clause; empty if it can be.

    Args:
        judged: which judgements.
        items: a split whose images are known to be those of COCO's test split.

    Raises:
        BadInput: the package's files are damaged.
    """
    if not is_installed():
        return f"the package eccv-caption is not installed ({INSTALL})"
    if items.caption_keys is None:
        return "its captions have no COCO ids, which Karpathy's dataset_coco.json has (sentid)"
    gallery = read_judgements(judged).captions
    missing = len(set(gallery.tolist()).difference(_caption_numbers(items.caption_keys)))
    if missing:
        return f"{missing:,} of the {len(gallery):,} judged captions are not among its own"
    return ""


def judged_pairs(
    judged: Judged, image_ids: Sequence[str], caption_keys: Sequence[str] | None
) -> PositivePairs:
    """The judgements as pairs of rows of a split.

    Captions that were not judged are not part of the gallery. An image and a caption form a pair if either of
    them was judged correct for the other; the queries are listed separately.

    Args:
        judged: which judgements.
        image_ids: of the split's images, in any spelling of COCO's.
        caption_keys: COCO's ids of the split's captions.

    Raises:
        MissingInput: the package is not installed.
        BadInput: its files are damaged, or the split lacks one of their images or captions.
    """
    judgements = read_judgements(judged)
    if caption_keys is None:
        raise BadInput(
            "the captions have no COCO ids, by which they were judged; use Karpathy's dataset_coco.json"
        )
    row_of_image = {canonical_id(name, _IMAGES): row for row, name in enumerate(image_ids)}
    row_of_caption = {number: row for row, number in enumerate(_caption_numbers(caption_keys))}
    gallery = set(judgements.captions.tolist())
    absent = np.zeros(len(image_ids), dtype=np.int64)
    asked_images = np.zeros(len(image_ids), dtype=np.bool_)
    asked_texts = np.zeros(len(caption_keys), dtype=np.bool_)
    pairs: list[tuple[int, int]] = []
    try:
        for image, captions in judgements.of_images.items():
            row = row_of_image[str(image)]
            asked_images[row] = True
            known = [caption for caption in captions if caption in gallery]
            absent[row] = len(captions) - len(known)
            pairs += [(row, row_of_caption[caption]) for caption in known]
        for caption, images in judgements.of_captions.items():
            row = row_of_caption[caption]
            asked_texts[row] = True
            pairs += [(row_of_image[str(image)], row) for image in images]
        left_out = np.ones(len(caption_keys), dtype=np.bool_)
        left_out[[row_of_caption[caption] for caption in judgements.captions.tolist()]] = False
    except KeyError as error:
        raise BadInput(
            f"COCO's item {error.args[0]} was judged but is not in the split; use Karpathy's test split"
        ) from error
    return PositivePairs.of(np.array(pairs), len(image_ids), len(caption_keys)).asking(
        asked_images, asked_texts, absent=absent, left_out=left_out
    )


def _folder() -> Path | None:
    found = find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "data"


def _files(judged: Judged, folder: Path) -> tuple[Path, Path, Path]:
    return (
        folder / _GALLERY,
        folder / f"{judged}_image_to_caption.json",
        folder / f"{judged}_caption_to_image.json",
    )


@cache
def _read(judged: Judged, folder: Path) -> Judgements:
    gallery_file, images_file, captions_file = _files(judged, folder)
    captions = load_npy(gallery_file)
    if captions.ndim != 1 or captions.dtype.kind != "i" or len(np.unique(captions)) < len(captions):
        raise BadInput(f"{gallery_file} does not hold unique caption ids; reinstall eccv-caption")
    judgements = Judgements(captions.astype(np.int64), _answers(images_file), _answers(captions_file))
    _check_agreement(judgements, images_file)
    return judgements


def _answers(path: Path) -> dict[int, tuple[int, ...]]:
    """For each query, its correct answers, each once."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path} holds no answers by query; reinstall eccv-caption")
    answers: dict[int, tuple[int, ...]] = {}
    for query, given in content.items():
        if (
            not _is_number(query)
            or not isinstance(given, list)
            or not given
            or not all(map(_is_number, given))
        ):
            raise BadInput(
                f"{path}: the answers to '{query}' are not a list of COCO ids; reinstall eccv-caption"
            )
        answers[int(query)] = tuple(dict.fromkeys(int(answer) for answer in given))
    return answers


def _check_agreement(judgements: Judgements, path: Path) -> None:
    """Reject judgements of a pair that differ between the directions: they would not be pairs."""
    of_images = {
        (image, caption)
        for image, captions in judgements.of_images.items()
        for caption in captions
        if caption in judgements.of_captions
    }
    of_captions = {
        (image, caption)
        for caption, images in judgements.of_captions.items()
        for image in images
        if image in judgements.of_images
    }
    if of_images != of_captions:
        image, caption = min(of_images ^ of_captions)
        raise BadInput(
            f"{path}: image {image} and caption {caption} are correct for each other in one direction only; "
            "reinstall eccv-caption"
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return False
    return str(value).isascii() and str(value).isdigit() and len(str(value)) < 19


def _caption_numbers(caption_keys: Sequence[str]) -> list[int]:
    """COCO's ids as numbers, -1 for anything else; a reader may have added a prefix."""
    numbers = [key.rpartition(":")[2] for key in caption_keys]
    return [int(number) if _is_number(number) else -1 for number in numbers]
