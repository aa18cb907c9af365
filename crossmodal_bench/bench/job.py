"""`python -m crossmodal_bench.bench.job DIRECTORY DEVICES`: a job in a process of its own (GPUs, several processes)."""

from __future__ import annotations

import sys
from pathlib import Path

from crossmodal_bench.bench.processes import PLANNED, from_json, guarded
from crossmodal_bench.bench.state import read_json

if __name__ == "__main__":
    sys.exit(guarded(from_json(read_json(Path(sys.argv[1]) / PLANNED)), sys.argv[2]))
