"""The bank against independent ``torch.optim.Adam``s, and what it may not touch."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank, shared_file

N, D = 7, 5


def gradients(steps: int, batch: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randperm(N, generator=generator)[: 1 + (i % batch)],
            torch.randn(1 + (i % batch), D + 1, generator=generator),
        )
        for i in range(steps)
    ]


def trained(bank: DiscriminatorBank, steps: int = 40) -> DiscriminatorBank:
    for index, gradient in gradients(steps, batch=4):
        bank.step(index, gradient, 0.02)
    return bank


def test_it_is_n_independent_adams_with_their_own_step_counts() -> None:
    bank = DiscriminatorBank(N, D)
    rows = [torch.zeros(D + 1, requires_grad=True) for _ in range(N)]
    adams = [torch.optim.Adam([row], 0.02, betas=(0.5, 0.999)) for row in rows]
    for step, (index, gradient) in enumerate(gradients(60, batch=4)):
        rate = 0.02 if step < 30 else 0.004
        bank.step(index, gradient, rate)
        for row, one in zip(index.tolist(), gradient, strict=True):
            rows[row].grad = one.clone()
            adams[row].param_groups[0]["lr"] = rate
            adams[row].step()
    torch.testing.assert_close(bank.parameters, torch.stack(rows).detach(), rtol=0, atol=1e-6)
    counts = [int(adam.state[row]["step"]) for adam, row in zip(adams, rows, strict=True)]
    assert bank.steps.int().tolist() == counts and len(set(counts)) > 1


def test_it_learns_logistic_regressions() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(N, 20, D, generator=generator)
    labels = (points[..., 0] > 0.3).float()
    bank = DiscriminatorBank(N, D)
    for _ in range(300):
        rows = bank.gather(torch.arange(N)).requires_grad_()
        logits = (points * rows[:, None, :-1]).sum(2) + rows[:, None, -1]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        bank.step(torch.arange(N), torch.autograd.grad(loss.mean(1).sum(), rows)[0], 0.1)
    assert ((logits > 0).float() == labels).float().mean() > 0.97


def test_only_the_rows_of_a_step_change() -> None:
    bank = trained(DiscriminatorBank(N, D))
    before = {name: one.clone() for name, one in bank.state_dict().items() if isinstance(one, Tensor)}
    bank.step(torch.tensor([4, 1]), torch.ones(2, D + 1), 0.1)
    for name, one in before.items():
        changed = (bank.state_dict()[name] != one).reshape(N, -1).any(1)
        assert torch.nonzero(changed).flatten().tolist() == [1, 4], name


def test_a_row_twice_in_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="a discriminator twice"):
        DiscriminatorBank(N, D).step(torch.tensor([2, 2]), torch.ones(2, D + 1), 0.1)


def test_prefetched_rows_are_those_that_were_asked_for() -> None:
    bank = trained(DiscriminatorBank(N, D))
    bank.prefetch(torch.tensor([3, 0]))
    assert torch.equal(bank.gather(torch.tensor([3, 0])), bank.parameters[[3, 0]])
    for rows in ([3, 0], [5, 1], [2, 4]):
        bank.prefetch(torch.tensor(rows))
    assert torch.equal(bank.gather(torch.tensor([6])), bank.parameters[[6]]), "what nobody announced"
    assert torch.equal(bank.gather(torch.tensor([5, 1])), bank.parameters[[5, 1]])
    assert len(bank._coming) == 1, "what did not come before it will not come"
    before = bank.parameters.clone()
    rows = bank.gather(torch.tensor([6]))
    rows += 1
    assert torch.equal(bank.parameters, before), "what is gathered is a copy"


def test_a_state_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = trained(DiscriminatorBank(N, D, name="data"), 40)
    torch.save(trained(DiscriminatorBank(N, D, name="data"), 20).state_dict(), tmp_path / "bank.pt")
    again = DiscriminatorBank(N, D, name="data")
    again.load_state_dict(torch.load(tmp_path / "bank.pt", weights_only=True))
    for index, gradient in gradients(40, batch=4)[20:]:
        again.step(index, gradient, 0.02)
    for name in ("parameters", "first", "second", "steps"):
        assert torch.equal(getattr(again, name), getattr(whole, name)), name


def test_a_state_of_other_data_or_size_is_refused() -> None:
    state = DiscriminatorBank(N, D, name="aaaa").state_dict()
    with pytest.raises(BadInput, match="fingerprint aaaa, but this data set has bbbb"):
        DiscriminatorBank(N, D, name="bbbb").load_state_dict(state)
    with pytest.raises(
        BadInput, match=r"the checkpoint has \(7, 6\) discriminators, but this model \(7, 9\)"
    ):
        DiscriminatorBank(N, 8, name="aaaa").load_state_dict(state)


def test_its_memory_is_what_it_says() -> None:
    bank = DiscriminatorBank(N, D)
    assert DiscriminatorBank.size(N, D) == 4 * sum(
        one.numel() for one in (bank.parameters, bank.first, bank.second, bank.steps)
    )
    assert DiscriminatorBank.size(113_287, 1024) <= 1.45e9


def work(rank: int, folder: str) -> None:
    """A process that maps the bank and trains the rows of its own."""
    sys.path.insert(0, str(Path(__file__).parent))
    torch.set_num_threads(1)
    bank = DiscriminatorBank(N, D, shared=Path(folder))
    for _ in range(5):
        bank.step(torch.arange(rank, N, 2), torch.ones(len(range(rank, N, 2)), D + 1) * (rank + 1), 0.1)


@pytest.mark.slow
def test_processes_of_a_machine_share_it() -> None:
    path = shared_file(
        f"test-{multiprocessing.current_process().pid}", create=True, size=DiscriminatorBank.size(N, D)
    )
    try:
        bank = DiscriminatorBank(N, D, shared=path)
        context = multiprocessing.get_context("spawn")
        workers = [context.Process(target=work, args=(rank, str(path))) for rank in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
            assert worker.exitcode == 0
    finally:
        path.unlink()
    assert (bank.steps == 5).all()
    alone = DiscriminatorBank(N, D)
    for _ in range(5):
        for rank in range(2):
            rows = torch.arange(rank, N, 2)
            alone.step(rows, torch.ones(len(rows), D + 1) * (rank + 1), 0.1)
    assert torch.equal(bank.parameters, alone.parameters)


def test_no_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"has no space for \d+ MiB of discriminators"):
        shared_file("test-too-large", create=True, size=2**60)


def test_machines_exchange_what_they_have_changed() -> None:
    banks, changed = [DiscriminatorBank(N, D), DiscriminatorBank(N, D)], [[0, 3], [1, 6]]
    whole = DiscriminatorBank(N, D)
    for bank, rows, factor in zip(banks, changed, (1.0, -2.0), strict=True):
        for one in (bank, whole):
            one.step(torch.tensor(rows), factor * torch.ones(2, D + 1), 0.1)

    def exchanged(bank: DiscriminatorBank, replies: list[Tensor], keep: bool) -> list[Tensor]:
        """What a bank sends, when it is told ``replies`` for the sums over all."""
        sent: list[Tensor] = []
        bank.exchange(lambda tensor: (sent.append(tensor.clone()), replies[len(sent) - 1])[1], keep)
        return sent

    flags = torch.zeros(N).index_fill_(0, torch.tensor([0, 1, 3, 6]), 1.0)
    wide = torch.zeros(4, 3 * (D + 1) + 1)
    sent = [exchanged(bank, [flags, wide], keep=False) for bank in banks]
    for parts, rows in zip(sent, changed, strict=True):
        assert torch.nonzero(parts[0]).flatten().tolist() == rows, "each says which rows it has changed"
    totals = [a + b for a, b in zip(*sent, strict=True)]
    assert torch.equal(totals[0], flags)
    for bank, rows in zip(banks, changed, strict=True):
        bank.touched[rows] = True
        exchanged(bank, totals, keep=True)
        for name in ("parameters", "first", "second", "steps"):
            assert torch.equal(getattr(bank, name), getattr(whole, name)), name
        assert not bank.touched.any()
