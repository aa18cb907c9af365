"""A model's encodings of the items that it searches, with their ids, as stored in a job's directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossmodal_bench.core.atomic_files import replace_file
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.files import parse_json
from crossmodal_bench.core.npy import load_npz, names_in_npz
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.evaluation.items import owners
from crossmodal_bench.jobs.directory import check_own

KEPT = 128 * 2**20
"""Bytes of encodings that a job keeps: 1,024-dimensional vectors of COCO's 5,000 images and 25,000 captions.
The fragments of a thousand images take more, and are encoded again on demand."""

_NAMES = ("image_ids", "caption_ids", "captions", "split")


@dataclass(frozen=True)
class EncodedGallery:
    """N images and M captions as encoded by a model; either may be empty.

    Attributes:
        split: of the data set, or another description of the items, for messages.
        image_ids: N names.
        images: N encodings, or None.
        caption_ids: M names.
        texts: M encodings, or None.
        caption_image: (M,) the image that each caption describes; empty if unknown.
        captions: M sentences; empty if the data set has only features of them.
    """

    split: str
    image_ids: tuple[str, ...] = ()
    images: Encoding | None = None
    caption_ids: tuple[str, ...] = ()
    texts: Encoding | None = None
    caption_image: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    captions: tuple[str, ...] = ()

    def captions_of(self, image: int) -> list[str]:
        """The sentences that describe an image."""
        return (
            [self.captions[row] for row in np.flatnonzero(self.caption_image == image)]
            if self.captions
            else []
        )


def gallery_of(corpus: Corpus, split: str, images: Encoding, texts: Encoding) -> EncodedGallery:
    """The gallery of a whole split of a corpus; the encodings are in its order."""
    image_rows, caption_rows = corpus.image_rows(split), corpus.caption_rows(split)
    return EncodedGallery(
        split,
        tuple(corpus.image_ids[row] for row in image_rows),
        images,
        tuple(corpus.caption_ids[row] for row in caption_rows),
        texts,
        owners(corpus, split),
        () if corpus.captions is None else tuple(corpus.captions[row] for row in caption_rows),
    )


def keep_gallery(path: Path, gallery: EncodedGallery) -> bool:
    """Write a job's gallery; if it is larger than ``KEPT``, remove an earlier one instead.

    Returns:
        Whether it was written.
    """
    encodings = [side for side in (gallery.images, gallery.texts) if side is not None]
    if sum(side.values.numel() * side.values.element_size() for side in encodings) > KEPT:
        path.unlink(missing_ok=True)
        return False
    write_gallery(path, gallery)
    return True


def write_gallery(path: Path, gallery: EncodedGallery) -> None:
    """Write a gallery atomically; OSError if the file system refuses."""
    names = {name: getattr(gallery, name) for name in _NAMES}
    arrays: dict[str, NDArray[Any]] = {
        # Not as a string array, in which every entry takes as much space as the longest.
        "names": np.frombuffer(json.dumps(names).encode(), dtype=np.uint8),
        "caption_image": gallery.caption_image,
    }
    for side, encoding in (("image", gallery.images), ("text", gallery.texts)):
        if encoding is None:
            continue
        # NumPy has no bfloat16; scoring widens the values in any case.
        values = encoding.values if encoding.values.dtype == torch.float64 else encoding.values.float()
        arrays[f"{side}_values"] = values.cpu().numpy()
        if encoding.lengths is not None:
            arrays[f"{side}_lengths"] = encoding.lengths.cpu().numpy()
    replace_file(path, lambda stream: np.savez(stream, allow_pickle=False, **arrays), durable=False)


def read_gallery(path: Path) -> EncodedGallery:
    """What ``write_gallery`` wrote.

    Raises:
        BadInput: it is damaged, or a link out of RUNS.
    """
    try:
        check_own(path)
        arrays = load_npz(path, names_in_npz(path))
        names = parse_json(arrays["names"].tobytes().decode())
        texts = {name: _texts(names[name]) for name in _NAMES if name != "split"}
        gallery = EncodedGallery(
            split=str(names["split"]),
            images=_encoding(arrays, "image"),
            texts=_encoding(arrays, "text"),
            caption_image=arrays["caption_image"].astype(np.int64, casting="safe"),
            **texts,
        )
        _check(gallery)
    except BadInput:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{path} is not a gallery of encodings ({error}); delete it") from error
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); delete it") from error
    return gallery


def _texts(content: Any) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        raise TypeError("its names are not strings")
    return tuple(content)


def _encoding(arrays: dict[str, NDArray[Any]], side: str) -> Encoding | None:
    if f"{side}_values" not in arrays:
        return None
    values = torch.from_numpy(arrays[f"{side}_values"])
    lengths = arrays.get(f"{side}_lengths")
    if not values.is_floating_point() or values.ndim < 2:
        raise ValueError(f"its {side} encodings have the wrong type or shape")
    return Encoding(values, None if lengths is None else torch.from_numpy(lengths.astype(np.int64)))


def _check(gallery: EncodedGallery) -> None:
    sides: Sequence[tuple[Encoding | None, int]] = (
        (gallery.images, len(gallery.image_ids)),
        (gallery.texts, len(gallery.caption_ids)),
    )
    for encoding, count in sides:
        if (0 if encoding is None else len(encoding)) != count:
            raise ValueError("encodings and names do not match")
        lengths = None if encoding is None else encoding.lengths
        if encoding is None or lengths is None:
            continue
        if lengths.min() < 0 or int(lengths.sum()) != len(encoding.values):
            raise ValueError("lengths and fragments do not match")
    owner, captions = gallery.caption_image, gallery.captions
    if len(captions) not in (0, len(gallery.caption_ids)) or owner.shape not in (
        (0,),
        (len(gallery.caption_ids),),
    ):
        raise ValueError("captions and names do not match")
    if len(owner) and gallery.image_ids and not 0 <= owner.min() <= owner.max() < len(gallery.image_ids):
        raise ValueError("captions refer to missing images")
