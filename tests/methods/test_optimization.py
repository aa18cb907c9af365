"""Optimisers and schedules: what is built from settings, and how settings come back from a checkpoint."""

from __future__ import annotations

import inspect
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import pytorch_lightning as pl
import torch
from tiny import QUIET, configuration

from crossmodal_bench import methods
from crossmodal_bench.methods import (
    ACMR,
    AdamSettings,
    DecaySettings,
    EpochDecaySettings,
    Matching,
    ProjectorSettings,
    RankingSettings,
    RetrievalMethod,
)
from crossmodal_bench.methods.hosts import SCAN
from crossmodal_bench.training.lightning_cli import instantiate

CLASSES = [getattr(methods, name) for name in methods.__all__]
MAXIMUM = 14
"""Arguments of one constructor, and fields of one settings object."""


def numbers() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]


@pytest.mark.parametrize("fused", [None, True, False])
def test_adam_has_its_settings_and_its_parameters_in_order(fused: bool | None) -> None:
    parameters = numbers()
    made = AdamSettings(learning_rate=0.3, beta1=0.7, gradient_clip=2.0).build(parameters, fused=fused)
    assert type(made) is torch.optim.Adam
    expected = torch.optim.Adam(parameters, 0.3, (0.7, 0.999), fused=fused)
    assert made.defaults == expected.defaults
    (group,) = made.param_groups
    assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in parameters]


def test_rates_fall_by_epochs_and_by_steps_down_to_the_least() -> None:
    both = DecaySettings(factor=0.1, every_epochs=2, every_steps=100, minimum_rate=1e-4)
    seen = [both.rate(1.0, epoch, step) for epoch, step in ((0, 0), (1, 99), (2, 99), (2, 100), (9, 900))]
    assert seen == pytest.approx([1, 1, 0.1, 0.01, 1e-4])
    assert both.rate(1e-5, 9, 900) == 1e-5, "a rate that starts lower is not raised"
    assert DecaySettings().rate(1.0, 99, 10**6) == 1.0, "never, unless asked"


def test_a_multiplier_falls_by_epochs_alone() -> None:
    falling = EpochDecaySettings(factor=0.1, every_epochs=3)
    assert [falling.multiplier(epoch) for epoch in (0, 2, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])
    assert EpochDecaySettings().multiplier(99) == 1.0


@pytest.mark.parametrize(
    ("settings", "name"),
    [(DecaySettings, "every_epochs"), (DecaySettings, "every_steps"), (EpochDecaySettings, "every_epochs")],
)
@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_that_is_none_is_refused(settings: Any, name: str, interval: int) -> None:
    with pytest.raises(ValueError, match=rf"schedule\.{name} is {interval}; give a whole number, 1"):
        settings(**{name: interval})


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_no_constructor_takes_more_arguments_than_one_can_keep_in_mind(cls: type) -> None:
    parameters = inspect.signature(cls).parameters.values()
    assert len(parameters) <= MAXIMUM
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if is_dataclass(cls)], ids=lambda cls: cls.__name__)
def test_settings_are_frozen_and_every_field_is_documented(cls: Any) -> None:
    assert cls.__dataclass_params__.frozen
    _, _, attributes = inspect.getdoc(cls).partition("Attributes:\n")  # type: ignore[union-attr]
    for field in fields(cls):
        assert f"    {field.name}: " in attributes, field.name


@pytest.mark.parametrize(
    "method", ["acmr", "timam", "vse", "scan", "bfan", "vsrn", "addr_scan", "addr_bfan", "addr_vsrn", "gxn"]
)
def test_a_methods_file_names_all_of_its_settings(method: str) -> None:
    """What is set below a part that a parent's file does not name would not reach the parent."""
    model = configuration(method, preset="paper")["model"]
    cls = getattr(methods, model["class_path"].rpartition(".")[2])
    settings = {name for name, hint in get_type_hints(cls.__init__).items() if is_dataclass(hint)}
    assert settings and settings <= set(model["init_args"])


# ---- checkpoints ----------------------------------------------------------------------------------------


def saved(model: RetrievalMethod, path: Path) -> dict[str, Any]:
    """The checkpoint of an untrained model on tiny data, as loaded with weights_only=True."""
    data = instantiate(configuration("acmr" if isinstance(model, ACMR) else "scan"), **QUIET).datamodule
    model.prepare(data.build(model.requires))
    trainer = pl.Trainer(**QUIET, logger=False, max_epochs=0)  # type: ignore[arg-type]
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(path)
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def test_settings_that_were_given_as_objects_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    projectors = ProjectorSettings(image_hidden=[5], text_hidden=[4], dim=3, standardise=True)
    optimizer = AdamSettings(learning_rate=0.3, gradient_clip=1.0)
    made = ACMR(alpha=0.7, projectors=projectors, optimizer=optimizer)
    content = saved(made, tmp_path / "objects.ckpt")
    assert content["hyper_parameters"]["projectors"] == asdict(projectors)
    loaded = ACMR.load_from_checkpoint(tmp_path / "objects.ckpt", map_location="cpu", weights_only=True)
    assert (loaded.alpha, loaded.projector_settings, loaded.optimizer_settings) == (
        0.7,
        projectors,
        optimizer,
    )
    for name, weight in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_networks_that_were_given_as_objects_are_given_again(tmp_path: Path) -> None:
    made = Matching(SCAN(dim=4, embedding=3), ranking=RankingSettings(margin=0.3))
    content = saved(made, tmp_path / "objects.ckpt")
    assert "host" not in content["hyper_parameters"]
    loaded = Matching.load_from_checkpoint(
        tmp_path / "objects.ckpt", map_location="cpu", weights_only=True, host=SCAN(dim=4, embedding=3)
    )
    assert loaded.ranking_settings == RankingSettings(margin=0.3)
    for name, weight in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_settings_of_a_configuration_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    made = instantiate(configuration("scan", **{"model.init_args.ranking.margin": 0.3}), **QUIET).model
    assert isinstance(made, Matching)
    saved(made, tmp_path / "configured.ckpt")
    loaded = Matching.load_from_checkpoint(
        tmp_path / "configured.ckpt", map_location="cpu", weights_only=True
    )
    assert loaded.ranking_settings == made.ranking_settings == RankingSettings(margin=0.3, hardest=False)
    assert loaded.schedule_settings == made.schedule_settings
    assert loaded.optimizer_settings == made.optimizer_settings
