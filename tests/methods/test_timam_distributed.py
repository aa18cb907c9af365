"""Two replicas under DDP stay equal across the unfreezing."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

EPOCHS, FROZEN = 4, 2


class Fingerprints(pl.Callback):
    """All parameters as one vector at the end of each epoch."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append(torch.cat([p.detach().flatten().clone() for p in pl_module.parameters()]))


def work(rank: int, folder: str) -> None:
    """One replica."""
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    from test_timam import settings

    from crossmodal_bench.training.lightning_cli import instantiate

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2", RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    unfreeze = {
        "trainer.limit_val_batches": 0,
        "trainer.limit_train_batches": 2,
        "model.init_args.schedule.unfreeze_epoch": FROZEN,
        "model.init_args.schedule.unfreeze_patience": 99,
    }
    watch = Fingerprints()
    quiet: dict[str, Any] = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    config = settings(**unfreeze)
    strategy = instantiate(config).model.ddp_strategy
    cli = instantiate(config, [watch], accelerator="cpu", devices=2, strategy=strategy, **quiet)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    network = cli.model.text_encoder.language_model
    size = sum(p.numel() for p in network.parameters())
    torch.save({"seen": watch.seen, "frozen": bool(network.frozen), "size": size}, f"{folder}/{rank}.pt")
    # Lightning's own farewell would wait for a server that a file rendezvous does not have.
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_replicas_stay_equal_across_the_unfreezing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(rank, str(tmp_path))) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(150)
        assert worker.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert not first["frozen"] and len(first["seen"]) == EPOCHS
    for epoch, (a, b) in enumerate(zip(first["seen"], second["seen"], strict=True)):
        assert torch.equal(a, b), f"the replicas differ after epoch {epoch}"
    moved = [(a != b).float().mean() for a, b in zip(first["seen"][:-1], first["seen"][1:], strict=True)]
    share = first["size"] / len(first["seen"][0])
    assert moved[FROZEN - 2] <= 1 - share < moved[FROZEN - 1], "the language model moves once it is unfrozen"
