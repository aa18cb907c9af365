"""How a job's processes find each other: started by the bench on one machine, or by SLURM on several."""

from __future__ import annotations

import os
from typing import Any

TASK = "CROSSMODAL_BENCH_TASK"
"""Environment variable of a job's processes on a cluster; if unset, SLURM's variables don't concern it."""


def global_rank() -> int:
    """The rank of this process among those of its job."""
    return int(os.environ.get("SLURM_PROCID" if TASK in os.environ else "LOCAL_RANK", "0"))


def trainer_arguments(ddp_strategy: str = "ddp") -> dict[str, Any]:
    """Arguments for the Trainer in a job's process.

    Without them, Lightning would take a bench inside an allocation for a SLURM task, and would handle the
    time limit's signal itself.
    """
    if "SLURM_NTASKS" not in os.environ:
        return {}
    # Callers that only need a rank shouldn't import Lightning, which takes seconds.
    from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

    if TASK not in os.environ:
        return {"plugins": [LightningEnvironment()]}
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    several = {"num_nodes": nodes, "strategy": ddp_strategy} if nodes > 1 else {}
    return {"plugins": [SLURMEnvironment(auto_requeue=False)], **several}
