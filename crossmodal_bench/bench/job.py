"""`python -m crossmodal_bench.bench.job DIRECTORY DEVICES`: a job in a process of its own, or in several."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from crossmodal_bench.bench.processes import PARENT, PLANNED, follow, from_json, guarded
from crossmodal_bench.bench.state import read_json

if __name__ == "__main__":
    follow(int(os.environ.get(PARENT, os.getppid())))
    sys.exit(guarded(from_json(read_json(Path(sys.argv[1]) / PLANNED)), sys.argv[2]))
