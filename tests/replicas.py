"""Methods in one, two and three processes: the script that test_distributed.py starts, and what it runs.

The parent imports everything and builds every model and its data once; each process is a fork of it that
runs real Trainers. What a process finds lies in ``<folder>/<world size>-<rank>.pt`` afterwards.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import torch.distributed
from tiny import QUIET, configuration
from torch import Tensor

from crossmodal_bench.core.distributed import (
    gather,
    gather_encoding,
    gather_interleaved,
    mean_over_all,
    own_rows,
    sum_over_all,
)
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.data import CrossModalDataModule
from crossmodal_bench.training.callbacks import RetrievalEvaluation, exact_resumption
from crossmodal_bench.training.lightning_cli import TRAINER_DEFAULTS, instantiate

WORLDS = (1, 2, 3)
PAIRS, IMAGES = 48, 49  # pairs divide by every world size; images, of which discriminators learn, do not
SMALL_HOST: dict[str, Any] = {"host.init_args.dim": 8, "host.init_args.embedding": 6}
SMALL_GXN: dict[str, Any] = {
    "dim": 12,
    "text_encoders.hidden": 10,
    "text_encoders.embedding": 6,
    "image_encoder.init_args.hidden": [],
}
CAPTIONS: dict[str, Any] = {
    f"captions.init_args.{name}": value
    for name, value in {
        "hidden": 8,
        "embedding": 6,
        "max_words": 6,
        "samples": 1,
        "reinforce_from": 0,
    }.items()
}
PICTURES: dict[str, Any] = {
    f"pictures.init_args.{name}": value
    for name, value in {
        "noise_dim": 4,
        "condition_dim": 5,
        "generator_channels": 2,
        "discriminator_channels": 2,
    }.items()
}
SMALL_ACMR: dict[str, Any] = {
    "projectors.image_hidden": [16],
    "projectors.text_hidden": [16],
    "projectors.dim": 8,
    "discriminator.hidden": [8],
    "regularisation": 0.1,
}
SMALL_TIMAM: dict[str, Any] = {
    "image_encoder.init_args.hidden": [16],
    "text_encoder.init_args.embedding": 6,
    "text_encoder.init_args.hidden": 6,
    "dim": 8,
    "discriminator.hidden": [6],
}
SMALL_CONTRASTIVE: dict[str, Any] = {
    "image_encoder.init_args.hidden": [16],
    "text_encoder.init_args.embedding": 6,
    "text_encoder.init_args.hidden": 6,
    "dim": 8,
}
SMALL_VSRN: dict[str, Any] = {
    "host.init_args.blocks": 1,
    "host.init_args.caption_hidden": 6,
    "host.init_args.caption_embedding": 5,
}


class Case(NamedTuple):
    """A method in a form of its own, and what is done with it.

    exact: one step on the same pairs. summed: the same without gathered negatives. batches: of each of two
    epochs on several processes. tested: metrics of a checkpoint.
    """

    method: str
    settings: dict[str, Any]
    exact: bool = True
    summed: bool = False
    batches: int = 0
    tested: bool = False


DEMO = {"triplet.form": "demo", "triplet.negative_weight": None, "triplet.positive_weight": 0.5}
CASES = {
    "timam": Case("timam", SMALL_TIMAM, batches=5, tested=True),
    "addr_scan": Case(
        "addr_scan",
        {**SMALL_HOST, "regularise_encoders": True, "ranking.mask_same_image_negatives": True},
        summed=True,
        batches=4,
        tested=True,
    ),
    "infonce": Case("infonce", SMALL_CONTRASTIVE, batches=3),
}
"""What the default suite looks at: gathered vectors, regions with discriminators, a contrastive loss."""

MORE = {
    "acmr": Case("acmr", SMALL_ACMR, batches=5, tested=True),
    "vse": Case("vse", SMALL_HOST, batches=3, tested=True),
    "gxn": Case("gxn", {**SMALL_GXN, **CAPTIONS, **PICTURES}, batches=4, tested=True),
    "cca": Case("cca", {"dim": 8}, exact=False, tested=True),
    "acmr_demo": Case("acmr", {**SMALL_ACMR, **DEMO}),
    "acmr_initial_distance": Case("acmr", {**SMALL_ACMR, "triplet.margin_unit": "initial_distance"}),
    "siglip": Case("siglip", SMALL_CONTRASTIVE, batches=3, tested=True),
    "infonce_micro_batches": Case("infonce", {**SMALL_CONTRASTIVE, "micro_batch_size": 3}, batches=3),
    "bfan": Case("bfan", {**SMALL_HOST, "ranking.hardest": True}, summed=True, batches=3, tested=True),
    "vsrn": Case("vsrn", {**SMALL_HOST, **SMALL_VSRN}, batches=3, tested=True),
    "united_scan": Case("united_scan", SMALL_HOST, batches=5),
    "vse_finetune": Case("vse_finetune", {**SMALL_HOST, "fine_tuning.micro_batch_size": 3}, batches=3),
    "vsrn_micro_batches": Case(
        "vsrn", {**SMALL_HOST, **SMALL_VSRN, "fine_tuning.micro_batch_size": 3}, batches=3
    ),
    "gxn_micro_batches": Case(
        "gxn", {**SMALL_GXN, **CAPTIONS, **PICTURES, "fine_tuning.micro_batch_size": 3}, batches=3
    ),
    "gxn_i2t_xe": Case(
        "gxn_i2t_xe", {**SMALL_GXN, **CAPTIONS, "captions.init_args.reinforce_from": None}, batches=3
    ),
}
"""What the slow tests look at besides, with all other methods as their smoke presets have them."""


def case(name: str) -> Case:
    """One of these, or any other method as its smoke preset has it."""
    if name in CASES or name in MORE:
        return {**CASES, **MORE}[name]
    trained = name not in ("clip", "sm")
    return Case(name, {}, exact=trained, batches=3 if trained else 0, tested=True)


class Made(NamedTuple):
    model: Any
    data: CrossModalDataModule
    weights: dict[str, Tensor]


def make(name: str, shared: dict[str, Any]) -> Made:
    """A case's model, as its seed has it, and its data."""
    torch.manual_seed(0)
    chosen = case(name)
    settings = {f"model.init_args.{key}": value for key, value in chosen.settings.items()}
    cli = instantiate(configuration(chosen.method, f"synthetic-{IMAGES}", **settings), **QUIET)
    if "corpus" in shared:
        cli.datamodule.hand_over(shared["corpus"])
    shared["corpus"] = cli.datamodule.corpus
    cli.model.prepare(cli.datamodule.build(cli.model.requires))
    return Made(cli.model, cli.datamodule, {k: v.clone() for k, v in cli.model.state_dict().items()})


# ---- what a process does with a case --------------------------------------------------------------------


def trainer(made: Made, world: int, *callbacks: pl.Callback, **more: Any) -> pl.Trainer:
    """On ``world`` CPU processes, with the strategy that the method asks for."""
    strategy = made.model.ddp_strategy if world > 1 else "auto"
    given = {**TRAINER_DEFAULTS, **QUIET, "devices": world, "strategy": strategy, "limit_val_batches": 0}
    return pl.Trainer(**{**given, "max_epochs": 1, "callbacks": list(callbacks), **more})


class Gradients(pl.Callback):
    """All gradients behind each backward pass, dropout and batch statistics being off."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        pl_module.eval()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        named = pl_module.named_parameters()
        self.seen.append({name: p.grad.clone() for name, p in named if p.grad is not None})


class PlainDescent(torch.optim.SGD):
    """In the place of Adam, whose first step knows the signs of gradients alone."""

    def __init__(self, params: Any, lr: float = 1e-3, *_: Any, **__: Any) -> None:
        super().__init__(params, lr=lr)


@contextmanager
def no_noise(model: Any) -> Iterator[None]:
    """Every row of noise is the same; sampled captions depend on their vectors alone."""

    def row(n: int, dim: int, device: Any = None, dtype: Any = None) -> Tensor:
        return torch.linspace(-1, 1, dim, dtype=dtype).expand(n, dim)

    with ExitStack() as stack:
        stack.enter_context(patch.object(torch, "randn", row))
        stack.enter_context(patch.object(torch, "randn_like", lambda x: row(*x.shape, dtype=x.dtype)))
        for adam in ("Adam", "AdamW"):
            stack.enter_context(patch.object(torch.optim, adam, PlainDescent))
        if getattr(model, "captions", None) is not None:
            decoder = model.captions.decoder
            stack.enter_context(patch.object(decoder, "sample", lambda v, n: decoder.greedy(-v, n)))
        yield


def everywhere(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A batch with all its tensors changed."""
    return batch._map(lambda x: change(x) if isinstance(x, Tensor) else everywhere(x, change))


def one_step(
    made: Made, world: int, gathered: bool, rows: slice = slice(None), save: Path | None = None
) -> dict[str, Any]:
    """One batch of PAIRS pairs over all processes, in double precision: gradients, losses, the step.

    ``rows``: those of each process's batch that count.
    """
    model, data = made.model, made.data
    model.float().load_state_dict(made.weights)
    model.double().train()
    model.gather_negatives = gathered
    model.optimizer_settings = replace(model.optimizer_settings, gradient_clip=None)
    data.batch_size, data.steps_per_phase = PAIRS // world, 1
    if hasattr(model, "discriminators"):
        n, dim = (model.data_spec.n_train_images, model.host.fragment_dim)
        n = 1 if model.discriminator_settings.shared else n
        drawn = torch.randn(n, dim + 1, generator=torch.Generator().manual_seed(1))
        # Discriminators that know nothing have no gradient to give.
        model._restored = {
            "parameters": drawn,
            "first": 0 * drawn,
            "second": 0 * drawn,
            "steps": torch.zeros(n),
            "name": model.data_spec.dataset_fingerprint,
        }
        if not gathered:
            model.phases = ("pairs",)
    model.on_after_batch_transfer = lambda batch, _: everywhere(
        batch, lambda x: x[rows].double() if x.is_floating_point() else x[rows]
    )
    gradients = Gradients()
    running = trainer(made, world, gradients)
    with no_noise(model):
        running.fit(model, datamodule=data)
    found: dict[str, Any] = {"gradients": gradients.seen, "strategy": model.ddp_strategy}
    found["logged"] = {name: float(value) for name, value in running.callback_metrics.items()}
    found["weights"] = {name: p.detach().clone() for name, p in model.named_parameters()}
    if hasattr(model, "discriminators"):
        found["discriminators"] = model.discriminators.first.clone()
    if save is not None:
        running.save_checkpoint(save)
    del model.on_after_batch_transfer
    model.__dict__.pop("phases", None)
    return found


class Fingerprints(pl.Callback):
    """Of all weights and statistics behind each step; a checkpoint behind one of them."""

    def __init__(self, save: Path | None = None, step: int = 0) -> None:
        self.save, self.step, self.seen = save, step, list[str]()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(fingerprint([*pl_module.parameters(), *pl_module.buffers()]))
        if self.save is not None and len(self.seen) == self.step:
            trainer.save_checkpoint(self.save)


def fingerprint(tensors: Any) -> str:
    digest = hashlib.sha256()
    for one in tensors:
        digest.update(one.detach().numpy().tobytes())
    return digest.hexdigest()


def many_steps(made: Made, world: int, batches: int, save: Path) -> dict[str, Any]:
    """Two epochs of so many batches of pairs, with all noise, and again from the middle of the second.

    Discriminators are looked at in the end.
    """
    model, data = made.model, made.data
    model.float().load_state_dict(made.weights)
    model.train()
    model.gather_negatives = True
    data.batch_size, data.steps_per_phase, data.sampling = 4, batches, "caption"
    found = {}
    torch.manual_seed(100)
    for name, watch, start in (
        ("whole", Fingerprints(save, len(model.phases) * batches + batches // 2), None),
        ("resumed", Fingerprints(), str(save)),
    ):
        running = trainer(made, world, *exact_resumption(), watch, max_epochs=2)
        running.fit(model, datamodule=data, ckpt_path=start, weights_only=True)
        bank = getattr(model, "discriminators", None)
        discriminators = [] if bank is None else [bank.parameters, bank.first, bank.second, bank.steps]
        found[name] = {
            "fingerprints": watch.seen,
            "bank": fingerprint(discriminators),
            "logged": {metric: float(value) for metric, value in running.callback_metrics.items()},
            "noise": float(torch.rand(())),
        }
    return found


def metrics(made: Made, world: int, checkpoint: Path) -> dict[str, float]:
    """Test metrics of a checkpoint."""
    made.model.float()
    retrieval = RetrievalEvaluation()
    trainer(made, world, retrieval).test(
        made.model, datamodule=made.data, ckpt_path=str(checkpoint), verbose=False, weights_only=True
    )
    (evaluation,) = retrieval.results.values()
    return evaluation.metrics


def gathering(world: int, rank: int) -> dict[str, Any]:
    """``gather`` of 1, 2, ... rows, and gradients of a loss that is the same on all processes."""
    whole = torch.arange(18, dtype=torch.float64).view(6, 3).sin()
    counts = {1: [6], 2: [2, 4], 3: [1, 2, 3]}[world]
    mine = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    own = whole[mine].clone().requires_grad_()
    weight = torch.arange(1.0, 7.0, dtype=torch.float64)
    found = gather(own)
    (found.square().sum(1) * weight).sum().backward()
    words = Encoding(own.detach(), torch.tensor([counts[rank]]))
    everyone = gather_encoding(words)
    assert everyone.lengths is not None and own.grad is not None
    where = own_rows(counts[rank], own.device)
    return {
        "rows": (mine.start, mine.stop),
        "own_rows": (where.start, where.stop),
        "turns": gather_interleaved(torch.tensor([rank, rank + world])),
        "gathered": found.detach(),
        "gradient": own.grad,
        "lengths": everyone.lengths,
        "flags": gather(torch.full((counts[rank],), rank % 2 == 0)),
        "sum": sum_over_all(whole[mine].sum()),
        "mean": mean_over_all(whole[mine].mean(), whole[mine].numel()),
    }


# ---- processes ------------------------------------------------------------------------------------------


def work(rank: int, world: int, folder: Path, made: dict[str, Made]) -> None:
    """Everything that one process of ``world`` does."""
    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/rendezvous-{world}", rank=rank, world_size=world
        )
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE=str(world), RANK=str(rank))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    found: dict[str, Any] = {"gather": gathering(world, rank)}
    for name, one in made.items():
        chosen, checkpoint = case(name), folder / f"{name}.ckpt"
        mine: dict[str, Any] = {}
        if chosen.exact:
            mine["exact"] = one_step(one, world, True, save=checkpoint if world == 1 else None)
        elif world == 1:
            fit = trainer(one, world, limit_train_batches=1)
            fit.fit(one.model, datamodule=one.data)
            fit.save_checkpoint(checkpoint)
        if chosen.summed and world == 1:
            mine["halves"] = [one_step(one, world, False, slice(half, None, 2)) for half in range(2)]
        if chosen.summed and world == 2:
            mine["summed"] = one_step(one, world, False)
        if chosen.batches and world > 1:
            mine["replicas"] = many_steps(one, world, chosen.batches, folder / f"{name}-{world}.ckpt")
        if chosen.tested:
            mine["metrics"] = metrics(one, world, checkpoint)
        found[name] = mine
    torch.save(found, folder / f"{world}-{rank}.pt")
    if world > 1:
        # Lightning's own farewell would wait for a server that a file rendezvous does not have.
        torch.distributed.destroy_process_group()


def launch(folder: Path, names: list[str]) -> int:
    """Run ``work`` in every process of every world size; the number of those that fail."""
    torch.set_num_threads(1)
    shared: dict[str, Any] = {}
    made = {name: make(name, shared) for name in names}
    context = multiprocessing.get_context("fork")
    for world in WORLDS:
        processes = [context.Process(target=work, args=(rank, world, folder, made)) for rank in range(world)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(300)
        hung = [process for process in processes if process.is_alive()]
        for process in hung:
            process.kill()
        failed = len(hung) + sum(process.exitcode != 0 for process in processes)
        if failed:
            return failed
    return 0


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[1]), sys.argv[2:]))
