"""Training a pre-trained image network too: with its own learning rate, and batches larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crossmodal_bench.core.batch import ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.distributed import world_size
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.methods.optimization import AdamSettings
from crossmodal_bench.networks.freezing import Freezable

Encode = Callable[[PairBatch], tuple[Encoding, ...]]
"""Maps pairs to their encodings; their number and meaning are up to the method."""
BatchT = TypeVar("BatchT", bound=PairBatch | ImageBatch | TextBatch)


@dataclass(frozen=True)
class FineTuningSettings:
    """How a method trains its image network.

    Attributes:
        backbone_learning_rate: of the pre-trained image network, which decays like all others; None: the
            optimiser's.
        micro_batch_size: maximum number of pairs encoded at a time; None: the whole batch. Activation memory
            is that of a micro-batch, at the cost of a second forward pass. The gradient remains the whole
            batch's, with all of its negatives; see EncodedBatch.
        freeze_batch_norm: whether the image network's batch norms keep their pre-trained running statistics
            and normalise by them while everything else is trained.

    Raises:
        ValueError: the learning rate is not positive, or the micro-batch size is below 1.
    """

    backbone_learning_rate: float | None = None
    micro_batch_size: int | None = None
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        if self.backbone_learning_rate is not None and self.backbone_learning_rate <= 0:
            raise ValueError(
                f"fine_tuning.backbone_learning_rate is {self.backbone_learning_rate}; give a positive "
                "number, or null for the optimiser's"
            )
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(
                f"fine_tuning.micro_batch_size is {self.micro_batch_size}; give a whole number, 1 or "
                "greater, or null for the whole batch"
            )

    def check(self, *, trains_a_backbone: bool) -> None:
        """Raise ValueError for settings that have no effect because no image network is trained."""
        for name, without in (("backbone_learning_rate", None), ("freeze_batch_norm", False)):
            value = getattr(self, name)
            if value != without and not trains_a_backbone:
                raise ValueError(
                    f"fine_tuning.{name} is {value}, but no image network is trained: the images are "
                    "features, or their network is frozen; remove it"
                )

    def prepare(self, module: nn.Module) -> None:
        """Freeze the statistics of batch norms of pre-trained networks in ``module``, if so configured."""
        if self.freeze_batch_norm:
            for network in _pretrained(module):
                network.keep_batch_statistics()

    def optimiser(
        self, adam: AdamSettings, parameters: Iterable[nn.Parameter], module: nn.Module
    ) -> torch.optim.Optimizer:
        """Adam over ``parameters``; those of pre-trained networks in ``module`` last, if they have a rate."""
        if self.backbone_learning_rate is None:
            return adam.build(parameters)
        pretrained = {id(parameter) for network in _pretrained(module) for parameter in network.parameters()}
        everything = list(parameters)
        optimiser = adam.build(parameter for parameter in everything if id(parameter) not in pretrained)
        backbone = [parameter for parameter in everything if id(parameter) in pretrained]
        optimiser.add_param_group({"params": backbone, "lr": self.backbone_learning_rate})
        return optimiser

    def learning_rates(self, adam: AdamSettings) -> list[float]:
        """The initial learning rates of the groups of ``optimiser``, in order."""
        backbone = [] if self.backbone_learning_rate is None else [self.backbone_learning_rate]
        return [adam.learning_rate, *backbone]


class EncodedBatch:
    """A batch's encodings, and the backpropagation of a loss through them to the encoders.

    With micro-batches this is gradient caching (GradCache; Gao et al., "Scaling Deep Contrastive Learning
    Batch Size under Memory Limited Setup", RepL4NLP 2021). All micro-batches are encoded without a graph; the
    loss of the whole batch gives each encoding's gradient; then the micro-batches are encoded again, one at a
    time with a graph, through which these gradients are backpropagated. By the chain rule, this is the
    gradient of the whole batch's loss. Summing the losses of micro-batches is not the same: a ranking loss
    contrasts each pair with all others of the batch, and would then see only those of its micro-batch.

    The second pass repeats the first one's dropout masks. The only difference from the whole batch is that
    batch norms in training mode use the statistics of a micro-batch, in both passes, as on several devices
    without synchronisation; running statistics are updated in the first pass only. With frozen batch norms
    (``freeze_batch_norm``) the gradient is equal up to rounding.

    Args:
        module: the method, during its training step.
        batch: B pairs.
        encode: its encoders; random numbers may only come from torch's generators.
        micro_batch_size: maximum number of pairs encoded at a time; None: all.

    Attributes:
        encodings: the result of ``encode`` for the whole batch.

    Raises:
        BadInput: micro-batches are used with a precision whose gradients are scaled.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        batch: PairBatch,
        encode: Encode,
        micro_batch_size: int | None = None,
    ) -> None:
        self._module, self._encode = module, encode
        count = 1 if micro_batch_size is None else -(-len(batch) // micro_batch_size)
        self._parts: list[PairBatch] = []
        self._states: list[tuple[Tensor, Tensor | None]] = []
        self._leaves: list[tuple[Encoding, ...]] = []
        if count == 1:
            self.encodings = encode(batch)
            return
        if module.trainer.precision == "16-mixed":
            raise BadInput(
                "trainer.precision is 16-mixed, whose gradient scaling does not work with micro_batch_size; "
                "use bf16-mixed or 32-true, or leave micro_batch_size out"
            )
        # As equal as possible: batch norms would fail on a last micro-batch of a single pair.
        bounds = [len(batch) * number // count for number in range(count + 1)]
        self._parts = [_rows(batch, slice(start, stop)) for start, stop in pairwise(bounds)]
        for part in self._parts:
            self._states.append(_random_state(module.device))
            with torch.no_grad():
                encoded = encode(part)
            self._leaves.append(
                tuple(
                    Encoding(encoding.values.detach().requires_grad_(), encoding.lengths)
                    for encoding in encoded
                )
            )
        self.encodings = tuple(Encoding.cat(parts) for parts in zip(*self._leaves, strict=True))

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss of ``encodings`` to all parameters, including the loss's own.

        Call it once: with several processes, gradients are averaged once.
        """
        if not self._parts:
            self._module.manual_backward(loss)
            return
        # Not by manual_backward: DDP would take these to be all gradients of the step.
        loss.backward()
        statistics = [
            (statistic, statistic.clone())
            for norm in self._module.modules()
            if isinstance(norm, _BatchNorm)
            for statistic in norm.buffers()
        ]
        for number, (part, state, leaves) in enumerate(
            zip(self._parts, self._states, self._leaves, strict=True)
        ):
            # Autocast caches the weights that it has cast, in this case without a gradient.
            torch.clear_autocast_cache()
            with _replayed(state, self._module.device):
                encoded = self._encode(part)
            products = [
                (encoding.values * leaf.values.grad).sum()
                for encoding, leaf in zip(encoded, leaves, strict=True)
                if leaf.values.grad is not None
            ]
            total = torch.stack(products).sum()
            if number < len(self._parts) - 1:
                total.backward()
            else:
                self._module.manual_backward(total + self._everything_else(total))
        for statistic, before in statistics:
            statistic.copy_(before)

    def _everything_else(self, like: Tensor) -> Tensor:
        """Zero, as a function of all parameters that have a gradient.

        DDP reduces only the gradients of parameters that the last backward pass of a step reaches; this makes
        it reduce those of the loss's own parameters too.
        """
        zero = torch.zeros_like(like)
        if world_size() > 1:
            for parameter in self._module.parameters():
                if parameter.grad is not None:
                    zero = zero + 0 * parameter.sum()
        return zero


def _pretrained(module: nn.Module) -> list[Freezable]:
    return [network for network in module.modules() if isinstance(network, Freezable)]


def _rows(batch: BatchT, rows: slice) -> BatchT:
    """Some of a batch's pairs, images or texts."""
    changed: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = value[rows]
        elif isinstance(value, ImageBatch | TextBatch):
            changed[field.name] = _rows(value, rows)
    return replace(batch, **changed)


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The states of the CPU's generator and of the accelerator's."""
    accelerator = None
    if device.type == "cuda":
        accelerator = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        accelerator = torch.mps.get_rng_state()
    return torch.random.get_rng_state(), accelerator


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    cpu, accelerator = state
    torch.random.set_rng_state(cpu)
    if accelerator is not None and device.type == "cuda":
        torch.cuda.set_rng_state(accelerator, device)
    elif accelerator is not None:
        torch.mps.set_rng_state(accelerator)


@contextmanager
def _replayed(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Draw from ``state`` within the context, then restore the current state."""
    now = _random_state(device)
    _set_random_state(state, device)
    try:
        yield
    finally:
        _set_random_state(now, device)
