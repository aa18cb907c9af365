"""Whether processes can train together: gloo, NCCL, host names, and launchers."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from crossmodal_bench.cli.doctor.findings import Finding, Status, Target, resolved

PATIENCE = 8.0
"""Seconds for two processes to find each other."""


def gloo(target: Target) -> Iterator[Finding]:
    """Let two processes form a group over the loopback interface and add two numbers."""
    start = time.monotonic()
    failure = loopback_failure()
    if failure:
        fix = (
            "allow processes on this machine to connect over 127.0.0.1 (firewall, sandbox); "
            "GLOO_SOCKET_IFNAME=lo chooses the interface. Training on one device does not need this"
        )
        yield Finding("gloo", "problem", f"two processes cannot form a group: {failure}", fix)
    else:
        yield Finding("gloo", "ok", f"two processes found each other in {time.monotonic() - start:.1f} s")


def loopback_failure(patience: float = PATIENCE) -> str:
    """Why two processes could not form a group and add two numbers; empty if they could."""
    # A forked process inherits the torch that is already imported here.
    context: Any = multiprocessing.get_context("fork" if sys.platform.startswith("linux") else "spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receiver, sender = context.Pipe(duplex=False)
    workers = [
        context.Process(target=_meet, args=(rank, port, patience, sender), daemon=True) for rank in (0, 1)
    ]
    for worker in workers:
        worker.start()
    sender.close()
    deadline = time.monotonic() + patience + 2
    try:
        for _ in workers:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                return f"no answer within {patience + 2:.0f} s"
            failure = str(receiver.recv())
            if failure:
                return failure
    except EOFError:
        return "a process ended without a message"
    finally:
        for worker in workers:
            worker.join(max(0.0, min(1.0, deadline - time.monotonic())))
            worker.kill()
    return ""


def _meet(rank: int, port: int, patience: float, sender: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    failure = ""
    try:
        wait = timedelta(seconds=patience)
        store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0, timeout=wait)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=wait)
        number = torch.tensor([rank + 1.0])
        dist.all_reduce(number)
        if number.item() != 3.0:
            failure = f"1 + 2 was {number.item():g}"
        # The first process hosts the store, so it must not exit before the other is done.
        dist.barrier()
        dist.destroy_process_group()
    except Exception as error:
        failure = (str(error).splitlines() or [type(error).__name__])[0]
    sender.send(failure)


def nccl(target: Target) -> Iterator[Finding]:
    """NCCL, required for several GPUs."""
    import torch

    if not torch.cuda.is_available():
        yield Finding("NCCL", "information", "not needed: no CUDA GPU")
    elif torch.distributed.is_nccl_available():
        number = ".".join(map(str, torch.cuda.nccl.version()))
        yield Finding("NCCL", "ok", number)
    else:
        fix = "install a torch build with it, or train on one device (DEVICES=1)"
        status: Status = "problem" if torch.cuda.device_count() > 1 else "warning"
        yield Finding("NCCL", status, "torch was built without NCCL", fix)


def hosts(target: Target) -> Iterator[Finding]:
    """Whether this machine's name and that of the rank-0 machine resolve."""
    master = os.environ.get("MASTER_ADDR")
    if master is not None:
        address = resolved(master)
        if address is None:
            fix = "set MASTER_ADDR to a name or address that every machine of the job can reach"
            yield Finding("MASTER_ADDR", "problem", f"'{master}' does not resolve", fix)
        else:
            yield Finding("MASTER_ADDR", "ok", f"{master} resolves to {address}")
    name = socket.gethostname()
    address = resolved(name)
    if address is None:
        fix = f"add '127.0.1.1 {name}' to /etc/hosts, or set GLOO_SOCKET_IFNAME to the interface to use"
        yield Finding("host name", "warning", f"'{name}' does not resolve, but gloo looks it up", fix)
    else:
        yield Finding("host name", "ok", f"{name} resolves to {address}")


def launchers(target: Target) -> Iterator[Finding]:
    """What launched this process, and whether jobs can be submitted to SLURM."""
    yield launched_by(os.environ)
    if shutil.which("sbatch") is None:
        yield Finding("SLURM", "information", "no sbatch found: jobs run on this machine")
    elif importlib.util.find_spec("submitit") is None:
        text = "sbatch was found, but submitit is not installed: --launcher slurm cannot work"
        fix = "pip install 'crossmodal-bench[slurm]' (in a checkout: pip install -e '.[slurm]')"
        yield Finding("SLURM", "warning", text, fix)
    else:
        yield Finding("SLURM", "ok", "sbatch and submitit were found: bench --launcher slurm submits jobs")


def launched_by(environment: Mapping[str, str]) -> Finding:
    """The launcher found in the environment; a partial one makes training wait for absent processes."""
    if "TORCHELASTIC_RUN_ID" in environment:
        rank = environment.get("RANK", "?")
        world_size = environment.get("WORLD_SIZE", "?")
        return Finding("launcher", "information", f"torchrun: process {rank} of {world_size}")
    if "SLURM_JOB_ID" in environment:
        number = environment["SLURM_JOB_ID"]
        tasks = int(environment.get("SLURM_NTASKS", "1"))
        if tasks > 1 and "SLURM_STEP_ID" not in environment:
            text = f"SLURM job {number} has {tasks} tasks, but this process is not one of them"
            fix = "start with srun, one process per task"
            return Finding("launcher", "warning", text, fix)
        return Finding("launcher", "information", f"SLURM job {number}, {tasks} tasks")
    left = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK") if name in environment]
    if left:
        text = f"{', '.join(left)} set, but by neither torchrun nor SLURM"
        fix = f"unset {' '.join(left)}, unless you start the other processes yourself"
        return Finding("launcher", "warning", text, fix)
    return Finding("launcher", "information", "none: Lightning starts the processes")
