"""Every method trains, validates and tests on a pretended accelerator, and its steps hardly wait for it.

Counts are of a step behind the first, which may read back what a run starts from. Moving a batch to the
device, which is Lightning's part, must not wait at all.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pretended_accelerator
import pytest
import pytorch_lightning as pl
import torch
from documents import ROOT
from pretended_accelerator import MixedDevices, pretended
from pytorch_lightning.cli import LightningCLI
from tiny import QUIET, SMALL_ACMR, configuration
from torch import Tensor

from crossmodal_bench.core.errors import Diverged
from crossmodal_bench.jobs.experiments import names
from crossmodal_bench.methods import ACMR
from crossmodal_bench.methods.addr.discriminators import DiscriminatorBank
from crossmodal_bench.methods.base import RetrievalMethod
from crossmodal_bench.training.callbacks import RetrievalEvaluation
from crossmodal_bench.training.lightning_cli import instantiate

pytestmark = pytest.mark.skipif(
    pretended_accelerator.unsupported() is not None, reason=str(pretended_accelerator.unsupported())
)
Waits = Counter[tuple[str, str]]

MOST_WORDS = 4
REWARDED = 1 + 2 * (MOST_WORDS - 1)
"""One copy of what was drawn and of its baseline; and, word by word, whether each of the two is finished."""
BUDGETS: dict[str, dict[str, int]] = {
    # The gradient of the bank's rows, which are the host's; their way to the device waits for nothing.
    **{
        f"{kind}_{host}": {"GroupBatch": 1, "PairBatch": 0}
        for kind in ("addr", "multiple", "united")
        for host in ("scan", "bfan", "vsrn")
    },
    "gxn_i2t_mix": {"PairBatch": REWARDED},
    "gxn": {"PairBatch": REWARDED},
}
"""Waits in a step, by method and kind of batch; of all other methods none."""
QUICK = ("acmr", "addr_scan", "infonce", "scan", "timam")
"""Run by default: different training loops, one to two seconds of processor time each; GXN takes four."""
SMALL: dict[str, Any] = {"data.batch_size": 8, "trainer.max_epochs": 1}


@dataclass
class Steps(pl.Callback):
    """Notes the waits of each step, by kind of batch, and of each way of a batch to the device."""

    steps: list[tuple[str, Waits]] = field(default_factory=list)
    moves: list[Waits] = field(default_factory=list)
    validations: list[Waits] = field(default_factory=list)

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        self.moves.append(pretended_accelerator.LEDGER.take())

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int) -> None:
        self.steps.append((type(batch).__name__, pretended_accelerator.LEDGER.take()))

    def on_validation_batch_start(self, *rest: Any) -> None:
        pretended_accelerator.LEDGER.take()

    def on_validation_batch_end(self, *rest: Any) -> None:
        self.validations.append(pretended_accelerator.LEDGER.take())

    def last(self) -> dict[str, Waits]:
        """The waits of the last step with each kind of batch."""
        return dict(self.steps)


def settings(method: str, batches: int = 4) -> dict[str, Any]:
    """A configuration whose networks are as small as can be."""
    config = configuration(method, "synthetic-20", **SMALL)
    config["trainer"] |= {"limit_train_batches": batches}
    model = config["model"]["init_args"]
    host = model.get("host", {}).get("init_args")
    if host is not None:
        host |= {"dim": 16, "embedding": 8} | ({"blocks": 1, "caption_hidden": 8} if "blocks" in host else {})
    captions = (model.get("captions") or {}).get("init_args")
    if captions is not None:
        # The reward from the start, which is what waits.
        captions |= {"reinforce_from": 0} if captions.get("reinforce_from") is not None else {}
        captions |= {"max_words": MOST_WORDS, "samples": 1, "hidden": 8}
    return config


def run(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *callbacks: pl.Callback
) -> tuple[LightningCLI, Steps]:
    """Train, validate and test on the pretended accelerator."""
    # Threads beside the trainer's know nothing of the pretended device.
    monkeypatch.setattr(DiscriminatorBank, "prefetch", lambda *rest: None)
    steps = Steps()
    cli = instantiate(config, [RetrievalEvaluation(), *callbacks, steps], **QUIET)
    with pretended(cli.trainer):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
    return cli, steps


def shown(waits: Waits) -> str:
    return "; ".join(f"{count} x {kind} at {line}" for (kind, line), count in waits.most_common())


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in names("methods")],
)
def test_a_step_waits_for_the_device_as_seldom_as_its_budget_says(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two batches of each kind, the second of which counts.
    cli, steps = run(settings(method, 4 if method in BUDGETS else 2), monkeypatch)
    assert any(name.startswith("test/") for name in cli.trainer.callback_metrics)
    for kind, waits in steps.last().items():
        budget = BUDGETS.get(method, {}).get(kind, 0)
        assert sum(waits.values()) <= budget, f"{kind}: {shown(waits)}"
    moved = sum(steps.moves[1:], Counter())
    assert not moved, f"batches on their way: {shown(moved)}"
    # What was encoded is kept in the host's memory, which takes one copy a batch.
    assert steps.validations and all(sum(waits.values()) == 1 for waits in steps.validations)


def test_budgets_are_of_methods() -> None:
    assert set(BUDGETS) <= set(names("methods")) and set(QUICK) <= set(names("methods"))


def test_the_documentation_has_the_budgets() -> None:
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    text, separator, _ = page.partition("\nHow it was:")
    assert separator
    said: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            for method in re.findall(r"`(\w+)`", cells[0]):
                assert method not in said
                said[method] = (cells[1], cells[2])
    words = {0: "0", 1: "1", REWARDED: "1 + 2 (n - 1)", None: "–"}
    assert said == {
        method: (
            words[BUDGETS.get(method, {}).get("GroupBatch")],
            words[BUDGETS.get(method, {}).get("PairBatch", 0)],
        )
        for method in names("methods")
    }


def acmr(monkeypatch: pytest.MonkeyPatch, change: Any) -> Steps:
    """ACMR's steps whose loss a test has changed."""
    joint = ACMR.joint_loss
    monkeypatch.setattr(ACMR, "joint_loss", lambda self, batch: change(joint(self, batch)))
    config = configuration("acmr", "synthetic-20", **{**SMALL, **SMALL_ACMR, "data.batch_size": 8})
    config["trainer"] |= {"limit_train_batches": 3}
    return run(config, monkeypatch)[1]


def test_a_value_that_a_step_reads_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(loss: Tensor) -> Tensor:
        assert loss.item() == loss.item()
        return loss

    waits = acmr(monkeypatch, read).last()["PairBatch"]
    assert {kind for kind, _ in waits} == {"item(), int(), float() or bool()"} and sum(waits.values()) == 2


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("copy to the host", lambda loss: loss + 0 * loss.detach().cpu()),
        ("blocking copy to the device", lambda loss: loss + torch.zeros(2).to(loss.device).sum()),
        ("boolean mask", lambda loss: loss + 0 * loss.expand(3)[(loss > 0).expand(3)].sum()),
        ("tolist()", lambda loss: loss + 0 * loss.detach().tolist()),
        ("nonzero", lambda loss: loss + 0 * loss.nonzero().sum()),
    ],
)
@pytest.mark.slow
def test_other_ways_to_wait_are_counted(kind: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = acmr(monkeypatch, change).last()["PairBatch"]
    assert [noted for noted, _ in waits if noted.startswith(kind)], shown(waits)


def test_tensors_of_mixed_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MixedDevices, match=r"mul of tensors on two devices: .*\(3,\) on cpu"):
        acmr(monkeypatch, lambda loss: (loss.expand(3) * torch.ones(3)).sum())


def test_a_loss_that_is_not_finite_is_told_when_its_epoch_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    log = RetrievalMethod.log_means
    seen: list[int] = []

    def spoilt(self: RetrievalMethod, values: dict[str, Tensor], batch_size: int) -> None:
        seen.append(len(seen))
        factor = float("nan") if len(seen) == 2 else 1.0
        log(self, {name: value * factor for name, value in values.items()}, batch_size)

    monkeypatch.setattr(RetrievalMethod, "log_means", spoilt)
    with pytest.raises(Diverged, match=r"train/loss_embedding is nan in epoch 1: training has diverged; low"):
        acmr(monkeypatch, lambda loss: loss)
    assert len(seen) == 3


class SavesAfterEachBatch(pl.Callback):
    """As a run that is interrupted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *rest: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def test_no_checkpoint_is_written_of_a_training_that_has_diverged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = RetrievalMethod.log_means
    monkeypatch.setattr(
        RetrievalMethod,
        "log_means",
        lambda self, values, batch_size: log(self, {name: x / 0.0 for name, x in values.items()}, batch_size),
    )
    config = configuration("acmr", "synthetic-20", **{**SMALL, **SMALL_ACMR, "data.batch_size": 8})
    with pytest.raises(Diverged, match="is inf in epoch 1: training has diverged"):
        run(config, monkeypatch, SavesAfterEachBatch(tmp_path))
    assert not list(tmp_path.iterdir())


def test_steps_there_are_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration("acmr", "synthetic-20", **{**SMALL, **SMALL_ACMR, "data.batch_size": 8})
    config["trainer"] |= {"limit_train_batches": 3}
    pl.seed_everything(0, verbose=False)
    there, _ = run(config, monkeypatch)
    pl.seed_everything(0, verbose=False)
    here = instantiate(config, [RetrievalEvaluation()], **QUIET)
    here.trainer.fit(here.model, datamodule=here.datamodule)
    expected = here.model.state_dict()
    assert expected.keys() == there.model.state_dict().keys()
    for name, value in there.model.state_dict().items():
        torch.testing.assert_close(value.cpu(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
