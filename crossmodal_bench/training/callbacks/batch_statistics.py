"""Running statistics of batch norms, kept equal in all processes."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from crossmodal_bench.core.distributed import world_size


class BatchStatistics(pl.Callback):
    """Averages the running means and variances of batch norms over all processes after every batch.

    Without synchronised batch norms, each process has the statistics of its own batches. A checkpoint holds
    only the first process's, so a split sharded over processes would be encoded with statistics other than
    the saved ones, and a resumed run would differ from an uninterrupted one. DDP would broadcast the first
    process's to all, but Lightning disables that for methods with manual optimisation.

    The averaged mean is that of all processes' batches; the averaged variance is that within each of their
    batches, as in a batch norm of a single process. This must come before the callbacks that save.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        """Average the statistics."""
        if world_size() == 1:
            return
        statistics = [
            tensor
            for module in pl_module.modules()
            # A frozen network keeps its pre-trained statistics to the last bit.
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
