"""A planned job: everything needed to run it, and how it gets to the process that does."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.evaluation.protocols.protocol import Protocol
from crossmodal_bench.evaluation.protocols.splits import KnownSplit
from crossmodal_bench.jobs.directory import JobDirectory, read_json, write_json
from crossmodal_bench.jobs.experiments import Config
from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint
from crossmodal_bench.jobs.fingerprints.sources import fingerprint_of
from crossmodal_bench.jobs.record import Job


@dataclass(frozen=True)
class PlannedJob:
    """One job with its complete configuration.

    ``evaluate`` is the split that its numbers come from: ``val`` in suites that select hyperparameters.
    ``missing`` says which input is missing, and which command or download provides it. ``corpus`` is what the
    planning process has read, for workers forked from it. ``ddp_strategy`` and ``gpu_precision`` are the
    method's own. ``parents`` are the jobs whose trained weights it starts from, by method.
    ``resume_anyway``: whether it resumes from a checkpoint with a different basis.
    ``measure_missing``: whether it runs again if its record lacks a protocol of ``protocols``.
    ``requires`` are the views that its method reads. ``with_grid``: whether another job of the plan reads a
    grid of regions of the same images by the same network, so that one pass extracts both.
    ``ablation`` is the method without its adversary, if its file names one.
    ``plugins`` are the packages, besides ours, that the user trusts to provide classes.
    """

    job: Job
    config: Config
    protocols: list[Protocol]
    evaluate: str
    directory: Path
    split_hash: str
    data_fingerprint: str
    counts: dict[str, dict[str, int]]
    missing: str = ""
    ddp_strategy: str = "ddp"
    gpu_precision: str = "32-true"
    ablation: str | None = None
    plugins: tuple[str, ...] = ()
    parents: dict[str, PlannedJob] = field(default_factory=dict, repr=False)
    corpus: Corpus | None = field(default=None, repr=False, compare=False)
    resume_anyway: bool = False
    measure_missing: bool = False
    requires: tuple[str, ...] = ()
    with_grid: bool = False

    @property
    def files(self) -> JobDirectory:
        """The files in its directory."""
        return JobDirectory(self.directory)

    @property
    def title(self) -> str:
        """Its name in terminal output."""
        return f"{self.job.method} on {self.job.dataset} seed {self.job.seed}"

    def fingerprint(self) -> Fingerprint:
        """What determines its numbers today, except for the data."""
        return fingerprint_of(self.config, self.protocols)

    def save(self) -> None:
        """Save it in its directory for another process, which reads the corpus itself."""
        write_json(self.files.planned, to_json(self))

    @classmethod
    def load(cls, directory: Path) -> PlannedJob:
        """What ``save`` wrote there."""
        return from_json(read_json(JobDirectory(directory).planned))


def to_json(planned: PlannedJob) -> dict[str, Any]:
    """A planned job without its corpus, as JSON."""
    content = {name: value for name, value in vars(planned).items() if name not in ("corpus", "parents")}
    plain = json.loads(json.dumps(content, default=lambda value: getattr(value, "__dict__", str(value))))
    return {**plain, "parents": {name: to_json(parent) for name, parent in planned.parents.items()}}


def from_json(content: dict[str, Any]) -> PlannedJob:
    """The inverse of ``to_json``."""
    return PlannedJob(
        **{
            **content,
            "job": Job.model_validate(content["job"]),
            "protocols": [_protocol(protocol) for protocol in content["protocols"]],
            "directory": Path(content["directory"]),
            "plugins": tuple(content["plugins"]),
            "requires": tuple(content["requires"]),
            "parents": {name: from_json(parent) for name, parent in content["parents"].items()},
        }
    )


def _protocol(content: dict[str, Any]) -> Protocol:
    # JSON has no tuples.
    sequences = {name: tuple(content[name]) for name in ("captions", "families")}
    return Protocol(**{**content, **sequences, "split": KnownSplit(**content["split"])})
