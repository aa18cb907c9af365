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
        pictures: of the run, by name; the last that was logged.
        exit_code: None where the run was not finished.
        system: how many times processor, memory and GPU were measured.
    """

    id: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    tables: dict[str, list[dict[str, Any]]]
    pictures: dict[str, Path]
    exit_code: int | None
    system: int


def read_run(folder: Path) -> OfflineRun:
    """A run of a folder ``offline-run-…``."""
    (log,) = folder.glob("run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    entries = [json.loads(line) for line in printed.splitlines() if line.strip()]
    kinds: dict[str, list[Any]] = {}
    for entry in entries:
        kinds.setdefault(entry["type"], []).append(entry[entry["type"]])
    config: dict[str, Any] = {}
    for update in (kinds["run"][0]["config"], *kinds.get("config", [])):
        config |= update.get("update", {})
    summary: dict[str, Any] = {}
    for change in kinds.get("summary", []):
        summary |= change.get("update", {})
    tables = {}
    for path in sorted(folder.glob("files/media/table/*.json"), key=lambda path: path.stat().st_mtime):
        table = json.loads(path.read_text())
        name = path.name.removesuffix(".table.json").rsplit("_", 2)[0]
        tables[name] = [dict(zip(table["columns"], line, strict=True)) for line in table["data"]]
    images = folder / "files" / "media" / "images"
    pictures = {}
    for path in sorted(images.rglob("*.png"), key=lambda path: path.stat().st_mtime):
        pictures[str(path.relative_to(images)).rsplit("_", 2)[0]] = path
    return OfflineRun(
        id=kinds["run"][0]["run_id"],
        config=config,
        summary=summary,
        history=[line["item"] for line in kinds.get("history", [])],
        tables=tables,
        pictures=pictures,
        exit_code=kinds["exit"][-1]["exit_code"] if "exit" in kinds else None,
        system=len(kinds.get("stats", [])),
    )
