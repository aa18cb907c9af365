"""Ids of the queries behind a record's ranks: in the file of the ranks, or once for all runs of a split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.evaluation.protocols.splits import IdScheme, canonical_caption_id, canonical_id
from crossmodal_bench.evaluation.ranking.ranks import Ranks, stored_arrays
from crossmodal_bench.jobs.directory import JobDirectory

Ids = tuple[list[str], list[str]]
"""Ids of the images and of the captions, in the order of the ranks."""

SHARED = "ids"
"""The array that stands in a file of ranks for the ids of its queries: the digest of a file that has them."""

_DIGEST = re.compile("[0-9a-f]{16}")


def digest(image_ids: Sequence[str], caption_ids: Sequence[str]) -> str:
    """16 hexadecimal digits over the ids of both sides, in order."""
    text = "\n".join([*image_ids, "", *caption_ids])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_query_ids(files: JobDirectory, ranks: Path) -> Ids:
    """The ids of the queries whose ranks are in one of the directory's files.

    Raises:
        MissingInput: a file is not there.
        BadInput: a file is damaged, or the shared one has other ids than the ranks were written with.
    """
    shared = stored_arrays(ranks, [SHARED]).get(SHARED)
    if shared is None:
        return Ranks.load_ids(ranks)
    name = str(shared)
    if not _DIGEST.fullmatch(name):
        raise BadInput(f"{ranks} names no file of its queries' ids; copy it again")
    path = files.shared_ids(name)
    ids = Ranks.load_ids(path)
    if digest(*ids) != name:
        raise BadInput(f"{path} holds other ids than {ranks} was written with; copy it again")
    return ids


def spelled_alike(ids: Ids, scheme: IdScheme) -> Ids:
    """The ids in their one spelling; those of a side as they are where two would become the same."""
    # A file that others wrote may hold numbers.
    images, captions = ([str(name) for name in side] for side in ids)
    spelled = (
        [canonical_id(name, scheme) for name in images],
        [canonical_caption_id(name, scheme) for name in captions],
    )
    return (
        spelled[0] if len(set(spelled[0])) == len(images) else images,
        spelled[1] if len(set(spelled[1])) == len(captions) else captions,
    )


def shared_arrays(ids: Ids) -> dict[str, np.ndarray]:
    """What the file of shared ids holds."""
    return {"image_ids": np.array(ids[0], dtype=np.str_), "caption_ids": np.array(ids[1], dtype=np.str_)}
