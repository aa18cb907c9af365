from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning
import sklearn
import torch

import crossmodal_bench
from crossmodal_bench.jobs import provenance
from crossmodal_bench.jobs.provenance import environment, source_fingerprint

CONFIG = {"data": {"root": "a", "cache": "b", "batch_size": 64}, "model": {"init_args": {"alpha": 0.1}}}


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    provenance._source_digest.cache_clear()
    yield
    provenance._source_digest.cache_clear()


def test_the_fingerprint_follows_the_configuration_and_neither_path_nor_seed() -> None:
    moved = copy.deepcopy(CONFIG)
    moved["data"].update(root="elsewhere", cache="there", seed=7)
    moved["seed_everything"] = 7
    assert source_fingerprint(moved) == source_fingerprint(CONFIG)
    for part, key in (("data", "batch_size"), ("model", "init_args")):
        changed = copy.deepcopy(CONFIG)
        changed[part][key] = 1
        assert source_fingerprint(changed) != source_fingerprint(CONFIG)


def test_the_fingerprint_follows_the_sources_that_decide_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crossmodal_bench, "__file__", str(tmp_path / "__init__.py"))
    deciding = [f"{room}/module.py" for room in provenance.ROOMS]
    for name in (*deciding, "bench/runner.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")

    def fingerprint() -> str:
        provenance._source_digest.cache_clear()
        return source_fingerprint(CONFIG)

    before = fingerprint()
    (tmp_path / "bench" / "runner.py").write_text("x = 2\n")
    assert fingerprint() == before
    seen = {before}
    for name in deciding:
        (tmp_path / name).write_text("x = 2\n")
        seen.add(fingerprint())
    (tmp_path / "losses" / "module.py").rename(tmp_path / "losses" / "other.py")
    seen.add(fingerprint())
    assert len(seen) == len(deciding) + 2


def test_every_room_decides_results_or_is_known_not_to() -> None:
    root = Path(crossmodal_bench.__file__).parent
    rooms = {path.parent.name for path in root.glob("*/__init__.py")}
    assert rooms - set(provenance.ROOMS) == {"jobs", "reporting", "bench", "cli"}
    assert set(provenance.ROOMS) <= rooms


def test_the_environment_is_text() -> None:
    found = environment("cpu")
    assert found["device"] == "cpu" and found["crossmodal_bench"] == crossmodal_bench.__version__
    assert all(isinstance(value, str) and value for value in found.values())


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
