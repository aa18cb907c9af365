from __future__ import annotations

import pytest
import torch

from crossmodal_bench.bench.launchers import local
from crossmodal_bench.bench.launchers.base import Slot
from crossmodal_bench.bench.launchers.local import placements, slots, visible_gpus
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.core.errors import BadInput


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: (8.0, ""))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)


@pytest.mark.parametrize(
    ("count", "variable", "names"),
    [
        (3, None, ["0", "1", "2"]),
        (2, "3, 5", ["3", "5"]),
        (2, "GPU-8932f937,GPU-1c2d", ["GPU-8932f937", "GPU-1c2d"]),
        # CUDA stops reading where there is no such GPU.
        (1, "1,-1,2", ["1"]),
        (0, "", []),
    ],
)
def test_gpus_have_the_names_that_cuda_knows_them_by(
    count: int, variable: str | None, names: list[str]
) -> None:
    assert visible_gpus(count, variable) == names


@pytest.mark.parametrize(
    ("each", "jobs", "groups"),
    [
        (1, None, ["4", "5", "6", "7", "GPU-x"]),
        (2, None, ["4,5", "6,7"]),
        (2, 1, ["4,5"]),
        (5, 9, ["4,5,6,7,GPU-x"]),
        (6, None, []),
    ],
)
def test_a_job_gets_its_own_gpus_and_what_is_over_stays_idle(
    each: int, jobs: int | None, groups: list[str]
) -> None:
    assert placements(["4", "5", "6", "7", "GPU-x"], each, jobs) == groups


def test_by_default_every_gpu_has_a_job_of_its_own() -> None:
    found = slots(BenchOptions(), 2, "GPU-a,GPU-b")
    assert [(one.devices, one.environment["CUDA_VISIBLE_DEVICES"]) for one in found] == [
        ("1", "GPU-a"),
        ("1", "GPU-b"),
    ]
    assert {one.environment["OMP_NUM_THREADS"] for one in found} == {"4"}
    (one,) = slots(BenchOptions(devices="2", jobs=3), 3, None)
    assert one == Slot("2", {"CUDA_VISIBLE_DEVICES": "0,1", "OMP_NUM_THREADS": "4"})
    with pytest.raises(BadInput, match="DEVICES is 4, but only 2 GPUs are visible; give at most 2"):
        slots(BenchOptions(devices="4"), 2, None)


def test_jobs_on_a_cpu_share_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slots(BenchOptions(jobs=1), 0, None) == [Slot("1")]
    assert slots(BenchOptions(devices="cpu", jobs=1), 2, None) == [Slot("cpu")]
    assert slots(BenchOptions(jobs=3), 0, None) == [Slot("1", {"OMP_NUM_THREADS": "2"})] * 3
    assert slots(BenchOptions(devices="cpu", jobs=20), 0, None)[0] == Slot("cpu", {"OMP_NUM_THREADS": "1"})
    # Two gloo processes of a job share them too.
    assert slots(BenchOptions(devices="2", jobs=2), 0, None) == [Slot("2", {"OMP_NUM_THREADS": "2"})] * 2
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert slots(BenchOptions(jobs=2), 0, None)[0].environment == {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("cores", "gigabytes", "devices", "slot"),
    [
        (8, 64, "auto", (4, Slot("1", {"OMP_NUM_THREADS": "2"}))),
        (2, 64, "cpu", (2, Slot("cpu", {"OMP_NUM_THREADS": "1"}))),
        (1, 64, "auto", (1, Slot("1"))),
        # Memory is for fewer jobs than cores are.
        (8, 8, "auto", (2, Slot("1", {"OMP_NUM_THREADS": "4"}))),
        (8, 2, "auto", (1, Slot("1"))),
        (8, 64, "4", (2, Slot("4", {"OMP_NUM_THREADS": "1"}))),
        # Each process of a job needs its own.
        (8, 16, "2", (2, Slot("2", {"OMP_NUM_THREADS": "2"}))),
    ],
)
def test_by_default_a_cpu_runs_as_many_as_have_a_core_and_memory(
    monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: int, devices: str, slot: tuple[int, Slot]
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: (float(cores), ""))
    monkeypatch.setattr(local, "total_memory", lambda: gigabytes * 2**30)
    count, each = slot
    assert slots(BenchOptions(devices=devices), 0, None) == [each] * count


def test_a_bench_on_the_cpu_asks_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> int:
        raise AssertionError("the driver was started")

    monkeypatch.setattr(torch.cuda, "device_count", asked)
    assert local.Local(BenchOptions(devices="cpu", jobs=1)).slots == [Slot("cpu")]
