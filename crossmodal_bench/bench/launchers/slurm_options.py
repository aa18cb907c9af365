"""What `--slurm KEY=VALUE` and DEVICES mean for sbatch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.errors import BadInput

DECIDED = {
    "ntasks": "DEVICES and nodes",
    "ntasks_per_node": "DEVICES",
    "tasks_per_node": "DEVICES",
    "gpus_per_task": "gpus_per_node",
    "gpus": "gpus_per_node",
    "job_name": "the bench",
    "signal": "signal_delay_s",
    "array": "the bench",
    "requeue": "the bench",
}
"""Keys that would contradict other settings, and what to set instead."""
SUBMITITS = {
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "time",
    "partition",
    "mem",
    "setup",
    "teardown",
    "signal_delay_s",
    "account",
    "qos",
    "constraint",
    "exclude",
    "nodelist",
    "gres",
    "exclusive",
    "wckey",
}
"""Keys that submitit has parameters for; all others go to sbatch as they are."""


def tasks_per_node(options: BenchOptions) -> int:
    """Processes of a job per node, one for each device; BadInput if there are fewer GPUs than that."""
    gpus = re.search(r"\d+$", str(options.slurm.get("gpus_per_node", "")))
    if not options.devices.isdigit():
        return int(gpus.group()) if gpus and options.devices == "auto" else 1
    if gpus and int(gpus.group()) < int(options.devices):
        raise BadInput(
            f"DEVICES is {options.devices}, but --slurm gpus_per_node is {options.slurm['gpus_per_node']}; "
            "request as many GPUs per node as DEVICES"
        )
    return int(options.devices)


def asks_for_gpus(given: Mapping[str, Any]) -> bool:
    """Whether jobs with these options will see a GPU."""
    return "gpus_per_node" in given or "gpu" in str(given.get("gres", ""))


def executor_parameters(options: BenchOptions, name: str) -> dict[str, Any]:
    """Parameters of submitit's SlurmExecutor.

    Args:
        options: the bench's options.
        name: the job's name in the queue.

    Raises:
        BadInput: a key is set by the bench itself, or a number is invalid.
    """
    given = options.slurm
    for key, instead in DECIDED.items():
        if key in given:
            raise BadInput(f"--slurm {key} is determined by {instead}; leave it out")
    for key in ("nodes", "cpus_per_task", "signal_delay_s"):
        if key in given and not (isinstance(given[key], int) and given[key] > 0):
            raise BadInput(f"--slurm {key} is '{given[key]}'; give a whole number from 1")
    own = {key: value for key, value in given.items() if key in SUBMITITS}
    # If one process dies, the others must not wait for it forever; and srun does not inherit sbatch's number
    # of CPUs.
    arguments = ["--kill-on-bad-exit=1"]
    if "cpus_per_task" in given:
        arguments.append(f"--cpus-per-task={given['cpus_per_task']}")
    return {
        # submitit would request five minutes; without a time, the partition's default applies.
        "time": None,
        "wckey": None,
        **own,
        "job_name": name,
        "ntasks_per_node": tasks_per_node(options),
        "srun_args": arguments,
        "additional_parameters": {key: value for key, value in given.items() if key not in SUBMITITS},
    }
