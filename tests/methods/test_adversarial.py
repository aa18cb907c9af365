"""Who steps when: the loop of encoders and discriminator, on a method small enough to follow by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from tiny import SMALL_ACMR, configuration, fitted
from torch import Tensor

from crossmodal_bench.core.batch import DataSpec, ImageBatch, PairBatch, TextBatch
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.methods.adversarial import AdversarialMethod
from crossmodal_bench.networks import reverse_gradient


class TwoNumbers(AdversarialMethod):
    """Encoder e, discriminator c, loss 10 e + e' c: the gradients are 10 - c for e and e for c."""

    def __init__(
        self, encoder_steps: int, discriminator_steps: int, gradient_clip: float | None = None
    ) -> None:
        super().__init__(encoder_steps, discriminator_steps, gradient_clip)
        self.encoder = torch.nn.Parameter(torch.tensor([2.0]))
        self.discriminator = torch.nn.Parameter(torch.tensor([3.0]))
        self.steps: list[tuple[float, float]] = []

    def build(self, spec: DataSpec) -> None:
        raise AssertionError("has its networks")

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([self.encoder], 0.1), torch.optim.SGD([self.discriminator], 0.1)]

    def joint_loss(self, batch: PairBatch) -> Tensor:
        self.steps.append((self.encoder.item(), self.discriminator.item()))
        return (10 * self.encoder + reverse_gradient(self.encoder) * self.discriminator).sum()

    def encode_images(self, batch: ImageBatch) -> Encoding:
        raise NotImplementedError

    def encode_texts(self, batch: TextBatch) -> Encoding:
        raise NotImplementedError

    def score(self, images: Encoding, texts: Encoding) -> Tensor:
        raise NotImplementedError


def run(model: TwoNumbers, batches: int) -> list[tuple[float, float]]:
    model.prepare = lambda spec: None  # type: ignore[method-assign]
    model.setup = lambda stage: None  # type: ignore[method-assign]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, torch.utils.data.DataLoader(range(batches)))  # type: ignore[arg-type]
    assert trainer.global_step == batches
    return [*model.steps, (model.encoder.item(), model.discriminator.item())]


@pytest.mark.parametrize(("encoder_steps", "discriminator_steps"), [(5, 1), (2, 1), (1, 2), (1, 0)])
def test_each_step_is_the_right_ones_and_by_the_right_gradient(
    encoder_steps: int, discriminator_steps: int
) -> None:
    found = run(TwoNumbers(encoder_steps, discriminator_steps), 8)
    e, c = 2.0, 3.0
    for step in range(8):
        assert found[step] == pytest.approx((e, c)), step
        if step % (encoder_steps + discriminator_steps) < encoder_steps:
            e -= 0.1 * (10 - c)
        else:
            c -= 0.1 * e
    assert found[8] == pytest.approx((e, c))


def test_gradients_are_clipped_for_the_one_that_steps() -> None:
    found = run(TwoNumbers(1, 1, gradient_clip=0.5), 2)
    assert found[1] == pytest.approx((2 - 0.1 * 0.5, 3))
    assert found[2] == pytest.approx((2 - 0.1 * 0.5, 3 - 0.1 * 0.5))


def test_where_it_is_in_the_cycle_lies_in_the_state() -> None:
    model = TwoNumbers(5, 1)
    run(model, 8)
    other = TwoNumbers(5, 1)
    other.load_state_dict(model.state_dict())
    assert int(other.cycle_position) == 8 % 6


@pytest.mark.parametrize(("encoder_steps", "discriminator_steps"), [(0, 1), (-1, 1), (1, -1)])
def test_impossible_cycles_are_refused(encoder_steps: int, discriminator_steps: int) -> None:
    with pytest.raises(ValueError, match=f"encoder_steps {encoder_steps} must be at least 1"):
        TwoNumbers(encoder_steps, discriminator_steps)


def test_acmr_steps_its_parts_in_turns() -> None:
    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.changed: list[set[str]] = []
            self.before: dict[str, Tensor] = {}

        def on_train_batch_start(self, trainer: Any, module: Any, *rest: Any) -> None:
            self.before = {name: p.detach().clone() for name, p in module.named_parameters()}

        def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
            moved = {name for name, p in module.named_parameters() if not torch.equal(p, self.before[name])}
            self.changed.append({name.split(".")[0] for name in moved})
            assert moved == {name for name in self.before if name.split(".")[0] in self.changed[-1]}
            assert all(p.grad is None for p in module.parameters())

    watch = Watch()
    config = configuration(**{**SMALL_ACMR, "model.init_args.k": 2, "trainer.max_epochs": 2})
    cli = fitted(config, [watch])
    encoders = {"image_projector", "text_projector", "label_classifier"}
    cycle = [encoders, encoders, {"modality_classifier"}]
    assert len(watch.changed) == 8
    assert watch.changed == [cycle[step % 3] for step in range(8)]
    together, discriminator = cli.trainer.optimizers
    held = {id(p) for group in together.param_groups for p in group["params"]}
    assert held == {id(p) for name, p in cli.model.named_parameters() if name.split(".")[0] in encoders}
    assert sum(len(group["params"]) for group in discriminator.param_groups) == 4


def test_means_are_over_samples_and_logged_once_at_the_end() -> None:
    model = TwoNumbers(1, 1)
    logged: list[dict[str, float]] = []
    model.log_dict = lambda values, **settings: logged.append({k: float(v) for k, v in values.items()})  # type: ignore
    model._trainer = SimpleNamespace(is_last_batch=False)  # type: ignore[assignment]
    model.on_train_epoch_start()
    model.log_means({"a": torch.tensor(1.0), "b": torch.tensor(5.0)}, 3)
    model.on_train_batch_end(None, None, 0)
    assert logged == []
    model.log_means({"a": torch.tensor(2.0)}, 1)
    model._trainer.is_last_batch = True  # type: ignore[union-attr]
    model.on_train_batch_end(None, None, 1)
    assert logged == [{"a": 1.25, "b": 5.0}]
    model.on_train_epoch_start()
    model.log_means({"a": torch.tensor(7.0)}, 2)
    model.on_train_batch_end(None, None, 0)
    assert logged[1] == {"a": 7.0}
