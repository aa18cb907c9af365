"""Running statistics of batch norms, the same in all processes."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from crossmodal_bench.core.distributed import world_size


class BatchStatistics(pl.Callback):
    """Averages the running means and variances of batch norms over all processes, behind every batch.

    Where batch norms are not synchronised, each process has those of its own batches. A checkpoint holds the
    first's, so that a split whose items are shared out would be encoded with other statistics than the saved
    ones, and a run that goes on would not be the one that was left. DDP would overwrite them all with the
    first's, but Lightning keeps it from that where a method steps its optimisers itself.

    The averaged mean is that of all processes' batches; the averaged variance is that within each of their
    batches, as a batch norm of one process has it. It must come before the callbacks that save.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Average them."""
        if world_size() == 1:
            return
        statistics = [
            tensor
            for module in pl_module.modules()
            # A frozen network has the statistics that it came with, to the last bit.
            if isinstance(module, _BatchNorm) and module.training
            if not isinstance(module, torch.nn.SyncBatchNorm)
            for tensor in (module.running_mean, module.running_var)
            if tensor is not None
        ]
        if not statistics:
            return
        everything = torch.cat([tensor.flatten() for tensor in statistics])
        torch.distributed.all_reduce(everything)
        averaged = (everything / world_size()).split([tensor.numel() for tensor in statistics])
        for tensor, average in zip(statistics, averaged, strict=True):
            tensor.copy_(average.view_as(tensor))
