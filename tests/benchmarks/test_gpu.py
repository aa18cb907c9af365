"""The script for whoever has a GPU, on the CPU: nothing of it is untried but the device itself."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch


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
    assert found["evaluation"]["queries"] == 20 and found["evaluation"]["seconds"] > 0
    assert found["resumption"]["largest_relative_difference"] == 0
    assert found["nccl"] == {"backend": "gloo", "right": True}
    assert len(told) == len(rows) + 3


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
