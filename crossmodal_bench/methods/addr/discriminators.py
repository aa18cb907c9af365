"""ADDR's discriminators: a logistic regression per training pair, in CPU memory, with its Adam moments."""

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
"""Numbers that are summed over the machines at a time: 64 MiB."""


class DiscriminatorBank:
    """N discriminators of D weights and a bias, each trained by an Adam of its own.

    The rows of a batch are gathered, and after a step scattered back: the accelerator never holds the whole
    bank, and nothing holds a dense gradient of it. It takes 3 (D + 1) + 1 numbers of single precision per
    discriminator: for MS-COCO's 113,287 discriminators 1.39 GB at 1,024 weights (SCAN, BFAN), 2.79 GB at
    2,048 (VSRN). ADDR keeps a dense gradient as well and reports 1.8 GB.

    Discriminators start at zero, where they know nothing. Unlike a network's layers they may: a logistic
    regression is a convex problem, and there is no symmetry to be broken. Moments are those of
    ``torch.optim.Adam`` with a step count for each row.

    Args:
        rows: N.
        dim: D.
        betas, epsilon: of Adam.
        name: whose rows they are, as the data's fingerprint; the state of a bank of another name is refused.
        shared: a file that the processes of one machine map together, or None for memory of its own.
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
        # A fresh file is zero, as fresh memory is.
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

        Rows that ``prefetch`` was told of are there already. On their way to an accelerator they pass through
        page-locked memory; the bank itself is not locked, only its rows in transit are.
        """
        index, device = index.cpu(), torch.device(device)
        for position, (expected, wanted, rows) in enumerate(self._coming):
            if wanted == device and torch.equal(expected, index):
                # Batches come in the order in which they were announced: those before this one were skipped.
                del self._coming[: position + 1]
                return rows.result()
        return self._copied(index, device)

    def prefetch(self, index: Tensor, device: torch.device | str = "cpu") -> None:
        """Start to gather a later batch's rows in the background; they must not change before their use."""
        index, device = index.cpu(), torch.device(device)
        self._coming.append((index, device, self._worker.submit(self._copied, index, device)))

    def _copied(self, index: Tensor, device: torch.device) -> Tensor:
        rows = self.parameters[index]
        if device.type == "cuda":
            # From page-locked memory the copy overlaps what the accelerator computes.
            rows = rows.pin_memory()
        return sent(rows, device)

    def step(self, index: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One step of Adam on the rows ``index`` (B,), each once, with ``gradient`` (B, D + 1).

        Raises:
            ValueError: ``index`` has a row twice, which would lose one of its gradients.
        """
        index, gradient = index.cpu(), gradient.detach().to(self.first)
        if len(index.unique()) < len(index):
            raise ValueError("one step has a discriminator twice; add up its gradients first")
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
        """Bring the rows that each process has changed to all, where machines have banks of their own.

        Each row must have been changed by one process at most since the last exchange.

        Args:
            total: the sum of a tensor over all processes, on every process.
            keep: whether this process writes what it receives; of those that share a bank, one must.
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
        """Everything, without a copy: views of the bank's memory."""
        return {
            "parameters": self.parameters,
            "first": self.first,
            "second": self.second,
            "steps": self.steps,
            "name": self.name,
        }

    @staticmethod
    def check(state: dict[str, Any], rows: int, dim: int, name: str) -> None:
        """Refuse a state that a bank of ``rows``, ``dim`` and ``name`` cannot take.

        Raises:
            BadInput: the state of another data set, or of another size.
        """
        if state["name"] != name:
            raise BadInput(
                f"the checkpoint's discriminators belong to the data with fingerprint {state['name']}, this "
                f"data set has {name}; resume on the data that they were trained on, or start anew"
            )
        if state["parameters"].shape != (rows, dim + 1):
            raise BadInput(
                f"the checkpoint has {tuple(state['parameters'].shape)} discriminators, this model "
                f"{(rows, dim + 1)}; resume with the configuration that they were trained with"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy a state into the bank.

        Raises:
            BadInput: the state of another data set, or of another size.
        """
        self.check(state, self.rows, self.dim, self.name)
        for name in ("parameters", "first", "second", "steps"):
            getattr(self, name).copy_(state[name])


def shared_file(token: str, create: bool, size: int) -> Path:
    """The file that the processes of a machine map; in memory where the system has a file system for that.

    Args:
        token: the same on all of them, and on no others.
        create: whether this process makes it; the others must wait until it has.
        size: in bytes.

    Raises:
        BadInput: no room for it.
    """
    memory = Path("/dev/shm")
    folder = memory if memory.is_dir() and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
    path = folder / f"crossmodal-bench-{token}"
    if create:
        try:
            with path.open("wb") as handle:
                if hasattr(os, "posix_fallocate"):
                    # Not a hole: a full memory file system would end the process at the first write.
                    os.posix_fallocate(handle.fileno(), 0, size)
                else:
                    handle.truncate(size)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise BadInput(
                f"{path.parent} has no room for {size / 2**20:.0f} MiB of discriminators ({error.strerror}); "
                "enlarge it (docker run --shm-size), or train on one device"
            ) from error
    return path


def agreed_file(token: str, size: int, local_rank: int, world_size: int) -> Path:
    """``shared_file`` on every process; each machine's first has made it when this returns.

    Raises:
        BadInput: on all processes, if any machine has no room for it.
    """
    path: Path | None = None
    refusal: str | None = None
    try:
        path = shared_file(token, create=local_rank == 0, size=size)
    except BadInput as error:
        refusal = str(error)
    # Every process waits here until all have tried, and hears of every machine that has no room.
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
    """A bank; if it has more than one row, the processes of a machine share it.

    Args:
        trainer: of the run.
        rows, dim, betas, name: see DiscriminatorBank.
        state: what it starts from, as ``state_dict`` returned it, or None.

    Raises:
        BadInput: a machine has no room for it, or the state is of other data or another size.
    """
    path = None
    if rows > 1 and trainer.world_size > 1:
        # With the node's number in its name: two containers of one machine may share its memory.
        token = f"{trainer.strategy.broadcast(uuid.uuid4().hex)}-{trainer.node_rank}"
        path = agreed_file(token, DiscriminatorBank.size(rows, dim), trainer.local_rank, trainer.world_size)
    bank = DiscriminatorBank(rows, dim, betas, name=name, shared=path)
    if state is not None and (path is None or trainer.local_rank == 0):
        bank.load_state_dict(state)
    if path is not None:
        trainer.strategy.barrier()
        if trainer.local_rank == 0:
            # The processes' mappings keep the memory; without a name, it goes with the last of them, however
            # that one ends.
            path.unlink()
    return bank
