"""From a configuration to a model; every mistake in one gives one sentence that names the key and the fix."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, Union

import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser
from pytorch_lightning.strategies import DDPStrategy
from tiny import QUIET, SMALL_ACMR, configuration, fitted

from crossmodal_bench.cli.main import main
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.experiments import expand
from crossmodal_bench.training.lightning_cli import instantiate, several_devices, whole_numbers_first

SETTINGS: dict[str, Any] = {
    **SMALL_ACMR,
    "trainer.max_epochs": 1,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
}
CONFIG = configuration(**SETTINGS)
METHODS, DATASETS = "crossmodal_bench.methods", "crossmodal_bench.data.datasets"


def changed(key: str, value: Any) -> dict[str, Any]:
    """The configuration with one value replaced or added."""
    config = copy.deepcopy(CONFIG)
    here = config
    *parents, last = key.split(".")
    for parent in parents:
        here = here.setdefault(parent, {})
    here[last] = value
    return config


def complaint(config: dict[str, Any]) -> str:
    before = copy.deepcopy(config)
    with pytest.raises(BadInput) as caught:
        instantiate(config)
    assert config == before
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400
    return text


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        # Keys that nobody knows, at every level, also where they hold nothing.
        ("modle", {}, "key 'modle' is unknown; did you mean 'model'?"),
        ("seed_everythin", 0, "key 'seed_everythin' is unknown; did you mean 'seed_everything'?"),
        ("model.init_arg", {}, "key 'model.init_arg' is unknown; did you mean 'init_args'?"),
        ("model.init_args.alhpa", 1, "key 'model.init_args.alhpa' is unknown; did you mean 'alpha'?"),
        (
            "model.init_args.optimizer.lerning_rate",
            1,
            "key 'model.init_args.optimizer.lerning_rate' is unknown; did you mean 'learning_rate'?",
        ),
        ("data.batchsize", 3, "key 'data.batchsize' is unknown; did you mean 'batch_size'?"),
        ("data.text.min_cuont", 1, "key 'data.text.min_cuont' is unknown; did you mean 'min_count'?"),
        ("data.images.netwrok", "x", "key 'data.images.netwrok' is unknown; did you mean 'network'?"),
        ("data.network", "x", "key 'data.network' is unknown"),
        (
            "data.dataset.init_args.sise",
            3,
            "key 'data.dataset.init_args.sise' is unknown; did you mean 'size'?",
        ),
        ("trainer.max_epoch", 3, "key 'trainer.max_epoch' is unknown; did you mean 'max_epochs'?"),
        # Values of the wrong type, or none of the choices.
        ("model.init_args.alpha", "abc", "key 'model.init_args.alpha' is 'abc'; give a number"),
        ("model.init_args.alpha", None, "key 'model.init_args.alpha' is empty; give a number"),
        ("model.init_args.k", 1.5, "key 'model.init_args.k' is '1.5'; give a whole number"),
        (
            "model.init_args.projectors.dim",
            [3],
            "key 'model.init_args.projectors.dim' is '[3]'; give a whole number",
        ),
        (
            "model.init_args.projectors.standardise",
            "often",
            "'model.init_args.projectors.standardise' is 'often'; give true or false",
        ),
        (
            "model.init_args.projectors.image_hidden",
            ["a"],
            "'model.init_args.projectors.image_hidden' is '['a']'; give a list of whole numbers",
        ),
        (
            "model.init_args.triplet.form",
            "dmeo",
            "'model.init_args.triplet.form' is 'dmeo'; did you mean 'demo'?",
        ),
        ("model.init_args.discriminator.learning_rate", "x", "is 'x'; give a number or null"),
        (
            "model.init_args.optimizer",
            3,
            "key 'model.init_args.optimizer' is '3'; give keys and values below it",
        ),
        (
            "model.init_args.optimizer",
            None,
            "key 'model.init_args.optimizer' is empty; give keys and values below it",
        ),
        (
            "model.init_args.optimizer.beta1",
            None,
            "key 'model.init_args.optimizer.beta1' is empty; give a number",
        ),
        ("data.batch_size", "many", "key 'data.batch_size' is 'many'; give a whole number"),
        ("data.sampling", "captions", "key 'data.sampling' is 'captions'; did you mean 'caption'?"),
        (
            "data.images.on_bad_image",
            "x",
            "key 'data.images.on_bad_image' is 'x'; choose one of fail, skip",
        ),
        ("data.images.size", "x", "key 'data.images.size' is 'x'; give a whole number"),
        ("data.images.size", 0, "data.images.size is 0; it must be at least 1"),
        ("data.images", 7, "key 'data.images' is '7'; give keys and values below it"),
        ("data.images", None, "key 'data.images' is "),
        ("data.text.min_count", "x", "key 'data.text.min_count' is 'x'; give a whole number"),
        ("data.text", 7, "key 'data.text' is '7'; give keys and values below it"),
        ("data.text", None, "key 'data.text' is empty; give keys and values below it"),
        ("data.dataset.init_args.seed", "x", "key 'data.dataset.init_args.seed' is 'x'; give a whole number"),
        ("trainer.max_epochs", "x", "key 'trainer.max_epochs' is 'x'; give a whole number or null"),
        ("trainer.precision", "8", "key 'trainer.precision' is '8'; choose one of 16, 16-mixed"),
        ("trainer", 5, "key 'trainer' is '5'; give keys and values below it"),
        ("seed_everything", "x", "key 'seed_everything' is 'x'; give true or false or a whole number"),
        ("data", None, "key 'data' is empty; give keys and values below it"),
        # Class paths.
        (
            "model.class_path",
            f"{METHODS}.ACRM",
            f"'{METHODS}.ACRM' cannot be imported; did you mean '{METHODS}.ACMR'?",
        ),
        (
            "model.class_path",
            "crossmodal_bench.metods.ACMR",
            f"cannot be imported; did you mean '{METHODS}.ACMR'?",
        ),
        (
            "model.class_path",
            "nonsense",
            "key 'model.class_path': 'nonsense' cannot be imported; choose one of",
        ),
        ("model.class_path", 3, "key 'model.class_path' is '3'; name a class_path there"),
        (
            "model.class_path",
            "torch.nn.Linear",
            "'torch.nn.Linear' is in a package that configurations may not name",
        ),
        (
            "model.class_path",
            "torch.optim.Adam",
            "'torch.optim.Adam' is not a RetrievalMethod; choose one of",
        ),
        ("model.class_path", "torch.optim.Nothing", "is not a network, optimiser or learning-rate schedule"),
        ("trainer.callbacks", [], "'trainer.callbacks' is not allowed"),
        ("trainer.strategy", {"class_path": "x"}, "key 'trainer.strategy' is "),
        ("weights_only", True, "key 'weights_only' is unknown"),
        ("model.class_path", f"{METHODS}.base", "is not a RetrievalMethod"),
        ("model", "ACRM", "key 'model.class_path': 'ACRM' cannot be imported"),
        ("model", None, "key 'model' is empty; name a class_path there"),
        (
            "data.dataset.class_path",
            f"{DATASETS}.Sythetic",
            f"cannot be imported; did you mean '{DATASETS}.Synthetic'?",
        ),
        ("data.dataset.class_path", f"{METHODS}.ACMR", f"'{METHODS}.ACMR' is not a DatasetReader"),
        ("data.dataset", None, "key 'data.dataset' is empty; name a class_path there"),
        # What a constructor refuses.
        ("model.init_args.k", 0, "encoder_steps 0 must be at least 1"),
        ("data.batch_size", 1, "data.batch_size is 1; it must be at least 2"),
        ("trainer.accelerator", "npu2", "invalid accelerator name"),
        ("trainer.devices", 0, "Trainer(devices=0)"),
        ("trainer.limit_val_batches", -1, "invalid value -1 for limit_val_batches"),
    ],
)
def test_a_mistake_gives_one_sentence(key: str, value: Any, sentence: str) -> None:
    assert sentence in complaint(changed(key, value))


@pytest.mark.parametrize("part", ["model", "data"])
def test_a_missing_part_is_named(part: str) -> None:
    config = {name: value for name, value in CONFIG.items() if name != part}
    missing = {"model": "model", "data": "data.dataset"}[part]
    assert complaint(config) == f"configuration key '{missing}' is missing; name a class_path there"


def test_a_short_class_name_means_this_packages() -> None:
    assert type(instantiate({**CONFIG, "model": "CCA"}, **QUIET).model).__name__ == "CCA"


def test_instantiate_hands_over_what_it_was_given() -> None:
    callback = pl.Callback()
    cli = instantiate(CONFIG, [callback], **{**QUIET, "max_epochs": 9})
    assert callback in cli.trainer.callbacks
    assert cli.model.projector_settings.dim == 8
    assert (cli.datamodule.batch_size, cli.datamodule.dataset.size) == (32, "20")
    # The configuration is above the caller's defaults; sharding and sanity checks are ours.
    assert cli.trainer.max_epochs == 1
    assert cli.trainer.num_sanity_val_steps == 0
    assert cli.model.data_spec is None


def test_whole_numbers_are_read_as_such_whatever_was_imported_before() -> None:
    parser = ArgumentParser(exit_on_error=False)
    # What Optional[int | float] is where somebody has written Optional[float | int] first.
    swapped = type(Union[int, str])(Union, (float, int, type(None)))  # noqa: UP007
    parser.add_argument("--limit", type=swapped)
    assert type(parser.parse_args(["--limit=1"]).limit) is float
    whole_numbers_first(parser)
    for text, kind in (("1", int), ("1.0", float), ("0.5", float), ("null", type(None))):
        assert type(parser.parse_args([f"--limit={text}"]).limit) is kind


def test_a_number_of_batches_stays_one() -> None:
    assert type(instantiate(changed("trainer.limit_val_batches", 1)).trainer.limit_val_batches) is int


def test_the_seed_decides_the_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        cli = instantiate({**CONFIG, "seed_everything": seed}, **QUIET)
        cli.model.prepare(cli.datamodule.build(cli.model.requires))
        return cli.model.image_projector.weights()[0]

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


# ---- the command line -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with CONFIG in config.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return tmp_path


def write(path: Path, **overrides: Any) -> None:
    path.write_text(yaml.safe_dump(expand(overrides)), encoding="utf-8")


def test_fit_and_test_run_a_resolved_configuration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = (folder / "config.yaml").read_bytes()
    write(folder / "more.yaml", **{"trainer.max_epochs": 2, "model.init_args.projectors.dim": 6})
    words = ["--config", "config.yaml", "--config=more.yaml"]
    assert main(["fit", *words, "--model.init_args.k", "3"]) == 0
    assert (folder / "config.yaml").read_bytes() == given, "the user's file is not overwritten"
    (checkpoint,) = (folder / "checkpoints").glob("*.ckpt")
    saved = torch.load(checkpoint, weights_only=True)
    projectors = saved["hyper_parameters"]["projectors"]
    assert (saved["epoch"], projectors["dim"]) == (1, 6)
    assert projectors["image_hidden"] == [16], "from the first file"
    assert saved["hyper_parameters"]["k"] == 3, "from the command line"
    assert saved["global_step"] == 2 * 4
    capsys.readouterr()
    assert main(["test", *words, "--model.init_args.k", "3", "--ckpt_path", str(checkpoint)]) == 0
    assert "test/rsum" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            "fit --config config.yaml --config typo.yaml",
            "key 'trainer.max_epoch' is unknown; did you mean 'max_epochs'?",
        ),
        (
            "fit --config=config.yaml --config=typo.yaml",
            "key 'trainer.max_epoch' is unknown; did you mean 'max_epochs'?",
        ),
        (
            "fit --config config.yaml --model.init_args.alhpa 3",
            "Parser key \"model\": Option 'alhpa' is not accepted",
        ),
        ("fit --config config.yaml --nonsense 3", "unrecognized arguments: --nonsense 3"),
        (
            "fit --config config.yaml --trainer.max_epochs x",
            "Parser key \"trainer.max_epochs\": Expected a <class 'int'>. Got value: x",
        ),
        ("fit --config config.yaml --model.init_args.k 0", "encoder_steps 0 must be at least 1"),
        ("test --config config.yaml --ckpt_path gone.ckpt", "--ckpt_path gone.ckpt does not exist"),
        ("fit --config nowhere.yaml", "--config nowhere.yaml cannot be read (No such file or directory)"),
        ("fit --config broken.yaml", "--config broken.yaml is not valid YAML (line "),
        ("fit --config empty.yaml", "--config empty.yaml contains no keys"),
        ("fit --config", "argument -c/--config: expected one argument"),
        ("test", "arguments are required: test.data.dataset, test.model"),
    ],
)
def test_mistakes_on_the_command_line_are_one_sentence_and_status_2(
    folder: Path, capfd: pytest.CaptureFixture[str], words: str, sentence: str
) -> None:
    write(folder / "typo.yaml", **{"trainer.max_epoch": 2})
    (folder / "broken.yaml").write_text("model: [", encoding="utf-8")
    (folder / "empty.yaml").write_text("", encoding="utf-8")
    before = sorted(os.listdir(folder))
    assert main(words.split()) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("crossmodal-bench: ")]
    assert len(said) == 1 and sentence in said[0]
    assert sorted(os.listdir(folder)) == before


def test_what_training_raises_is_no_bad_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("crossmodal_bench.methods.acmr.ACMR.training_step", fail)
    with pytest.raises(ValueError, match="a bug"):
        main(["fit", "--config", "config.yaml"])


@pytest.mark.parametrize(
    ("trainer", "several"),
    [
        ({}, False),
        ({"devices": 1}, False),
        ({"devices": "2", "accelerator": "cpu"}, True),
        ({"devices": [3]}, False),
        ({"devices": "0,3"}, True),
        ({"devices": [0, 3]}, True),
        ({"devices": -1, "accelerator": "cpu"}, False),
        ({"devices": 1, "num_nodes": 2}, True),
    ],
)
def test_what_several_devices_are(trainer: dict[str, Any], several: bool) -> None:
    assert several_devices(trainer) is several


@pytest.mark.parametrize(
    ("method", "devices", "unused"), [("gxn_t2i", 2, True), ("gxn_finetune", 2, False), ("gxn_t2i", 1, None)]
)
def test_on_several_devices_the_method_says_how(method: str, devices: int, unused: bool | None) -> None:
    config = configuration(method)
    strategy = instantiate(config, accelerator="cpu", devices=devices).trainer.strategy
    if unused is None:
        assert not isinstance(strategy, DDPStrategy)
    else:
        assert isinstance(strategy, DDPStrategy)
        assert strategy._ddp_kwargs.get("find_unused_parameters", False) is unused
    given = instantiate(
        {**config, "trainer": {**config["trainer"], "strategy": "ddp"}}, accelerator="cpu", devices=2
    )
    assert not given.trainer.strategy._ddp_kwargs.get("find_unused_parameters", False)


@pytest.mark.parametrize(("given", "repeatable"), [(None, True), (False, False)])
def test_training_on_a_cpu_is_repeatable_unless_asked_otherwise(given: bool | None, repeatable: bool) -> None:
    torch.use_deterministic_algorithms(False)
    try:
        instantiate(changed("trainer.deterministic", given))
        assert torch.are_deterministic_algorithms_enabled() is repeatable
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.slow
def test_two_threads_take_the_same_steps_twice() -> None:
    """ADDR picks rows of others, whose gradients several threads would add up in any order."""
    config = configuration("addr_scan", **{"trainer.max_epochs": 2, "trainer.limit_val_batches": 0})
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = (fitted(config, []).model.state_dict() for _ in range(2))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(second[name], weight) for name, weight in first.items())
