"""Ids of the queries of a record's ranks, stored with the ranks or once for all runs of a split."""

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
"""Image ids and caption ids, in the order of the ranks."""

SHARED = "ids"
"""The array that replaces the query ids in a file of ranks: the digest of the file that has them."""

_DIGEST = re.compile("[0-9a-f]{16}")


def digest(image_ids: Sequence[str], caption_ids: Sequence[str]) -> str:
    """16 hexadecimal digits over the ids of both modalities, in order."""
    text = "\n".join([*image_ids, "", *caption_ids])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_query_ids(files: JobDirectory, ranks: Path) -> Ids:
    """The ids of the queries whose ranks are in one of the directory's files.

    Raises:
        MissingInput: a file is missing.
        BadInput: a file is damaged, or the shared one does not have the ids that the ranks were written with.
    """
    shared = stored_arrays(ranks, [SHARED]).get(SHARED)
    if shared is None:
        return Ranks.load_ids(ranks)
    name = str(shared)
    if not _DIGEST.fullmatch(name):
        raise BadInput(f"{ranks} does not name the file with its query ids; copy it again")
    path = files.shared_ids(name)
    ids = Ranks.load_ids(path)
    if digest(*ids) != name:
        raise BadInput(f"{path} does not have the ids that {ranks} was written with; copy it again")
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
    """The content of a file of shared ids."""
    return {"image_ids": np.array(ids[0], dtype=np.str_), "caption_ids": np.array(ids[1], dtype=np.str_)}
