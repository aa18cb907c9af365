"""Configurations, runs and checkpoints of strangers: whatever they hold, none of it is run or imported."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import SMALL_ACMR, configuration

from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.cli.main import main
from crossmodal_bench.jobs.experiments import expand, merge
from crossmodal_bench.training.worker import run_job

SHORT = {
    "trainer.max_epochs": 1,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
}
CONFIG = configuration(**SMALL_ACMR, **SHORT)
CALLBACK = "pytorch_lightning.callbacks.LambdaCallback"


@pytest.fixture
def payload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a module ``pw`` leaves where it is imported; it must not be there behind a test.

    The working directory is empty but for ``pw.py``.
    """
    marker = tmp_path / "ran"
    (tmp_path / "pw.py").write_text(
        f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
        "class X: pass\ndef run(*arguments, **words): pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield marker
    sys.modules.pop("pw", None)


class Payload:
    """Its pickle makes a file where it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def write(path: Path, config: dict[str, Any], /, **changes: Any) -> None:
    path.write_text(yaml.safe_dump(merge(config, expand(changes))), encoding="utf-8")


def refused(words: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What is said where a command is refused: one sentence, with status 2."""
    capfd.readouterr()
    assert main(words.split()) == 2
    said = capfd.readouterr().err
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("crossmodal-bench: ")]
    return sentence


# ---- fit and test ------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["hpc", "last", "hpc_ckpt_1.ckpt", "folder/hpc_ckpt_1.ckpt"])
@pytest.mark.parametrize("in_file", [True, False])
def test_a_pickled_checkpoint_is_never_run(
    payload: Path, capfd: pytest.CaptureFixture[str], keyword: str, in_file: bool
) -> None:
    folder = payload.parent / "folder"
    folder.mkdir()
    for path in (folder / "hpc_ckpt_1.ckpt", payload.parent / "hpc_ckpt_1.ckpt"):
        torch.save({"state_dict": Payload(payload)}, path)
    write(payload.parent / "config.yaml", CONFIG)
    words = f"fit --config config.yaml --trainer.default_root_dir {folder} --ckpt_path {keyword}"
    if in_file:
        changes = {"ckpt_path": keyword, "weights_only": False, "trainer.default_root_dir": str(folder)}
        write(payload.parent / "config.yaml", CONFIG, **changes)
        words = "fit --config config.yaml"
    refused(words, capfd)
    assert not payload.exists()


def write_what_is_not_allowed(folder: Path, key: str, value: Any) -> None:
    """``config.yaml`` with one value replaced, and files that it may refer to."""
    write(folder / "config.yaml", CONFIG, **{key: value})
    hidden = {"class_path": "pw.X"}
    write(folder / "model.yaml", hidden)
    write(folder / "data.yaml", {"dataset": hidden})
    write(folder / "trainer.yaml", {"callbacks": hidden})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights_only", False),
        ("trainer.callbacks", {"class_path": CALLBACK, "init_args": {"on_fit_start": "pw.run"}}),
        ("trainer.callbacks", [{"class_path": "pw.X"}]),
        ("trainer.callbacks", "pw.X"),
        ("trainer.logger", {"class_path": "CSVLogger", "init_args": {"save_dir": "outside"}}),
        ("trainer.logger", True),
        ("trainer.plugins", {"class_path": "pw.X"}),
        ("trainer.profiler", {"class_path": "pw.X"}),
        ("trainer.profiler", "simple"),
        ("trainer.strategy", {"class_path": "pw.X"}),
        ("trainer.accelerator", {"class_path": "pw.X"}),
        ("trainer.default_root_dir", "outside"),
        ("trainer.model_registry", "x"),
        ("trainer", "trainer.yaml"),
        ("model", "pw.X"),
        ("model", "model.yaml"),
        ("model", {"class_path": "pw.X"}),
        (
            "model",
            {"class_path": "crossmodal_bench.methods.ACMR", "dict_kwargs": {"x": {"class_path": "pw.X"}}},
        ),
        ("model", {"class_path": "crossmodal_bench.methods.pw.X"}),
        ("model.class_path", "pw.X"),
        ("model.init_args", "model.yaml"),
        ("model.init_args.optimizer", {"class_path": "pw.X"}),
        ("model.init_args.optimizer", "pw.X"),
        ("data", "data.yaml"),
        ("data.dataset", "pw.X"),
        ("data.dataset", {"class_path": "pw.X"}),
        ("data.text", "pw.X"),
        ("data.text", {"__path__": "pw.X"}),
        ("__default_config__", "data.yaml"),
        ("config", "model.yaml"),
        ("fit", {"model": {"class_path": "pw.X"}}),
    ],
)
def test_what_a_file_may_not_say_is_refused_before_anything_is_imported(
    payload: Path, capfd: pytest.CaptureFixture[str], key: str, value: Any
) -> None:
    write_what_is_not_allowed(payload.parent, key, value)
    assert "configuration key" in refused("fit --config config.yaml", capfd)
    assert not payload.exists() and "pw" not in sys.modules
    assert not (payload.parent / "outside").exists()


@pytest.mark.parametrize("option", ["--config=", "-c ", "-c", "--conf="])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer", "trainer.yaml"),
        ("model", "pw.X"),
        ("data.dataset", {"class_path": "pw.X"}),
        ("__default_config__", "data.yaml"),
    ],
)
def test_a_file_is_looked_at_however_the_option_is_written(
    payload: Path, capfd: pytest.CaptureFixture[str], option: str, key: str, value: Any
) -> None:
    write_what_is_not_allowed(payload.parent, key, value)
    refused(f"fit {option}config.yaml", capfd)
    assert not payload.exists() and "pw" not in sys.modules


@pytest.mark.parametrize(
    "option", ["--model", "--data", "--trainer", "--data.dataset", "--trainer.callbacks"]
)
def test_files_are_named_with_config_and_nowhere_else(
    payload: Path, capfd: pytest.CaptureFixture[str], option: str
) -> None:
    write(payload.parent / "config.yaml", CONFIG)
    write(
        payload.parent / "more.yaml",
        {"class_path": "pw.X", "dataset": {"class_path": "pw.X"}, "callbacks": {"class_path": "pw.X"}},
    )
    refused(f"fit --config config.yaml {option} more.yaml", capfd)
    assert not payload.exists()


def test_a_checkpoint_does_not_say_what_the_model_is(
    payload: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Lightning takes a class, and its arguments, out of the checkpoint that it goes on from."""
    write(payload.parent / "config.yaml", CONFIG)
    torch.save({"hyper_parameters": {"_class_path": "pw.X", "k": 3}}, payload.parent / "x.ckpt")
    refused("fit --config config.yaml --ckpt_path x.ckpt", capfd)
    assert not payload.exists()


@pytest.mark.parametrize(
    "content", [b"broken", b"", b"PK\x03\x04" + b"\0" * 60], ids=["text", "empty", "cut"]
)
@pytest.mark.parametrize("command", ["fit", "test"])
def test_a_broken_checkpoint_is_a_sentence(
    payload: Path, capfd: pytest.CaptureFixture[str], command: str, content: bytes
) -> None:
    write(payload.parent / "config.yaml", CONFIG)
    (payload.parent / "broken").write_bytes(content)
    sentence = refused(f"{command} --config config.yaml --ckpt_path broken", capfd)
    assert "--ckpt_path broken" in sentence


# ---- a stranger's runs -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with two finished jobs."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    overrides = {"trainer.max_epochs": 1, "data.batch_size": 16}
    options = BenchOptions(dataset="synthetic-20", methods="acmr", seeds=2, runs=runs, overrides=overrides)
    for planned in make_plan(options, gpu=False):
        planned.directory.mkdir(parents=True)
        run_job(planned, "cpu")
    return runs


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("trainer.callbacks", {"class_path": CALLBACK, "init_args": {"on_test_start": "pw.run"}}),
        ("trainer.logger", {"class_path": "CSVLogger", "init_args": {"save_dir": "outside"}}),
        ("trainer.plugins", [{"class_path": "pw.X"}]),
        ("trainer.profiler", {"class_path": "SimpleProfiler", "init_args": {"dirpath": "outside"}}),
        ("data.dataset", {"class_path": "pw.X"}),
        ("model", {"class_path": "pw.X"}),
        ("model", "pw.X"),
    ],
)
def test_an_ensemble_of_a_strangers_runs_runs_nothing_of_theirs(
    payload: Path, finished: Path, capfd: pytest.CaptureFixture[str], key: str, value: Any
) -> None:
    runs = payload.parent / "theirs"
    shutil.copytree(finished, runs)
    records = sorted(path.parent for path in runs.rglob("record.json"))
    for path in records:
        config = yaml.safe_load((path / "config.yaml").read_text())
        write(path / "config.yaml", config, **{key: value})
    words = f"ensemble {records[0]} {records[1]} --runs mine --wandb off"
    assert "configuration key" in refused(words, capfd)
    assert not payload.exists() and "pw" not in sys.modules
    assert not (payload.parent / "outside").exists()


def test_a_pickled_model_of_a_strangers_runs_is_a_sentence(
    payload: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = payload.parent / "theirs"
    shutil.copytree(finished, runs)
    records = sorted(path.parent for path in runs.rglob("record.json"))
    for path in runs.rglob("*.ckpt"):
        path.write_bytes(pickle.dumps(Payload(payload)))
    assert "damaged" in refused(f"ensemble {records[0]} {records[1]} --runs mine --wandb off", capfd)
    assert not payload.exists()
