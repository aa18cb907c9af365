"""`python -m crossmodal_bench.bench.launchers.job DIRECTORY DEVICES [PLUGIN ...]`: one job in a process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from crossmodal_bench.core.signals import listen_deferred

if __name__ == "__main__":
    # The libraries take seconds to import, and a stop may be requested meanwhile.
    request = listen_deferred()

    from crossmodal_bench.bench.launchers.subprocesses import PARENT, follow, guarded
    from crossmodal_bench.core.class_paths import trust
    from crossmodal_bench.jobs.planned import PlannedJob

    follow(int(os.environ.get(PARENT, os.getppid())))
    # Plugins come from the command line only, never from a file in a folder of records.
    trust(sys.argv[3:])
    sys.exit(guarded(PlannedJob.load(Path(sys.argv[1])), sys.argv[2], request=request))
