"""Gradients of several CPU processes, summed in a fixed order."""

# No postponed annotations: DDP inspects those of the function below.

from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from crossmodal_bench.core.distributed import world_size


class GradientOrder(pl.Callback):
    """Sums gradients in rank order, so that a resumed run is bit-identical to an uninterrupted one.

    DDP packs gradients into buckets and rebuilds the buckets after its first step; gloo sums each part of a
    bucket in a different order. With three or more processes, the first step of a resumed run would therefore
    round differently from the same step of an uninterrupted run; two numbers have only one sum. GPUs keep
    their own reduction, which need not be reproducible anyway.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace DDP's reduction."""
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
