"""ADDR's discriminators: one logistic regression per training pair, in CPU memory, with Adam moments."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.host import sent

_EXCHANGED = 2**24
"""How many numbers are summed across machines at a time: 64 MiB."""


class DiscriminatorBank:
    """N discriminators of D weights and a bias, each trained by its own Adam.

    A batch's rows are gathered, and scattered back after a step: the accelerator never holds the whole bank,
    and there is never a dense gradient of it. It takes 3 (D + 1) + 1 single-precision numbers per
    discriminator: for MS-COCO's 113,287 discriminators 1.39 GB at 1,024 weights (SCAN, BFAN), 2.79 GB at
    2,048 (VSRN). ADDR also keeps a dense gradient and reports 1.8 GB.

    Discriminators start at zero, that is, at chance. Unlike a network's layers, they can: logistic regression
    is a convex problem, and there is no symmetry to break. Moments are those of ``torch.optim.Adam``, with a
    step count for each row.

    Args:
        rows: N.
        dim: D.
        betas, epsilon: of Adam.
        name: identifies the rows' data by its fingerprint; the state of a bank with another name is rejected.
        shared: a file that the processes of one machine map together, or None for private memory.
    """

    def __init__(
        self,
        rows: int,
        dim: int,
        betas: tuple[float, float] = (0.5, 0.999),
        epsilon: float = 1e-8,
        name: str = "",
        shared: Path | None = None,
    ) -> None:
        self.rows, self.dim = rows, dim
        self.betas, self.epsilon = betas, epsilon
        self.name = name
        numbers = self.size(rows, dim) // 4
        # A new file is filled with zeros, just like new memory.
        self._memory = (
            torch.zeros(numbers)
            if shared is None
            else torch.from_file(str(shared), shared=True, size=numbers, dtype=torch.float32)
        )
        tables, self.steps = self._memory.split([numbers - rows, rows])
        self.parameters, self.first, self.second = tables.view(3, rows, dim + 1).unbind()
        self.touched = torch.zeros(rows, dtype=torch.bool)
        self._worker = ThreadPoolExecutor(1)
        self._coming: list[tuple[Tensor, torch.device, Future[Tensor]]] = []

    @staticmethod
    def size(rows: int, dim: int) -> int:
        """Bytes of parameters, moments and step counts."""
        return 4 * rows * (3 * (dim + 1) + 1)

    def gather(self, index: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """(B, D + 1) weights and biases of the rows ``index`` (B,), copied to ``device``.

        Prefetched rows are there already. On their way to an accelerator, rows pass through page-locked
        memory; the bank itself is not page-locked.
        """
        index, device = index.cpu(), torch.device(device)
        for position, (expected, wanted, rows) in enumerate(self._coming):
            if wanted == device and torch.equal(expected, index):
                # Batches come in the order in which they were announced, so those before this were skipped.
                del self._coming[: position + 1]
                return rows.result()
        return self._copied(index, device)

    def prefetch(self, index: Tensor, device: torch.device | str = "cpu") -> None:
        """Start gathering a later batch's rows in the background; they must not change until their use."""
        index, device = index.cpu(), torch.device(device)
        self._coming.append((index, device, self._worker.submit(self._copied, index, device)))

    def _copied(self, index: Tensor, device: torch.device) -> Tensor:
        rows = self.parameters[index]
        if device.type == "cuda":
            # From page-locked memory, the copy overlaps with the accelerator's computation.
            rows = rows.pin_memory()
        return sent(rows, device)

    def step(self, index: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One Adam step on the unique rows ``index`` (B,) with ``gradient`` (B, D + 1).

        Raises:
            ValueError: ``index`` contains a row twice, which would lose one of its gradients.
        """
        index, gradient = index.cpu(), gradient.detach().to(self.first)
        if len(index.unique()) < len(index):
            raise ValueError("index contains a discriminator twice; sum its gradients first")
        beta1, beta2 = self.betas
        steps = self.steps[index] + 1
        first = self.first[index].lerp_(gradient, 1 - beta1)
        second = self.second[index].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        exact = steps.double()
        size = (learning_rate / (1 - beta1**exact)).float()[:, None]
        spread = second.sqrt().div_((1 - beta2**exact).sqrt().float()[:, None]).add_(self.epsilon)
        change = first.div(spread).mul_(size)
        self.first[index] = first
        self.second[index] = second
        self.steps[index] = steps
        self.parameters.index_add_(0, index, change, alpha=-1)
        self.touched[index] = True

    def exchange(self, total: Callable[[Tensor], Tensor], keep: bool = True) -> None:
        """Send the rows that each process has changed to all others, if each machine has its own bank.

        Each row must have been changed by at most one process since the last exchange.

        Args:
            total: returns the sum of a tensor over all processes, on every process.
            keep: whether this process writes what it receives; exactly one of those sharing a bank must.
        """
        mine = self.touched.float()
        everywhere = total(mine.clone()) > 0
        changed = torch.nonzero(everywhere).flatten()
        block = max(1, _EXCHANGED // (3 * (self.dim + 1) + 1))
        for rows in changed.split(block):
            parts = (self.parameters, self.first, self.second, self.steps[:, None])
            held = torch.cat([part[rows] for part in parts], dim=1)
            received = total(held * mine[rows, None])
            if keep:
                for part, new in zip(parts, received.split([p.shape[1] for p in parts], 1), strict=True):
                    part[rows] = new
        self.touched.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The complete state without copying: views of the bank's memory."""
        return {
            "parameters": self.parameters,
            "first": self.first,
            "second": self.second,
            "steps": self.steps,
            "name": self.name,
        }

    @staticmethod
    def check(state: dict[str, Any], rows: int, dim: int, name: str) -> None:
        """Check that a bank of ``rows``, ``dim`` and ``name`` can load a state.

        Raises:
            BadInput: the state is of another data set or of another size.
        """
        if state["name"] != name:
            raise BadInput(
                f"the checkpoint's discriminators belong to data with fingerprint {state['name']}, but this "
                f"data set has {name}; resume on the data that they were trained on, or start over"
            )
        if state["parameters"].shape != (rows, dim + 1):
            raise BadInput(
                f"the checkpoint has {tuple(state['parameters'].shape)} discriminators, but this model "
                f"{(rows, dim + 1)}; resume with the configuration that they were trained with"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy a state into the bank.

        Raises:
            BadInput: the state is of another data set or of another size.
        """
        self.check(state, self.rows, self.dim, self.name)
        for name in ("parameters", "first", "second", "steps"):
            getattr(self, name).copy_(state[name])


def shared_file(token: str, create: bool, size: int) -> Path:
    """The file that the processes of a machine map, in a memory file system if there is one.

    Args:
        token: the same for exactly these processes.
        create: whether this process creates it; the others must wait until it has.
        size: in bytes.

    Raises:
        BadInput: there is not enough space for it.
    """
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    path = folder / f"crossmodal-bench-{token}"
    if create:
        try:
            with path.open("wb") as handle:
                if hasattr(os, "posix_fallocate"):
                    # Not sparse: a full memory file system would kill the process on the first write.
                    os.posix_fallocate(handle.fileno(), 0, size)
                else:
                    handle.truncate(size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BadInput(
                f"{path.parent} has no space for {size / 2**20:.0f} MiB of discriminators "
                f"({error.strerror}); enlarge it (docker run --shm-size), or train on one device"
            ) from error
    return path


def agreed_file(token: str, size: int, local_rank: int, world_size: int) -> Path:
    """``shared_file`` on every process; when this returns, each machine's first process has created it.

    Raises:
        BadInput: on all processes, if any machine lacks the space for it.
    """
    path: Path | None = None
    refusal: str | None = None
    try:
        path = shared_file(token, create=local_rank == 0, size=size)
    except BadInput as error:
        refusal = str(error)
    # Every process waits here until all have tried, and learns of every machine without enough space.
    refusals: list[str | None] = [None] * world_size
    torch.distributed.all_gather_object(refusals, refusal)
    for refusal in refusals:
        if refusal is not None:
            if path is not None:
                path.unlink(missing_ok=True)
            raise BadInput(refusal)
    assert path is not None
    return path


def machine_bank(
    trainer: pl.Trainer,
    rows: int,
    dim: int,
    betas: tuple[float, float],
    name: str,
    state: dict[str, Any] | None,
) -> DiscriminatorBank:
    """Create a bank; if it has more than one row, the processes of a machine share it.

    Args:
        trainer: of the run.
        rows, dim, betas, name: see DiscriminatorBank.
        state: the state to start from, as returned by ``state_dict``, or None.

    Raises:
        BadInput: a machine lacks the space for it, or the state is of other data or another size.
    """
    path = None
    if rows > 1 and trainer.world_size > 1:
        # The node's rank is in the name, because two containers on one machine may share its memory.
        token = f"{trainer.strategy.broadcast(uuid.uuid4().hex)}-{trainer.node_rank}"
        path = agreed_file(token, DiscriminatorBank.size(rows, dim), trainer.local_rank, trainer.world_size)
    bank = DiscriminatorBank(rows, dim, betas, name=name, shared=path)
    if state is not None and (path is None or trainer.local_rank == 0):
        bank.load_state_dict(state)
    if path is not None:
        trainer.strategy.barrier()
        if trainer.local_rank == 0:
            # The processes' mappings keep the memory alive; without a name, it is freed with the last of
            # them, however that one ends.
            path.unlink()
    return bank
