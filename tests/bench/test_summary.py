from __future__ import annotations

from pathlib import Path

import pytest

from crossmodal_bench.bench import runner
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.errors import BadInput


def options(folder: Path, **words: object) -> BenchOptions:
    given = {"dataset": "wikipedia", "methods": "cca,acmr", "seeds": 3, "wandb": "off", "preset": "small"}
    return BenchOptions(runs=folder / "runs", data_root=folder / "data", **{**given, **words})  # type: ignore[arg-type]


def test_missing_input_is_told_once_with_the_jobs_that_lack_it(tmp_path: Path) -> None:
    said: list[str] = []
    assert runner.status(options(tmp_path), said.append) == 0
    assert sum(line.endswith("  skipped") for line in said) == 8
    (sentence,) = [line for line in said if "raw_features.mat" in line]
    assert sentence.startswith("skipped, 8 jobs (cca, acmr): ") and "set DATA_ROOT" in sentence
    said.clear()
    with pytest.raises(BadInput, match="set DATA_ROOT"):
        runner.bench(options(tmp_path), log=said.append)
    assert said == []
