"""Fine-tuned image networks: micro-batches against whole batches, rates of their own, where they start."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import pytorch_lightning as pl
import torch
from replicas import everywhere
from tiny import QUIET, built, configuration
from torch import Tensor, nn

from crossmodal_bench.core.batch import DataSpec
from crossmodal_bench.core.encoding import Encoding
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import experiments
from crossmodal_bench.methods import FineTuningSettings, Matching, fine_tuning
from crossmodal_bench.methods.fine_tuning import EncodedBatch
from crossmodal_bench.methods.hosts import SCAN, VSE
from crossmodal_bench.networks import backbones
from crossmodal_bench.networks.backbones import BackboneSource
from crossmodal_bench.training.lightning_cli import instantiate

BATCH, MICRO = 18, 5  # four micro-batches, of four and five pairs
Gradients = dict[str, Tensor]


class TinyNetwork(nn.Sequential):
    """Stands in for a pre-trained network: pixels to 6 numbers, with batch norms and dropout."""

    def __init__(self, dropout: float) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 5, stride=4),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout),
        )


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets methods run a tiny network, of so much dropout."""

    def set_dropout(dropout: float) -> None:
        def load(name: str, weights: str, *_: Any) -> tuple[nn.Module, BackboneSource]:
            torch.manual_seed(7)
            return TinyNetwork(dropout).eval(), BackboneSource(name, weights, "0" * 16, 6)

        monkeypatch.setattr(backbones, "load_backbone", load)

    set_dropout(0.0)
    return set_dropout


VSE_ON_PIXELS = {
    "model.init_args.host.init_args.dim": 8,
    "model.init_args.host.init_args.embedding": 6,
    "model.init_args.host.init_args.fine_tune": True,
    "model.init_args.ranking.hardest": True,
    "data.images.network": "resnet18",
    "data.images.weights": "none",
}
GXN = {
    "model.init_args.dim": 8,
    "model.init_args.image_encoder.init_args.hidden": [],
    "model.init_args.image_encoder.init_args.standardise": False,
    "model.init_args.text_encoders.embedding": 6,
    "model.init_args.text_encoders.hidden": 6,
    "model.init_args.captions.init_args.hidden": 6,
    "model.init_args.captions.init_args.embedding": 6,
    "model.init_args.captions.init_args.max_words": 5,
    "model.init_args.pictures.init_args.generator_channels": 2,
    "model.init_args.pictures.init_args.discriminator_channels": 2,
}
VSRN = {
    "model.init_args.host.init_args.dim": 8,
    "model.init_args.host.init_args.embedding": 6,
    "model.init_args.host.init_args.blocks": 1,
    "model.init_args.host.init_args.standardise": False,
    "model.init_args.host.init_args.dropout": 0.0,
    "model.init_args.host.init_args.caption_hidden": 6,
    "model.init_args.host.init_args.caption_embedding": 5,
}


class Watched(pl.Callback):
    """The gradients of all parameters before each step of an optimiser, and the random state in the end."""

    def __init__(self) -> None:
        self.steps: list[Gradients] = []
        self.random_state = torch.zeros(0)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        named = pl_module.named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_train_batch_end(self, *_: Any) -> None:
        self.random_state = torch.random.get_rng_state()


def one_step(
    method: str, settings: dict[str, Any], micro_batch_size: int | None = None, **changes: Any
) -> tuple[Any, Watched]:
    """A method behind one batch of each epoch, and what was watched.

    In double precision, unless ``changes`` have a precision.
    """
    config = configuration(
        method,
        **{
            "data.batch_size": BATCH,
            "trainer.max_epochs": 1,
            "trainer.limit_train_batches": 1,
            "trainer.limit_val_batches": 0,
            "model.init_args.optimizer.gradient_clip": None,
            "model.init_args.fine_tuning.micro_batch_size": micro_batch_size,
            **settings,
            **changes,
        },
    )
    watched = Watched()
    cli = instantiate(config, [watched], **QUIET)
    cli.model.prepare(cli.datamodule.build(cli.model.requires))
    if "trainer.precision" not in changes:
        cli.model.double()
        # Lightning's own plugin for double precision cannot change frozen batches.
        cli.model.on_after_batch_transfer = lambda batch, _: everywhere(
            batch, lambda x: x.double() if x.is_floating_point() else x
        )
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
    return cli.model, watched


class WithGraph(EncodedBatch):
    """What the cached gradients must equal: the micro-batches encoded with a graph, and one backward pass."""

    def __init__(self, module: Any, batch: Any, encode: Any, micro_batch_size: int | None = None) -> None:
        super().__init__(module, batch, encode, micro_batch_size)
        for statistic, before in self._statistics(module):
            statistic.copy_(before)
        torch.random.set_rng_state(self._states[0][0])
        encoded = [encode(part) for part in self._parts]
        self.encodings = tuple(Encoding.cat(parts) for parts in zip(*encoded, strict=True))

    @staticmethod
    def _statistics(module: Any) -> list[tuple[Tensor, Tensor]]:
        fresh = TinyNetwork(0.0).state_dict()
        return [
            (buffer, fresh[name.rpartition("network.network.")[2]])
            for name, buffer in module.named_buffers()
            if "network.network." in name
        ]

    def backward(self, loss: Tensor) -> None:
        self._module.manual_backward(loss)


def check_same(ours: Watched, expected: Watched, **tolerance: float) -> None:
    assert len(ours.steps) == len(expected.steps) > 0
    for mine, theirs in zip(ours.steps, expected.steps, strict=True):
        assert mine.keys() == theirs.keys() and any(gradient.abs().max() > 1e-6 for gradient in mine.values())
        for name, gradient in theirs.items():
            torch.testing.assert_close(
                mine[name], gradient, msg=lambda text, name=name: f"{name}: {text}", **tolerance
            )
    assert torch.equal(ours.random_state, expected.random_state), "what is drawn later is as it was"


EXACT = {"rtol": 1e-9, "atol": 1e-12}


# ---- the gradient ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("vse", {**VSE_ON_PIXELS, "model.init_args.fine_tuning.freeze_batch_norm": True}),
        ("scan", {"model.init_args.host.init_args.dim": 8, "model.init_args.host.init_args.embedding": 6}),
        ("gxn", GXN),
    ],
    ids=["vse on pixels", "scan", "gxn and its paths"],
)
def test_micro_batches_have_the_whole_batchs_gradient(
    tiny_network: Callable[[float], None], method: str, settings: dict[str, Any]
) -> None:
    _, whole = one_step(method, settings)
    model, parts = one_step(method, settings, MICRO)
    check_same(parts, whole, **EXACT)
    if method == "vse":
        backbone = [gradient for name, gradient in whole.steps[0].items() if "network" in name]
        assert len(backbone) == 4 and all(gradient.abs().max() > 1e-6 for gradient in backbone)
        assert torch.equal(model.host.network.network[1].running_mean, torch.zeros(6).double())


def test_accumulated_losses_of_micro_batches_have_another_gradient(
    tiny_network: Callable[[float], None],
) -> None:
    """What gradient caching is for: the hardest negative of a pair may lie in another micro-batch."""
    settings = {**VSE_ON_PIXELS, "model.init_args.fine_tuning.freeze_batch_norm": True}
    _, whole = one_step("vse", settings)

    def training_step(self: Matching, batch: Any, batch_idx: int) -> None:
        bounds = range(0, BATCH, 6)
        for start in bounds:
            part = fine_tuning._rows(batch, slice(start, start + 6))
            images, texts = self.host.images(part.images), self.host.texts(part.texts)
            self.manual_backward(self.loss(images, texts, part))
        self.optimizers().step()  # type: ignore[union-attr]

    with patch.object(Matching, "training_step", training_step):
        _, accumulated = one_step("vse", settings)
    name = "host.features.linear.weight"
    difference = (accumulated.steps[0][name] - whole.steps[0][name]).norm() / whole.steps[0][name].norm()
    assert difference > 0.1


def test_dropout_is_drawn_again_and_batch_statistics_are_kept_once(
    tiny_network: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_network(0.4)
    model, parts = one_step("vse", VSE_ON_PIXELS, MICRO)
    with patch("crossmodal_bench.methods.matching.EncodedBatch", WithGraph):
        reference, expected = one_step("vse", VSE_ON_PIXELS, MICRO)
    check_same(parts, expected, **EXACT)
    norm, theirs = model.host.network.network[1], reference.host.network.network[1]
    assert int(norm.num_batches_tracked) == 4 == int(theirs.num_batches_tracked)
    torch.testing.assert_close(norm.running_mean, theirs.running_mean, **EXACT)
    torch.testing.assert_close(norm.running_var, theirs.running_var, **EXACT)
    assert norm.running_mean.abs().max() > 1e-4
    # The test would see other masks: without replaying them, the gradients differ.
    monkeypatch.setattr(fine_tuning, "_set_random_state", lambda state, device: None)
    _, elsewhere = one_step("vse", VSE_ON_PIXELS, MICRO)
    name = "host.network.network.0.weight"
    assert not torch.allclose(elsewhere.steps[0][name], parts.steps[0][name], rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "module", "settings"),
    [
        ("gxn", "gxn.method", {**GXN, "model.init_args.text_encoders.dropout": 0.3}),
        ("vsrn", "matching", VSRN),
    ],
    ids=["gxn's dropout of words", "vsrn's batch norms, and the parameters of its caption loss"],
)
def test_of_other_methods_noise_and_batch_statistics_are_a_micro_batchs_too(
    method: str, module: str, settings: dict[str, Any]
) -> None:
    _, parts = one_step(method, settings, MICRO)
    with patch(f"crossmodal_bench.methods.{module}.EncodedBatch", WithGraph):
        _, expected = one_step(method, settings, MICRO)
    check_same(parts, expected, **EXACT)


def test_in_mixed_precision_the_encoders_have_a_gradient_too(
    tiny_network: Callable[[float], None],
) -> None:
    """Autocast keeps weights that it has cast; those cast without a graph would cut the second pass off."""
    precision = {"trainer.precision": "bf16-mixed", "model.init_args.fine_tuning.freeze_batch_norm": True}
    _, whole = one_step("vse", VSE_ON_PIXELS, **precision)
    _, parts = one_step("vse", VSE_ON_PIXELS, MICRO, **precision)
    scale = max(float(gradient.abs().max()) for gradient in whole.steps[0].values())
    check_same(parts, whole, rtol=0.1, atol=0.02 * scale)


def test_scaled_gradients_are_refused() -> None:
    model, data = built("vse", **{"data.batch_size": BATCH})
    batch = next(iter(data.train_dataloader()))
    module: Any = SimpleNamespace(trainer=SimpleNamespace(precision="16-mixed"), device=torch.device("cpu"))
    with pytest.raises(
        BadInput, match=r"16-mixed, whose gradient scaling does not work with micro_batch_size"
    ):
        EncodedBatch(module, batch, model._encode, MICRO)
    assert len(EncodedBatch(module, batch, model._encode, BATCH).encodings) == 4, "one part is no part"


# ---- rates and settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["vse", "gxn_finetune"])
def test_the_backbone_has_a_rate_of_its_own_which_falls_with_the_others(
    tiny_network: Callable[[float], None], method: str
) -> None:
    settings: dict[str, Any] = {
        "model.init_args.fine_tuning.backbone_learning_rate": 1e-5,
        "model.init_args.optimizer.learning_rate": 1e-3,
        "model.init_args.schedule.every_epochs": 1,
        "trainer.max_epochs": 2,
    }
    if method == "vse":
        settings |= VSE_ON_PIXELS
    else:
        settings |= {
            "model.init_args.image_encoder": {"class_path": "crossmodal_bench.networks.ConvNetEncoder"},
            "data.images.network": "resnet18",
            "model.init_args.dim": 8,
        }
    model, _ = one_step(method, settings)
    groups = model.trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == pytest.approx([1e-4, 1e-6])
    network = model.host.network if method == "vse" else model.image_encoder.backbone
    assert [id(p) for p in groups[1]["params"]] == [id(p) for p in network.parameters()]
    count = len(list(model.parameters()))
    assert len(groups[0]["params"]) + len(groups[1]["params"]) == count
    assert model.fine_tunes_backbone and model.backbone.network == "resnet18"


def test_without_a_rate_of_its_own_the_backbone_is_trained_as_all_else(
    tiny_network: Callable[[float], None],
) -> None:
    model, _ = one_step("vse", VSE_ON_PIXELS)
    (group,) = model.trainer.optimizers[0].param_groups
    assert len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("method", "settings", "sentence"),
    [
        (
            "vse",
            {"backbone_learning_rate": 1e-5},
            "backbone_learning_rate is 1e-05, but no image network is trained",
        ),
        (
            "gxn",
            {"backbone_learning_rate": 1e-5},
            "backbone_learning_rate is 1e-05, but no image network is trained",
        ),
        ("scan", {"freeze_batch_norm": True}, "freeze_batch_norm is True, but no image network is trained"),
        ("vse", {"backbone_learning_rate": 0.0}, "backbone_learning_rate is 0.0; give a positive number"),
        ("gxn", {"micro_batch_size": 0}, "micro_batch_size is 0; give a whole number, 1"),
    ],
)
def test_settings_without_effect_or_sense_are_refused(
    method: str, settings: dict[str, Any], sentence: str
) -> None:
    changes = {f"model.init_args.fine_tuning.{name}": value for name, value in settings.items()}
    with pytest.raises(BadInput, match=sentence):
        instantiate(configuration(method, **changes))


def test_what_is_set_of_the_second_stage_does_not_reach_the_first() -> None:
    over = {"model.init_args.fine_tuning.micro_batch_size": 32, "model.init_args.ranking.margin": 0.1}
    first = experiments.method_settings("vse", "flickr30k", "paper")
    assert list(experiments.applicable(over, first)) == ["model.init_args.ranking.margin"]
    for method in ("gxn_finetune", "gxn_i2t_mix"):
        settings = experiments.method_settings(method, "flickr30k", "paper")
        assert experiments.applicable(over, settings) == over


# ---- where it starts ------------------------------------------------------------------------------------


def test_vse_finetune_goes_on_from_vse_with_the_same_function(
    tiny_network: Callable[[float], None],
) -> None:
    spec = DataSpec(10, 10, feature_dim=6, vocabulary_size=12, network="resnet18", weights_root=".")
    parent = Matching(VSE(dim=8, embedding=4))
    parent.prepare(spec)
    child = Matching(VSE(dim=8, embedding=4, fine_tune=True))
    child.prepare(spec)
    assert child.requires == {"pixels", "words"} and parent.requires == {"features", "words"}
    before = {name: weight.clone() for name, weight in child.host.network.state_dict().items()}
    child.inherit({"vse": parent.state_dict()})
    for name, weight in parent.host.state_dict().items():
        assert torch.equal(child.host.state_dict()[name], weight), name
    for name, weight in child.host.network.state_dict().items():
        assert torch.equal(before[name], weight), name
    assert child.fine_tunes_backbone and not parent.fine_tunes_backbone
    assert child.backbone is not None and parent.backbone is None


def test_parents_of_another_host_or_several_are_refused(tiny_network: Callable[[float], None]) -> None:
    spec = DataSpec(
        10, 10, feature_dim=6, region_dim=6, vocabulary_size=12, network="resnet18", weights_root="."
    )
    child, scan = Matching(VSE(dim=8, embedding=4)), Matching(SCAN(dim=8, embedding=4))
    tuned = Matching(VSE(dim=8, embedding=4, fine_tune=True))
    for model in (child, scan, tuned):
        model.prepare(spec)
    with pytest.raises(
        BadInput, match=r"the model to start from has weights for regions\.linear\.bias, unlike VSE"
    ):
        child.inherit({"scan": scan.state_dict()})
    with pytest.raises(BadInput, match=r"has weights for network\.frozen, unlike VSE as configured here"):
        child.inherit({"vse_finetune": tuned.state_dict()})
    with pytest.raises(BadInput, match="has no weights for features"):
        child.inherit({"nothing": {}})
    with pytest.raises(BadInput, match="a, b all provide weights for the host; keep only one parent"):
        child.inherit({"a": child.state_dict(), "b": child.state_dict()})


def test_settings_come_back_from_a_checkpoint() -> None:
    made = Matching(VSE(dim=4), fine_tuning=FineTuningSettings(micro_batch_size=3))
    assert made.hparams["fine_tuning"] == {
        "backbone_learning_rate": None,
        "micro_batch_size": 3,
        "freeze_batch_norm": False,
    }
