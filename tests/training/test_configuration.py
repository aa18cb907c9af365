"""A configuration is compared with the signatures that it is for; the parser has the last word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from tiny import QUIET, configuration

from crossmodal_bench import methods
from crossmodal_bench.core.class_paths import trust
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.experiments import names
from crossmodal_bench.jobs.schema import PRESETS
from crossmodal_bench.methods import CCA
from crossmodal_bench.training.configuration import _fits, check_configuration
from crossmodal_bench.training.lightning_cli import instantiate


@dataclass(frozen=True)
class Schedule:
    steps: Sequence[int] = ()
    kind: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True)
class Optimizer:
    learning_rate: float
    schedule: Schedule | None = None


class Nested(CCA):
    """A method with settings in its settings, which refuses one of them."""

    def __init__(self, optimizer: Optimizer = Optimizer(0.1), warm_up: Optimizer | None = None) -> None:
        super().__init__()
        self.optimizer, self.warm_up = optimizer, warm_up
        try:
            if optimizer.learning_rate < 0:
                raise ValueError("negative")
        except ValueError as error:
            raise BadInput(
                "model.init_args.optimizer.learning_rate is negative; give a number from 0"
            ) from error


@pytest.fixture(autouse=True)
def nested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "Nested", Nested, raising=False)
    trust([__name__])


def model(class_path: str, **init_args: Any) -> dict[str, Any]:
    config = configuration("cca")
    return {
        **config,
        "model": {"class_path": f"crossmodal_bench.methods.{class_path}", "init_args": init_args},
    }


@pytest.mark.parametrize("method", names("methods"))
@pytest.mark.parametrize("preset", PRESETS)
def test_every_experiment_passes(method: str, preset: str) -> None:
    for dataset in names("datasets"):
        check_configuration(configuration(method, dataset, preset))


def test_settings_in_settings_reach_the_constructor() -> None:
    optimizer = {"learning_rate": 1, "schedule": {"steps": [3, 4], "kind": "cosine"}}
    cli = instantiate(model("Nested", optimizer=optimizer, warm_up=None), **QUIET)
    assert cli.model.optimizer == Optimizer(1.0, Schedule([3, 4], "cosine"))
    assert cli.model.warm_up is None


OPTIMIZER = "model.init_args.optimizer"


@pytest.mark.parametrize(
    ("init_args", "sentence"),
    [
        ({"optimizer": {}}, f"'{OPTIMIZER}.learning_rate' is missing; give a number"),
        ({"optimizer": None}, f"'{OPTIMIZER}' is empty; give keys and values below it"),
        ({"optimizer": 3}, f"'{OPTIMIZER}' is '3'; give keys and values below it"),
        ({"optimizer": "sgd"}, f"'{OPTIMIZER}' is 'sgd'; give keys and values below it"),
        (
            {"optimizer": {"learning_rate": 1, "schedul": {}}},
            f"'{OPTIMIZER}.schedul' is unknown; did you mean 'schedule'?",
        ),
        (
            {"optimizer": {"learning_rate": 1, "schedule": {"steps": [1, "x"]}}},
            f"'{OPTIMIZER}.schedule.steps' is '[1, 'x']'; give a list of whole numbers",
        ),
        (
            {"optimizer": {"learning_rate": 1, "schedule": {"kind": "cosin"}}},
            f"'{OPTIMIZER}.schedule.kind' is 'cosin'; did you mean 'cosine'?",
        ),
        ({"warm_up": {"learning_rate": "fast"}}, "warm_up.learning_rate' is 'fast'; give a number"),
        ({"warm_up": [1]}, "warm_up' is '[1]'; give keys and values below it or null"),
    ],
)
def test_mistakes_in_nested_settings_are_named(init_args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_configuration(model("Nested", **init_args))
    assert sentence in str(caught.value)


def test_what_a_constructor_refuses_keeps_its_own_sentence() -> None:
    with pytest.raises(BadInput) as caught:
        instantiate(model("Nested", optimizer={"learning_rate": -1}), **QUIET)
    assert str(caught.value) == f"{OPTIMIZER}.learning_rate is negative; give a number from 0"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (model("ADDR"), "'model.init_args.host' is missing; name a class_path there"),
        (model("ADDR", host=7), "'model.init_args.host' is '7'; name a class_path there"),
        (model("ADDR", host={}), "'model.init_args.host.class_path' is missing; name a class_path there"),
        (
            model("ADDR", host={"class_path": "VSE", "init_args": {"dmi": 3}}),
            "'model.init_args.host.init_args.dmi' is unknown; did you mean 'dim'?",
        ),
        (model("ACMR", alpha=10**400), "'model.init_args.alpha' is '1000"),
        (
            model("ACMR", projectors={"last": 16**5000}),
            "'model.init_args.projectors.last' is 'a number of thousands of digits'; choose",
        ),
    ],
)
def test_what_is_missing_or_absurd_is_named(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        check_configuration(config)
    assert sentence in str(caught.value)


def test_a_class_that_is_no_method_is_looked_up_among_its_kind() -> None:
    config = configuration("gxn_i2t_xe")
    config["model"]["init_args"]["captions"] = {"class_path": "crossmodal_bench.methods.CaptionPth"}
    with pytest.raises(BadInput, match=r"did you mean 'crossmodal_bench\.methods\.CaptionPath'\?"):
        check_configuration(config)


def test_a_part_of_a_configuration_may_lack_what_the_command_line_gives() -> None:
    check_configuration({"model": {"class_path": "ADDR"}, "data": {}}, complete=False)
    with pytest.raises(BadInput, match=r"'data\.batchsize' is unknown"):
        check_configuration({"data": {"batchsize": 3}}, complete=False)


VALUES: tuple[Any, ...] = (
    *(
        3,
        3.0,
        1.5,
        True,
        None,
        float("nan"),
        "3",
        "1.5",
        "1e-3",
        "1.5e3",
        "true",
        "null",
        "a",
        "c",
        "[1]",
        "a: [",
        "\0",
    ),
    *([], [1], ["1"], ["a"], [None], (1, 2), [1, 2], [[1]], {}, {"a": 1}, {"a": "x"}, {"a": None}),
)


@pytest.mark.parametrize(
    "hint",
    [
        *(
            int,
            float,
            str,
            bool,
            Any,
            int | None,
            float | None,
            bool | int,
            str | float | None,
            Literal["a", "b"],
        ),
        *(Literal[3, "a"] | None, Sequence[int], list[str] | None, tuple[int, ...], tuple[int, str]),
        *(dict[str, int], Mapping[str, int | str] | None),
    ],
    ids=str,
)
def test_what_fits_is_what_the_parser_takes(hint: Any) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    for value in VALUES:
        if value is None:
            continue  # Stands for "not given" there, and for an empty key here.
        try:
            parser.parse_object({"value": value})
            taken = True
        except (ArgumentError, TypeError):
            taken = False
        assert _fits(value, hint) is taken, value
