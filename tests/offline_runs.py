"""Offline W&B runs, read back by W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class OfflineRun:
    """What `wandb leet inspect` prints of a run.

    Attributes:
        id: of the run.
        config: nested.
        summary: by name.
        history: a mapping for each step.
        tables: lines of each table, by name; the last that was logged.
        exit_code: None where the run was not finished.
        system: how many times processor, memory and GPU were measured.
    """

    id: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    tables: dict[str, list[dict[str, Any]]]
    exit_code: int | None
    system: int


def lines_of(log: Path) -> list[dict[str, Any]]:
    """What W&B's reader prints of a .wandb file, one entry a line."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in printed.splitlines() if line.strip()]
