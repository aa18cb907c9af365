from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning
import sklearn
import torch

import crossmodal_bench
from crossmodal_bench.jobs.provenance import commit, environment


def test_the_environment_is_text() -> None:
    found = environment("cpu")
    assert found["device"] == "cpu" and found["crossmodal_bench"] == crossmodal_bench.__version__
    assert all(isinstance(value, str) and value for value in found.values())


def test_the_commit_is_the_checkouts_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        given = ["-c", "user.name=a", "-c", "user.email=a@b.c", *words]
        return subprocess.run(
            ["git", "-C", tmp_path, *given], check=True, capture_output=True, text=True
        ).stdout

    package = tmp_path / "crossmodal_bench" / "__init__.py"
    package.parent.mkdir()
    package.write_text("")
    monkeypatch.setattr(crossmodal_bench, "__file__", str(package))
    commit.cache_clear()
    assert commit() == ""
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "all")
    head = git("rev-parse", "HEAD").strip()
    commit.cache_clear()
    assert commit() == head
    package.write_text("changed = True")
    commit.cache_clear()
    assert commit() == f"{head}+changes"
    # A wheel that is installed within somebody's checkout is not of that.
    inner = tmp_path / "venv" / "crossmodal_bench" / "__init__.py"
    monkeypatch.setattr(crossmodal_bench, "__file__", str(inner))
    inner.parent.mkdir(parents=True)
    commit.cache_clear()
    assert commit() == ""
    commit.cache_clear()


def test_the_environment_names_what_decides_the_last_bits() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = environment("cpu")
    finally:
        torch.set_num_threads(before)
    assert found["threads"] == "2" and int(found["blas_threads"]) >= 1
    assert found["numpy"] == np.__version__ and found["scikit-learn"] == sklearn.__version__
    assert found["lightning"] == pytorch_lightning.__version__
    assert "unknown" not in found.values()
