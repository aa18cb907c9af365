"""What the bench asks of the place where its jobs run: this machine, or a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from crossmodal_bench.jobs.planned import PlannedJob


@dataclass(frozen=True)
class Slot:
    """Room for one job: the DEVICES of its workers, and their environment variables."""

    devices: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Launched(Protocol):
    """A job that has been started somewhere."""

    @property
    def exit_code(self) -> int | None:
        """Its exit status, once it has ended; negative for a signal."""

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""

    def terminate(self) -> None:
        """Tell it to end."""

    def stop(self) -> None:
        """End it, or leave it where it runs without this bench."""


class Launcher(Protocol):
    """Where jobs run."""

    slots: list[Slot]
    allows_dry_runs: bool
    """Whether jobs run on a machine like this one, so that steps may be timed here."""

    def start(self, planned: PlannedJob, slot: Slot) -> Launched:
        """Start a job, or keep following one that is running."""

    def adopts(self, planned: PlannedJob) -> bool:
        """Whether a job that is already running elsewhere can be followed from here."""

    def parting(self) -> str:
        """What keeps running when this bench is interrupted, as a sentence."""
