"""ADDR's discriminators on several processes: each trained once an epoch, whole in checkpoints."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

PARTS = ("parameters", "first", "second", "steps")


def work(rank: int, world: int, folder: str, checkpoint: str, epochs: int) -> None:
    """One process of a training run."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    from test_method import settings

    from crossmodal_bench.training.lightning_cli import instantiate

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world
    )
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world), RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "accelerator": "cpu",
        "devices": world,
    }
    config = settings(**{"trainer.limit_val_batches": 0, "trainer.max_epochs": epochs})
    cli = instantiate(config, [], strategy=instantiate(config).model.ddp_strategy, **quiet)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint or None, weights_only=True)
    cli.trainer.save_checkpoint(f"{folder}/saved.ckpt")
    held = {name: getattr(cli.model.discriminators, name).clone() for name in PARTS}
    host = torch.cat([p.detach().flatten() for p in cli.model.parameters()])
    torch.save({**held, "host": host}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def run(folder: Path, world: int, checkpoint: Path | str = "", epochs: int = 1) -> Any:
    """What each process held at the end."""
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=work, args=(rank, world, str(folder), str(checkpoint), epochs))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(150)
        assert worker.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]


@pytest.mark.slow
def test_two_processes_share_the_bank_and_it_resumes_on_one_and_on_three(tmp_path: Path) -> None:
    left = {path.name for path in Path("/dev/shm").glob("crossmodal-bench-*")}
    first, second = run(tmp_path / "two", 2)
    assert (first["steps"] == 1).all(), "each discriminator once, by one process"
    assert first["parameters"].any(1).all()
    for name in (*PARTS, "host"):
        assert torch.equal(first[name], second[name]), name
    saved = torch.load(tmp_path / "two" / "saved.ckpt", weights_only=True)["discriminators"]
    assert all(torch.equal(saved[name], first[name]) for name in PARTS)
    for world in (1, 3):
        ranks = run(tmp_path / str(world), world, tmp_path / "two" / "saved.ckpt", epochs=2)
        assert (ranks[0]["steps"] == 2).all()
        for other in ranks[1:]:
            assert all(torch.equal(other[name], ranks[0][name]) for name in (*PARTS, "host"))
    assert {path.name for path in Path("/dev/shm").glob("crossmodal-bench-*")} == left, "nothing stays behind"
