"""Gradients of several CPU processes, added up in one order."""

# No postponed annotations: DDP looks at those of the function below.

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from crossmodal_bench.core.distributed import world_size


class GradientOrder(pl.Callback):
    """Adds gradients in the order of the processes, so that training goes on to the same last bit.

    DDP packs gradients into buckets, and packs them anew behind its first step; gloo adds each part of a
    bucket in another order. The first step of a run that goes on would so round otherwise than the same step
    of an unbroken run, from three processes on: two numbers have but one sum. GPUs keep their own way, whose
    sums need not be repeatable anyhow.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take DDP's sums over."""
        model: Any = trainer.strategy.model
        on_cpu = trainer.strategy.root_device.type == "cpu"
        if isinstance(model, DistributedDataParallel) and on_cpu and world_size() > 2:
            model.register_comm_hook(None, _mean_in_order)


def _mean_in_order(state: None, bucket: torch.distributed.GradBucket) -> torch.futures.Future[Tensor]:
    mine = bucket.buffer()
    everyone = [torch.empty_like(mine) for _ in range(world_size())]
    work: Any = torch.distributed.all_gather(everyone, mine, async_op=True)

    def mean(arrived: Any) -> Tensor:
        total = everyone[0]
        for other in everyone[1:]:
            total += other
        return total.div_(len(everyone))

    return work.get_future().then(mean)
