"""How a job's processes know of each other: started by the bench on one machine, or by SLURM on several."""

from __future__ import annotations

import os
from typing import Any

TASK = "CROSSMODAL_BENCH_TASK"
"""Environment variable of a job's processes on a cluster; without it, SLURM's are not about the job."""


def global_rank() -> int:
    """Of this process among those of its job."""
    return int(os.environ.get("SLURM_PROCID" if TASK in os.environ else "LOCAL_RANK", "0"))


def trainer_arguments(ddp_strategy: str = "ddp") -> dict[str, Any]:
    """Arguments of the Trainer of a job's process.

    Without them it takes a bench within an allocation for one of SLURM's tasks, and a time limit's signal for
    its own business.
    """
    if "SLURM_NTASKS" not in os.environ:
        return {}
    # Whoever asks for a rank alone needs no Lightning, which takes seconds to import.
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

    if TASK not in os.environ:
        return {"plugins": [LightningEnvironment()]}
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    several = {"num_nodes": nodes, "strategy": ddp_strategy} if nodes > 1 else {}
    return {"plugins": [SLURMEnvironment(auto_requeue=False)], **several}
