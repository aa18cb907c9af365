"""The script for whoever has a GPU, on the CPU: nothing of it is untried but the device itself."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from crossmodal_bench.jobs.experiments import names


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("benchmark_gpu", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "No GPU is visible to torch: run this on a machine with a GPU.\n"


@pytest.mark.slow
def test_every_part_runs(gpu: ModuleType, tmp_path: Path) -> None:
    told: list[str] = []
    found = gpu.run(tmp_path, gpu.TINY, tell=told.append)
    rows = found["steps"]
    assert [row["method"] for row in rows] == [method for method in gpu.METHODS for _ in range(2)]
    for row in rows:
        assert "failed" not in row and row["samples_per_second"] > 0, row
        assert 0 < row["share_of_products"] < 1
        assert 0 < row["samples_per_second_with_loading"] <= row["samples_per_second"]
        assert row["waits_per_step"] == 0
    assert found["evaluation"]["queries"] == 20 and found["evaluation"]["seconds"] > 0
    assert found["resumption"]["largest_relative_difference"] == 0
    assert found["nccl"] == {"backend": "gloo", "right": True}
    assert len(told) == len(rows) + 3 and found["left_out"] == [] and gpu.right(found)


@pytest.mark.slow
def test_a_network_that_cannot_be_compiled_is_measured_without(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*rest: Any) -> None:
        raise RuntimeError("no compiler here")

    gpu.write_data(tmp_path, gpu.TINY)
    monkeypatch.setattr(gpu, "compile_networks", refuse)
    row = gpu.time_steps("acmr", tmp_path, gpu.TINY, compiled=True)
    assert row["not_compiled"] == "no compiler here" and not row["compiled"]
    assert row["samples_per_second"] > 0
    said = capsys.readouterr().err
    assert "acmr: torch.compile failed (no compiler here); measuring without it" in said


@pytest.mark.slow
def test_a_method_that_fails_is_a_row_that_says_why(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.write_data(tmp_path, gpu.TINY)
    step: Callable[..., Any] = gpu.instantiate

    def fails(*arguments: Any) -> Any:
        cli = step(*arguments)
        monkeypatch.setattr(cli.model, "joint_loss", lambda batch: 1 / 0)
        return cli

    monkeypatch.setattr(gpu, "instantiate", fails)
    row = gpu.time_steps("acmr", tmp_path, gpu.TINY)
    assert row["failed"] == "division by zero" and "division by zero" in gpu.shown(row)


def test_each_method_is_measured_or_takes_the_steps_of_one_that_is(gpu: ModuleType) -> None:
    groups = (gpu.METHODS, gpu.LIKE, gpu.WITHOUT_STEPS)
    assert sorted(method for group in groups for method in group) == sorted(names("methods"))
    assert set(gpu.LIKE.values()) <= set(gpu.METHODS)


def test_what_is_compiled_comes_last(gpu: ModuleType) -> None:
    assert gpu.ways(["acmr", "scan"], True) == [
        ("acmr", "32-true", False),
        ("acmr", "bf16-mixed", False),
        ("scan", "32-true", False),
        ("scan", "bf16-mixed", False),
        ("acmr", "bf16-mixed", True),
        ("scan", "bf16-mixed", True),
    ]


def test_what_the_time_does_not_allow_is_left_out_and_named(gpu: ModuleType, tmp_path: Path) -> None:
    told: list[str] = []
    to = tmp_path / "gpu.json"
    found = gpu.run(
        tmp_path / "data",
        gpu.TINY,
        ["evaluation", "steps"],
        ["acmr"],
        True,
        told.append,
        lambda found: gpu.write(found, to),
        gpu.Clock(0.0),
    )
    rows = ["acmr, 32-true", "acmr, bf16-mixed", "acmr, bf16-mixed, compiled"]
    assert found["left_out"] == ["evaluation", *rows] and found["steps"] == []
    assert told == [f"{what}: left out, 0 minutes are too few" for what in found["left_out"]]
    assert json.loads(to.read_text()) == found


def trained(steps: Any, batches: int, wait: Callable[[], None]) -> None:
    """So many batches of a Trainer that does nothing but wait."""
    trainer = SimpleNamespace(num_training_batches=batches + 1, should_stop=False)
    for index in range(batches):
        if trainer.should_stop:
            return
        steps.on_train_batch_start(trainer, None, [0, 1], index)
        wait()
        steps.on_train_batch_end(trainer, None, None, [0, 1], index)


def warn() -> None:
    warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    warnings.warn("something else", stacklevel=1)


def test_waits_of_the_steps_that_count_are_counted(gpu: ModuleType) -> None:
    steps = gpu.Steps(strict=False, profiled=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trained(steps, gpu.WARM_UP + 4, warn)
    assert (steps.steps, steps.waits, steps.samples) == (4, 4, 8)
    assert 0 < steps.seconds <= steps.seconds_between


def test_a_training_ends_when_the_time_is_over(gpu: ModuleType) -> None:
    steps = gpu.Steps(strict=False, profiled=False, clock=gpu.Clock(0.0))
    trained(steps, gpu.WARM_UP + 4, lambda: None)
    assert steps.steps == 1


def test_a_step_that_waits_and_need_not_is_measured_and_marked(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def instantiate(config: Any, callbacks: Any) -> Any:
        (steps,) = callbacks

        def fit(*rest: Any, **more: Any) -> None:
            if steps.strict:
                raise RuntimeError("called a synchronizing CUDA operation")
            trained(steps, gpu.WARM_UP + 2, warn)

        return SimpleNamespace(trainer=SimpleNamespace(fit=fit), model=None, datamodule=None)

    monkeypatch.setattr(gpu, "instantiate", instantiate)
    monkeypatch.setattr(gpu, "configured", lambda *rest: {})
    row = gpu.time_steps("scan", tmp_path, gpu.TINY)
    assert row["waits_per_step"] == 1 and row["waited"] == "called a synchronizing CUDA operation"
    assert gpu.shown(row).endswith("1 waits a step, SHOULD BE NONE")
    assert not gpu.right({"steps": [row]})
    # A method that must wait is counted at once.
    row = gpu.time_steps("gxn", tmp_path, gpu.TINY)
    assert row["waits_per_step"] == 1 and "waited" not in row and gpu.right({"steps": [row]})


def test_a_part_that_fails_says_so_and_the_others_go_on(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RuntimeError("no group")

    told: list[str] = []
    monkeypatch.setattr(gpu, "collectives", refuse)
    found = gpu.run(tmp_path, gpu.TINY, ["nccl", "evaluation"], tell=told.append)
    assert found["nccl"] == {"failed": "no group"} and found["evaluation"]["queries"] == 20
    assert told[0] == "nccl failed: no group" and not gpu.right(found)
