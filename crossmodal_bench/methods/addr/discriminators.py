"""ADDR's discriminators: a logistic regression per training pair, in CPU memory, with their Adam moments."""

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

_EXCHANGED = 2**24
"""Numbers that are summed over the machines at a time: 64 MiB."""


class DiscriminatorBank:
    """N discriminators of D weights and a bias, each trained by an Adam of its own.

    The rows of a batch are gathered, and after a step scattered back: neither the accelerator nor a dense
    gradient ever holds the bank. Its memory is 3 (D + 1) + 1 numbers of single precision per discriminator,
    1.40 GB for MS-COCO's 113,287 of 1,024; ADDR keeps a dense gradient as well and reports 1.8 GB.

    Discriminators start at zero, where they know nothing: the problem is convex, so nothing breaks symmetry.
    Moments are those of ``torch.optim.Adam`` with a step count for each row.

    Args:
        rows: N.
        dim: D.
        betas, epsilon: of Adam.
        name: what the rows stand for, the data's fingerprint; a state of another name is refused.
        shared: a file that the processes of one machine map together, or None for memory of one's own.
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
        self.rows, self.dim, self.betas, self.epsilon, self.name = rows, dim, betas, epsilon, name
        size, total = rows * (dim + 1), self.size(rows, dim) // 4
        # A fresh file is zero, as fresh memory is.
        self._memory = (
            torch.zeros(total)
            if shared is None
            else torch.from_file(str(shared), shared=True, size=total, dtype=torch.float32)
        )
        self.parameters, self.first, self.second = (
            part.view(rows, dim + 1) for part in self._memory[: 3 * size].chunk(3)
        )
        self.steps = self._memory[3 * size :]
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
                # What was announced before this and did not come will not come.
                del self._coming[: position + 1]
                return rows.result()
        return self._copied(index, device)

    def prefetch(self, index: Tensor, device: torch.device | str = "cpu") -> None:
        """Gather a later batch's rows while this one computes; they must not change in between."""
        index, device = index.cpu(), torch.device(device)
        self._coming.append((index, device, self._worker.submit(self._copied, index, device)))

    def _copied(self, index: Tensor, device: torch.device) -> Tensor:
        rows = self.parameters[index]
        if device.type == "cuda":
            # From page-locked memory the copy overlaps what the accelerator computes.
            return rows.pin_memory().to(device, non_blocking=True)
        return rows.to(device)

    def step(self, index: Tensor, gradient: Tensor, learning_rate: float) -> None:
        """One step of Adam on the rows ``index`` (B,), each once, with ``gradient`` (B, D + 1).

        Raises:
            ValueError: a row that stands twice in ``index``, which would lose one of its gradients.
        """
        index, gradient = index.cpu(), gradient.detach().to(self.first)
        if len(index.unique()) < len(index):
            raise ValueError("a discriminator stands twice in one step; add up its gradients first")
        beta1, beta2 = self.betas
        steps = self.steps[index] + 1
        first = self.first[index].lerp_(gradient, 1 - beta1)
        second = self.second[index].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        exact = steps.double()
        size = (learning_rate / (1 - beta1**exact)).float()[:, None]
        spread = second.sqrt().div_((1 - beta2**exact).sqrt().float()[:, None]).add_(self.epsilon)
        change = first.div(spread).mul_(size)
        self.first[index], self.second[index], self.steps[index] = first, second, steps
        self.parameters.index_add_(0, index, change, alpha=-1)
        self.touched[index] = True

    def exchange(self, total: Callable[[Tensor], Tensor], keep: bool = True) -> None:
        """Hand every process's changed rows to all, where machines have banks of their own.

        Each row must have been changed by one process at most since the last exchange.

        Args:
            total: the sum of a tensor over all processes, on every process.
            keep: whether this process writes what it receives; of those that share a bank, one does.
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
        """Raise BadInput for a state that a bank of ``rows``, ``dim`` and ``name`` cannot take."""
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
    """The file that the processes of a machine map; in memory where the system has a place for that.

    Args:
        token: the same on all of them, and on no others.
        create: whether this process makes it; the others must wait for it.
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
    """``shared_file`` on every process, made by each machine's first; there when this returns.

    Raises:
        BadInput: on all processes, where one machine has no room for it.
    """
    found: Path | str
    try:
        found = shared_file(token, create=local_rank == 0, size=size)
    except BadInput as error:
        found = str(error)
    everywhere: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(everywhere, found)
    for one in everywhere:
        if isinstance(one, str):
            if isinstance(found, Path):
                found.unlink(missing_ok=True)
            raise BadInput(one)
    assert isinstance(found, Path)
    return found


def machine_bank(
    trainer: pl.Trainer,
    rows: int,
    dim: int,
    betas: tuple[float, float],
    name: str,
    state: dict[str, Any] | None,
) -> DiscriminatorBank:
    """A bank, which the processes of a machine share where it has more rows than one.

    Args:
        trainer: of the run.
        rows, dim, betas, name: see DiscriminatorBank.
        state: what is to lie in it, or None.

    Raises:
        BadInput: a machine has no room for it, or the state does not fit.
    """
    path = None
    if rows > 1 and trainer.world_size > 1:
        # By the node's number too: two containers of one machine may share its memory.
        token = f"{trainer.strategy.broadcast(uuid.uuid4().hex)}-{trainer.node_rank}"
        path = agreed_file(token, DiscriminatorBank.size(rows, dim), trainer.local_rank, trainer.world_size)
    bank = DiscriminatorBank(rows, dim, betas, name=name, shared=path)
    if state is not None and (path is None or trainer.local_rank == 0):
        bank.load_state_dict(state)
    if path is not None:
        trainer.strategy.barrier()
        if trainer.local_rank == 0:
            # The mappings keep it; without a name it goes with the last process, however that ends.
            path.unlink()
    return bank
