"""Bank, ranks and precision on three real processes, against one; also the script that starts the three."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor

import crossmodal_bench
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.evaluation import Protocol, RetrievalBank, evaluate
from crossmodal_bench.evaluation.ranking.positives import PositivePairs

WORLD_SIZE = 3
N_IMAGES, N_TEXTS = 37, 113  # neither divides by 2 or 3
OWNER = np.concatenate(
    [np.arange(N_IMAGES), np.random.default_rng(0).integers(0, N_IMAGES, N_TEXTS - N_IMAGES)]
)
PROTOCOL = Protocol(
    name="x",
    dataset="x",
    images=N_IMAGES,
    captions=(N_TEXTS,),
    positives="caption",
    families=("ranks", "label_precision"),
    primary="rsum",
)


def mean_dot(images: Encoding, texts: Encoding) -> Tensor:
    """Image vectors against the mean of each text's words."""
    assert texts.lengths is not None
    item = torch.repeat_interleave(torch.arange(len(texts)), texts.lengths)
    sums = torch.zeros(len(texts), texts.values.shape[1]).index_add_(0, item, texts.values)
    return images.values @ (sums / texts.lengths[:, None]).T


def galleries() -> tuple[Encoding, Encoding]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(N_IMAGES, 8, generator=generator)
    images[20:25] = images[:5]
    lengths = torch.randint(1, 7, (N_TEXTS,), generator=generator)
    return Encoding(images), Encoding(torch.randn(int(lengths.sum()), 8, generator=generator), lengths)


def results(rank: int, world_size: int, images: Encoding, texts: Encoding) -> dict[str, NDArray[np.generic]]:
    found = evaluate(
        PROTOCOL, images, texts, mean_dot, OWNER, np.arange(N_IMAGES) % 4, rank=rank, world_size=world_size
    )
    persons = evaluate(
        replace(PROTOCOL, positives="identity", families=("ranks",)),
        images,
        texts,
        mean_dot,
        OWNER,
        image_identities=np.arange(N_IMAGES) % 9,
        rank=rank,
        world_size=world_size,
    )
    drawn = np.random.default_rng(1).integers(0, (N_IMAGES, N_TEXTS), (300, 2))
    pairs = evaluate(
        replace(PROTOCOL, positives="pairs", families=("ranks", "all_positives")),
        images,
        texts,
        mean_dot,
        OWNER,
        positives=PositivePairs.of(drawn, N_IMAGES, N_TEXTS),
        rank=rank,
        world_size=world_size,
    )
    assert found.ranks is not None and persons.ranks is not None
    metrics = {f"metric {key}": np.array(value) for key, value in found.metrics.items()}
    by_identity = {f"identity {key}": values for key, values in persons.ranks.arrays().items()}
    by_pairs = {f"pairs {key}": values for key, values in pairs.per_query.items()}
    return found.ranks.arrays() | found.per_query | metrics | by_identity | by_pairs


def work(rank: int, rendezvous: str, out: str) -> None:
    """One process: bank its share of the batches as a padding sampler deals them, gather, evaluate, save."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=WORLD_SIZE
    )
    whole = galleries()
    banked = []
    for encoding in whole:
        padded = torch.arange(-(-len(encoding) // WORLD_SIZE) * WORLD_SIZE) % len(encoding)
        bank = RetrievalBank(len(encoding))
        for batch in padded[rank::WORLD_SIZE].split(10):
            bank.update(batch, encoding.take(batch))
        banked.append(bank.gathered()[1])
    # A process may have no batch at all: here only the last one has any.
    alone = RetrievalBank(len(whole[0]))
    if rank == WORLD_SIZE - 1:
        alone.update(torch.arange(len(whole[0])), whole[0])
    assert torch.equal(alone.gathered()[1].values, whole[0].values)
    partial = RetrievalBank(WORLD_SIZE + 1)
    partial.update(torch.tensor([rank]), Encoding(torch.ones(1, 2)))
    refused = False
    try:
        partial.gathered()
    except ValueError as error:
        refused = "item 3 is the first missing" in str(error)
    arrays = results(rank, WORLD_SIZE, banked[0], banked[1])
    np.savez(f"{out}{rank}.npz", refused=np.array(refused), **arrays)
    torch.distributed.destroy_process_group()


def launch(rendezvous: str, out: str) -> int:
    """Run ``work`` on every rank; 0 if all succeed.

    A fresh interpreter that has computed nothing yet can fork safely, and pays for the imports once.
    """
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, rendezvous, out)) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    hung = [process for process in processes if process.is_alive()]
    for process in hung:
        process.kill()
    return len(hung) + sum(process.exitcode != 0 for process in processes)


def test_three_processes_give_the_digits_of_one(tmp_path: Path) -> None:
    root = str(Path(crossmodal_bench.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "rendezvous"), str(tmp_path / "rank")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    expected = results(0, 1, *galleries())
    for rank in range(WORLD_SIZE):
        with np.load(tmp_path / f"rank{rank}.npz") as found:
            assert bool(found["refused"])
            assert set(found) == {*expected, "refused"}
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values, err_msg=name)


if __name__ == "__main__":
    sys.exit(launch(*sys.argv[1:]))
