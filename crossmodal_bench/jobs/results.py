"""A record's fields about evaluations and the machine, shared by jobs, ensembles and given vectors."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from crossmodal_bench.evaluation import Evaluation
from crossmodal_bench.evaluation.items import EvaluatedItems
from crossmodal_bench.evaluation.numbers import numbers
from crossmodal_bench.jobs.directory import JobDirectory


def results(directory: Path, items: EvaluatedItems, evaluations: Iterable[Evaluation]) -> dict[str, Any]:
    """Save every evaluation's per-query results and return the record's fields for all of them."""
    main, *others = evaluations
    files = JobDirectory(directory)
    main.save(files.ranks, items.image_ids, items.caption_ids)
    for other in others:
        other.save(files.ranks_under(other.protocol.name), items.image_ids, items.caption_ids)
    also = {other.protocol.name: numbers(other, items) for other in others}
    return {**numbers(main, items), "also": also}


def device_name(device: torch.device) -> str:
    """The GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_mb() -> float:
    """The peak memory of this process: GPU memory if it used a GPU, else system memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
