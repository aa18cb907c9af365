"""What a record says of its evaluations, and of the machine: shared by jobs and by ensembles of them."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.equal_inputs import equal_input_pairs
from crossmodal_bench.evaluation import Evaluation, Protocol, model_intervals
from crossmodal_bench.evaluation.positives import PositivePairs
from crossmodal_bench.evaluation.retrieved_captions import retrieved_caption_quality
from crossmodal_bench.jobs.directory import JobDirectory


def owners(corpus: Corpus, split: str) -> NDArray[np.int64]:
    """(n_captions,) position, in the split, of each of its captions' image."""
    rows = corpus.image_rows(split)
    return np.searchsorted(rows, corpus.caption_image[corpus.caption_rows(split)])


def identities_of(corpus: Corpus, split: str) -> NDArray[np.int64] | None:
    """(n_images,) identities of a split's images, if the data set has any."""
    return None if corpus.identities is None else corpus.identities[corpus.image_rows(split)]


def labels_of(corpus: Corpus, split: str) -> NDArray[Any] | None:
    """(n_images, ...) labels of a split's images, if the data set has any."""
    return None if corpus.labels is None else corpus.labels.values[corpus.image_rows(split)]


def positives_of(corpus: Corpus, split: str, protocol: Protocol) -> PositivePairs | None:
    """The positive pairs of a split, for a protocol that goes by pairs: those of equal inputs."""
    if protocol.positives != "pairs":
        return None
    counts = corpus.counts()[split]
    return PositivePairs.of(equal_input_pairs(corpus, split), counts["images"], counts["captions"])


def results(directory: Path, corpus: Corpus, split: str, evaluations: Iterable[Evaluation]) -> dict[str, Any]:
    """Save every evaluation's per-query results; the record's fields for all of them."""
    owner = owners(corpus, split)
    identities = identities_of(corpus, split)
    captions = [] if corpus.captions is None else [corpus.captions[row] for row in corpus.caption_rows(split)]

    def numbers(evaluation: Evaluation) -> dict[str, Any]:
        clusters = identities if evaluation.protocol.positives == "identity" else None
        retrieved: dict[str, float] = {}
        if (
            captions
            and evaluation.ranks is not None
            and evaluation.protocol.positives in ("caption", "label")
        ):
            retrieved = retrieved_caption_quality(
                evaluation.ranks.i2t_top, captions, owner, evaluation.protocol.folds
            )
        return {
            "metrics": {**evaluation.metrics, **retrieved},
            "bootstrap": model_intervals(evaluation, owner, clusters),
            "curves": evaluation.curves,
            "protocol_version": evaluation.protocol.version,
            "resembles": evaluation.protocol.resembles,
            "dropped": evaluation.dropped,
        }

    main, *others = evaluations
    files = JobDirectory(directory)
    image_ids = [corpus.image_ids[row] for row in corpus.image_rows(split)]
    caption_ids = [corpus.caption_ids[row] for row in corpus.caption_rows(split)]
    main.save(files.ranks, image_ids, caption_ids)
    for other in others:
        other.save(files.ranks_under(other.protocol.name), image_ids, caption_ids)
    return {**numbers(main), "also": {other.protocol.name: numbers(other) for other in others}}


def device_name(device: torch.device) -> str:
    """The GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_mb() -> float:
    """The most memory that this process has held: the GPU's where it used one, else the system's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
