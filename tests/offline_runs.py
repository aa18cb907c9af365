"""Offline W&B runs, read back by W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record as Entry


def entries_of(log: Path) -> list[dict[str, Any]]:
    """The lines of `wandb leet inspect --json`, which prints what it would upload."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in printed.splitlines() if line.strip()]
