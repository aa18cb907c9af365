"""`fit` as users start it on several devices and machines: two machines are two processes of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import configuration

import crossmodal_bench

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FIT = ("-m", "crossmodal_bench", "fit", "--config", "config.yaml", "--trainer.accelerator=cpu")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    source = str(Path(crossmodal_bench.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([source, environment.get("PYTHONPATH", "")])
    with (folder / f"{len(list(folder.glob('*.log')))}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, stdout=log, stderr=log, text=True
        )


def check_end(folder: Path, *started: subprocess.Popen[str]) -> None:
    ended = [one.wait(300) for one in started]
    assert not any(ended), "\n".join(path.read_text()[-3000:] for path in folder.glob("*.log"))


def saved(folder: Path) -> dict[str, Any]:
    """The one checkpoint of a run."""
    (path,) = folder.rglob("*.ckpt")
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("method", ["acmr", "addr_scan", "timam", "gxn"])
def test_two_machines_train_to_the_bit_as_two_processes_of_one(method: str, tmp_path: Path) -> None:
    config = configuration(method, **{"trainer.max_epochs": 2, "data.batch_size": 4})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    alone = start(tmp_path, *FIT, "--trainer.devices=2", "--trainer.default_root_dir=one")
    check_end(tmp_path, alone)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = ("-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", f"--master_port={port}")
    several = ("--trainer.devices=1", "--trainer.num_nodes=2", "--trainer.default_root_dir=two")
    machines = [
        start(tmp_path, *torchrun, "--master_addr=127.0.0.1", f"--node_rank={node}", *FIT, *several)
        for node in range(2)
    ]
    check_end(tmp_path, *machines)
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        assert torch.equal(two["state_dict"][name], weight), name
    # Machines have banks of their own, whose changes they exchange.
    assert ("discriminators" in one) == (method == "addr_scan")
    for name, part in one.get("discriminators", {}).items():
        assert (
            torch.equal(two["discriminators"][name], part)
            if torch.is_tensor(part)
            else two["discriminators"][name] == part
        )
