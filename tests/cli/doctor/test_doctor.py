from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakes
import psutil
import pytest
import torch

from crossmodal_bench.bench.launchers import local
from crossmodal_bench.cli.doctor import (
    AREAS,
    communication,
    data,
    devices,
    disk,
    limits,
    records,
    software,
    weights,
)
from crossmodal_bench.cli.doctor.findings import Finding, Status, Target, guarded, within
from crossmodal_bench.cli.doctor.listing import print_area
from crossmodal_bench.cli.main import main
from crossmodal_bench.core import machine
from crossmodal_bench.evaluation import PROTOCOLS, KnownSplit
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.directory import JobDirectory, write_json
from crossmodal_bench.jobs.locks import locked


@pytest.fixture
def target(tmp_path: Path) -> Target:
    """An empty DATA_ROOT, and a RUNS that is not there yet."""
    (tmp_path / "data").mkdir()
    return Target(tmp_path / "data", tmp_path / "runs")


def by_name(found: Any) -> dict[str, Finding]:
    return {one.name: one for one in found}


def in_a_process(code: str, **environment: str) -> list[dict[str, str]]:
    """Findings of a check in a process of its own, whose limits may be lowered for good."""
    head = (
        "import json, os, resource, signal, sys\nfrom dataclasses import asdict\nfrom pathlib import Path\n"
        "from crossmodal_bench.cli.doctor.findings import Target\n"
        "def show(found): print(json.dumps([asdict(one) for one in found]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


# ---- how checks are run ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["warning", "problem"])
def test_what_is_wrong_comes_with_a_fix(status: Status) -> None:
    with pytest.raises(ValueError, match="has no fix"):
        Finding("something", status, "is wrong")


def test_a_check_that_raises_is_a_finding_beside_what_it_had_found() -> None:
    def check() -> Iterator[Finding]:
        yield Finding("first", "ok", "fine")
        raise SystemExit("a library gave up")

    first, second = guarded("the check", check)
    assert first.status == "ok" and second.status == "problem"
    assert "'the check' could not run (SystemExit: a library gave up)" in second.text and second.fix


def test_a_check_that_hangs_is_given_up() -> None:
    begun = time.monotonic()
    (found,) = within(0.3, "slow", lambda: [Finding(str(time.sleep(60)), "ok", "")])
    assert time.monotonic() - begun < 10
    assert found.status == "warning" and "'slow' timed out" in found.text


def test_a_check_whose_process_dies_is_a_finding() -> None:
    (found,) = within(20, "fatal", lambda: os._exit(7))
    assert found.status == "problem" and "status 7" in found.text


def test_where_no_process_can_be_started_that_is_the_finding() -> None:
    code = (
        "from crossmodal_bench.cli.doctor.findings import within\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\nshow(within(5, 'starved', lambda: []))"
    )
    (found,) = in_a_process(code)
    assert found["status"] == "problem" and "cannot start a process" in found["text"]


# ---- software --------------------------------------------------------------------------------------


def test_the_environment_of_the_tests_meets_the_lower_bounds(target: Target) -> None:
    found = by_name(software.versions(target))
    assert {one.status for one in found.values()} == {"ok"}
    assert "torch " in found["dependencies"].text
    (pair,) = software.torchvision(target)
    assert pair.status == "ok" and torch.__version__ in pair.text


def test_what_is_too_old_or_not_there_is_named_with_the_command_that_installs_it(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site" / "crossmodal_bench-9.dist-info"
    folder.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", "Name: crossmodal-bench", "Version: 9", "Requires-Python: >=99"]
    lines += ["Requires-Dist: numpy>=999", "Requires-Dist: not-there-at-all>=1", "Requires-Dist: rich>=1"]
    lines += ["Requires-Dist: mypy-of-the-future>=9; extra == 'dev'"]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(folder.parent)
    found = by_name(software.versions(target))
    assert found["Python"].status == "problem"
    assert found["numpy"].status == "problem" and "pip install 'numpy>=999'" in found["numpy"].fix
    assert found["not-there-at-all"].text == "not installed"
    assert found["dependencies"].text.startswith("rich ") and len(found) == 4


@pytest.mark.parametrize(
    ("built", "known", "available", "status"),
    [
        ("12.8", (12, 4), True, "ok"),
        ("12.8", (13, 0), True, "ok"),
        ("13.0", (12, 8), False, "problem"),
        ("12.8", (12, 8), False, "warning"),
    ],
)
def test_a_driver_runs_its_own_major_version_of_cuda_and_older_ones(
    built: str, known: tuple[int, int], available: bool, status: str
) -> None:
    assert software.judged_driver(built, known, available).status == status


# ---- devices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((7, 0), ["sm_75", "sm_80", "compute_90"], False),
        ((9, 0), ["sm_90a"], True),
        ((12, 1), ["sm_120a"], False),
        ((12, 1), ["sm_120"], True),
    ],
)
def test_which_gpus_a_build_has_kernels_for(
    capability: tuple[int, int], built: list[str], runs: bool
) -> None:
    assert devices.supported(capability, built) == runs


def test_more_threads_than_cores_are_a_warning(target: Target) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads((os.cpu_count() or 1) + 1)
        (found,) = devices.cores(target)
    finally:
        torch.set_num_threads(before)
    assert found.status == "warning" and found.fix.startswith("export OMP_NUM_THREADS=")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity mask")
def test_the_affinity_mask_limits_the_cores() -> None:
    code = (
        "from crossmodal_bench.core.machine import usable_cores\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(json.dumps([usable_cores()[0]]))"
    )
    (usable,) = in_a_process(code)
    assert usable == 1.0  # type: ignore[comparison-overlap]


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="this system has no cgroups")
def test_limits_of_the_cgroup_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Target) -> None:
    for version in (tmp_path, tmp_path / "memory", tmp_path / "cpu"):
        version.mkdir(exist_ok=True)
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1073741824\n")
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    assert machine.usable_cores() == (0.5, "quota of the cgroup")
    (found,) = devices.memory(target)
    assert found.status == "warning" and "cgroup limit 1 GiB" in found.text


def test_what_auto_chooses_is_what_the_bench_chooses(target: Target) -> None:
    found = by_name(devices.choices(target))
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert found["PRESET=auto"].text.startswith("paper" if gpu else "small")
    assert "accelerator" in found["DEVICES=auto"].text
    assert ("JOBS" in found) is not gpu


@pytest.mark.parametrize(
    ("cores", "text"),
    [
        (1, "one at a time, with all threads"),
        (2, "2 at a time, with 1 thread each"),
        (9, "4 at a time, with 2"),
    ],
)
def test_how_many_jobs_a_cpu_runs(
    target: Target, monkeypatch: pytest.MonkeyPatch, cores: int, text: str
) -> None:
    monkeypatch.setattr(devices, "gpu_visible", lambda: False)
    monkeypatch.setattr(local, "usable_cores", lambda: (float(cores), ""))
    monkeypatch.setattr(local, "total_memory", lambda: 64 * 2**30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    assert by_name(devices.choices(target))["JOBS"].text.startswith(text)


# ---- communication ---------------------------------------------------------------------------------


def test_two_processes_form_a_group(target: Target) -> None:
    (found,) = communication.gloo(target)
    assert found.status == "ok", found.text


def test_processes_that_do_not_find_each_other_in_time_are_a_reason() -> None:
    assert communication.loopback_failure(patience=0.001)


@pytest.mark.parametrize(
    ("environment", "status", "word"),
    [
        ({}, "information", "Lightning"),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "4"}, "information", "process 1 of 4"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}, "information", "job 7, 4 tasks"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, "warning", "not one of them"),
        ({"WORLD_SIZE": "2"}, "warning", "WORLD_SIZE set"),
    ],
)
def test_the_launcher_that_is_seen(environment: dict[str, str], status: str, word: str) -> None:
    found = communication.launched_by(environment)
    assert found.status == status and word in found.text


def test_a_first_machine_without_an_address_is_a_problem(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "no..name")
    assert by_name(communication.hosts(target))["MASTER_ADDR"].status == "problem"
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert by_name(communication.hosts(target))["MASTER_ADDR"].status == "ok"


# ---- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soft", "hard", "status", "fix"),
    [
        (64, 64, "problem", "request a limit"),
        (512, 512, "warning", "request a limit"),
        (512, 2048, "warning", "ulimit -n 2048"),
        (1024, 1024, "ok", ""),
    ],
)
def test_open_files_and_processes_under_lowered_limits(soft: int, hard: int, status: str, fix: str) -> None:
    code = (
        "from crossmodal_bench.cli.doctor import limits\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))\n"
        "here = Target(Path(), Path())\nshow([*limits.open_files(here), *limits.processes(here)])"
    )
    files, processes = in_a_process(code)
    assert files["status"] == status and files["fix"].startswith(fix)
    assert processes["status"] == "warning" and "at most 100" in processes["text"]


@pytest.mark.parametrize(
    ("free", "loaders", "status"), [(2**26, 0, "ok"), (2**26, 8, "warning"), (2**30, 8, "ok")]
)
def test_shared_memory_must_hold_what_loader_processes_have_ready(
    free: int, loaders: int, status: str
) -> None:
    assert limits.judged_shared_memory(free, loaders).status == status


@pytest.mark.parametrize("several", [False, True])
def test_room_for_the_discriminators(several: bool) -> None:
    fits, bursts = (
        limits.discriminators("x", 10, 8, several=several),
        limits.discriminators("x", 10**10, 1024, several=several),
    )
    assert fits.status == "ok" and "1.09 KiB" in fits.text
    assert bursts.status == "warning" and "10,000,000,000 discriminators" in bursts.text


def test_vsrns_discriminators_on_coco_take_twice_scans() -> None:
    narrow, wide = (limits.discriminators("coco", 113_287, dim, several=False) for dim in (1024, 2048))
    assert "take 1.3 GiB" in narrow.text and "take 2.59 GiB" in wide.text, "1.39 and 2.79 GB"
    assert narrow.name != wide.name


def test_only_addr_with_discriminators_of_its_own_is_asked_for_room() -> None:
    def dim(method: str) -> int | None:
        return data._discriminators_dim(experiments.resolve(method, "coco", {}, "paper", {}, Path("none")))

    assert {name: dim(name) for name in ("addr_scan", "addr_vsrn", "united_vsrn", "vsrn")} == {
        "addr_scan": 1024,
        "addr_vsrn": 2048,
        "united_vsrn": None,
        "vsrn": None,
    }


# ---- disk ------------------------------------------------------------------------------------------


def test_a_good_folder_is_tried_and_left_as_it_was(target: Target) -> None:
    found = [*disk.runs(target), *disk.cache(target)]
    assert not {one.status for one in found} & {"problem"} and len(found) == 3
    assert not target.runs.exists() and not list(target.data_root.iterdir())
    assert not list(target.runs.parent.glob(".*"))


@pytest.mark.parametrize(
    ("runs", "sentence"),
    [("file", "is a file"), ("file/below", "is a file"), ("/proc/runs", "cannot be written")],
)
def test_a_runs_that_cannot_be_made(runs: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = by_name(disk.runs(Target(tmp_path, tmp_path / runs)))
    assert found["RUNS"].status == "problem" and sentence in found["RUNS"].text


def test_a_disk_that_takes_no_byte_and_a_temporary_folder_that_is_not_there(tmp_path: Path) -> None:
    code = (
        "from crossmodal_bench.cli.doctor import disk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"here = Target(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))\n"
        "temporary = list(disk.temporary(here))\n"
        "output = os.dup(1)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "found = temporary + list(disk.folder_findings('RUNS', here.runs))\n"
        "sys.stderr.write(json.dumps([asdict(one) for one in found]))"
    )
    head = (
        "import json, os, resource, signal, sys\nfrom dataclasses import asdict\nfrom pathlib import Path\n"
    )
    head += "from crossmodal_bench.cli.doctor.findings import Target\n"
    done = subprocess.run(
        [sys.executable, "-c", head + code],
        env={**os.environ, "TMPDIR": str(tmp_path / "gone")},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    first, *_, last = json.loads(done.stderr)
    assert first["name"] == "TMPDIR" and "gone cannot be used" in first["text"]
    assert last["name"] == "RUNS" and last["status"] == "problem" and "cannot be written" in last["text"]
    assert not list(tmp_path.iterdir())


def test_a_cache_that_links_to_nowhere(target: Target) -> None:
    target.runs.mkdir()
    (target.runs / "cache").symlink_to(target.runs / "unmounted")
    (found,) = disk.cache(target)
    assert found.status == "problem" and "unmounted, which does not exist" in found.text


def test_the_file_system_of_a_folder_is_the_last_mounted_nearest_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path.resolve()
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4", opts="rw"),
        SimpleNamespace(mountpoint=str(here.parent), fstype="ext4", opts="rw"),
        SimpleNamespace(mountpoint=str(here.parent), fstype="nfs4", opts="rw,relatime,local_lock=all"),
        SimpleNamespace(mountpoint=f"{here}/below", fstype="tmpfs", opts="rw"),
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: mounts)
    kind, options = disk.file_system(tmp_path)
    assert kind == "nfs4" and {"relatime", "local_lock=all"} <= set(options)


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="this system has no table of mounts there")
def test_the_file_system_is_the_systems_own() -> None:
    assert disk.file_system(Path("/proc/self"))[0] == "proc"


def test_a_system_that_does_not_say_what_is_mounted_is_no_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hidden(all: bool) -> None:
        raise PermissionError

    monkeypatch.setattr(psutil, "disk_partitions", hidden)
    (found,) = disk.locking("RUNS", tmp_path)
    assert found.status == "ok" and "unknown file system" in found.text


def test_a_network_disk_that_keeps_locks_to_itself_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No network disk can be mounted here; its locks work on this machine, as those of tmp_path do.
    monkeypatch.setattr(disk, "file_system", lambda folder: ("nfs4", ["rw", "local_lock=all"]))
    (found,) = disk.locking("RUNS", tmp_path)
    assert found.status == "warning" and "do not see" in found.text


# ---- data ------------------------------------------------------------------------------------------


def test_an_empty_data_root_lists_what_could_be_there(target: Target) -> None:
    root, *rest = data.data_sets(target)
    assert root.name == "DATA_ROOT" and root.status == "ok"
    found = by_name(rest)
    assert set(experiments.names("datasets")) == set(found)
    assert {one.status for name, one in found.items() if name != "synthetic"} == {"information"}
    assert found["flickr30k"].fix == "put dataset_*.json and images/ there"


@pytest.mark.parametrize(
    ("name", "sentence"), [("flickr30k", "flickr30k is missing"), ("flikr30k", "'flikr30k' is unknown")]
)
def test_a_data_set_that_was_asked_for_must_be_there(target: Target, name: str, sentence: str) -> None:
    _, found = data.data_sets(Target(target.data_root, target.runs, (name,)))
    assert found.status == "problem" and sentence in found.text


def test_a_good_data_set_with_a_damaged_picture(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fakes.write_karpathy(target.data_root, "mine")
    next(iter(sorted((folder / "images").rglob("*.jpg")))).write_bytes(b"\xff\xd8 cut off")
    monkeypatch.setattr(experiments, "DEFAULT_METHODS", ("cca", "addr_scan"))
    found = by_name(one for one in data.data_sets(target) if one.name.startswith("mine"))
    assert "provides pixels" in found["mine"].text and found["mine"].status == "ok"
    assert found["mine: pictures"].status == "problem" and "prepare mine" in found["mine: pictures"].fix
    assert found["mine: protocols"].text == "the test split is measured under mine-test@1"
    assert found["mine: methods"].text == "everything is available for cca, addr_scan"
    assert "discriminators" in found["mine: ADDR, width 256"].text


def test_what_a_data_set_has_nothing_for_is_no_problem(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes.write_feature_arrays(target.data_root)
    monkeypatch.setattr(experiments, "DEFAULT_METHODS", ("cca", "timam"))
    found = [one for one in data.data_sets(target) if one.name.startswith("pascal_sentence: ")]
    assert [one.status for one in found] == ["ok", "ok", "information"]
    assert found[2].text.startswith("timam cannot run: pascal_sentence has no")


def test_a_split_of_a_published_ones_size_is_looked_at(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "DEFAULT_METHODS", ("cca",))
    fakes.write_feature_arrays(target.data_root)
    for known, status in ((KnownSplit(), "information"), (KnownSplit(images="0" * 16), "warning")):
        changed = replace(PROTOCOLS["pascal-map"], images=8, captions=(8,), split=known)
        monkeypatch.setitem(PROTOCOLS, "pascal-map", changed)
        found = by_name(one for one in data.data_sets(target) if one.name.startswith("pascal_sentence"))
        answer = found["pascal_sentence: protocols"]
        assert (answer.status, "agree with pascal-map, but" in answer.text) == (status, True)
        assert answer.text.endswith("the protocol is pascal_sentence-test@1 (split unverified)")


@pytest.mark.parametrize(
    ("damage", "status", "sentence"),
    [("truncate", "problem", "is not valid JSON"), ("no pictures", "warning", ".jpg is missing")],
)
def test_damaged_data_are_a_finding(target: Target, damage: str, status: str, sentence: str) -> None:
    folder = fakes.write_karpathy(target.data_root, "mine")
    (file,) = folder.glob("dataset*.json")
    if damage == "truncate":
        file.write_bytes(file.read_bytes()[:100])
    else:
        for picture in (folder / "images").rglob("*.jpg"):
            picture.unlink()
    (found,) = (one for one in data.data_sets(target) if one.name.startswith("mine"))
    assert found.status == status and sentence in found.text and found.fix


# ---- weights ---------------------------------------------------------------------------------------


def test_weights_are_found_where_the_bench_finds_them(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(target.runs))
    assert weights.weights_of("mobilenet_v2", "auto", target.data_root) is None
    cached = target.runs / "hub" / "checkpoints" / "mobilenet_v2-7ebf99e0.pth"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert weights.weights_of("mobilenet_v2", "auto", target.data_root) == cached
    mine = target.data_root / "weights" / "mobilenet_v2_mine.pth"
    mine.parent.mkdir()
    mine.touch()
    assert weights.weights_of("mobilenet_v2", "auto", target.data_root) == mine
    assert weights.weights_of("mobilenet_v2", "IMAGENET1K_V1", target.data_root) is None
    found = by_name(weights.networks(target))
    if "mobilenet_v2 (small)" in found:
        assert found["mobilenet_v2 (small)"].text == str(mine)


def test_the_papers_weights_are_looked_for_by_name(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(target.runs))
    folder = target.data_root / "weights"
    folder.mkdir()
    # Of another kind: what the preset asks for is one file.
    (folder / "resnet152_mine.pth").touch()
    (folder / "resnet152-f82ba261.pth").touch()
    missing = by_name(weights.networks(target))["resnet152 IMAGENET1K_V1 (paper)"]
    assert f"resnet152-394f9c45.pth is neither in {folder} nor in " in missing.text
    assert f"put https://download.pytorch.org/models/resnet152-394f9c45.pth into {folder}" in missing.fix
    assert "WEIGHTS=path" in missing.fix and "NAME.pth" not in missing.fix
    first = folder / "resnet152-394f9c45.pth"
    first.touch()
    there = by_name(weights.networks(target))["resnet152 IMAGENET1K_V1 (paper)"]
    assert (there.status, there.text) == ("ok", str(first))


def test_the_fix_of_missing_weights_without_a_name_allows_any_state_dict(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(target.runs))
    monkeypatch.setattr(weights, "wanted", lambda preset: (frozenset({("vgg19", "auto")}), frozenset()))
    missing = by_name(weights.networks(target))["vgg19 (paper)"]
    assert "vgg19-dcbb9e9d.pth is neither" in missing.text and "vgg19_NAME.pth" in missing.fix


def test_language_models_of_the_papers_are_named(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = by_name(weights.language_models(target))
    assert set(found) == {"bert-base-uncased"}
    assert "HF_HUB_OFFLINE=1" in by_name(weights.offline(target))["offline"].text


# ---- records ---------------------------------------------------------------------------------------


def test_what_was_left_in_runs(target: Target) -> None:
    jobs = {name: target.runs / "mine" / "cca" / name for name in ("left", "failed", "damaged", "running")}
    for folder in jobs.values():
        folder.mkdir(parents=True)
    write_json(JobDirectory(jobs["left"]).progress, {"phase": "training"})
    write_json(JobDirectory(jobs["running"]).progress, {"phase": "training"})
    write_json(JobDirectory(jobs["failed"]).error, {"message": "it burst"})
    (jobs["damaged"] / "record.json").write_text('{"schema": 1, "jo')
    with locked(jobs["running"]):
        found = by_name(records.jobs(target))
    assert str(jobs["running"]) in found["running"].text and found["running"].status == "information"
    assert str(jobs["left"]) in found["left behind"].text and found["left behind"].status == "warning"
    assert "it burst" in found["failed"].text
    assert found["damaged record"].status == "problem" and "damaged" in found["damaged record"].text


def test_a_file_of_the_future_is_a_warning(target: Target) -> None:
    folder = target.runs / "mine" / "cca" / "1"
    folder.mkdir(parents=True)
    (folder / "log.txt").touch()
    assert [one.status for one in records.clock(target)] == ["ok"]
    tomorrow = time.time() + 86400
    os.utime(folder / "log.txt", (tomorrow, tomorrow))
    (found,) = records.clock(target)
    assert found.status == "warning" and "log.txt" in found.text


def test_offline_runs_wait_until_they_are_uploaded(target: Target) -> None:
    run = target.runs / "mine" / "cca" / "1" / "wandb" / "offline-run-20260101_000000-1"
    run.mkdir(parents=True)
    (found,) = records.uploads(target)
    assert found.fix == f"crossmodal-bench sync --runs {target.runs}"
    (run / "run-1.wandb.synced").touch()
    assert not list(records.uploads(target))


# ---- the command -----------------------------------------------------------------------------------


def test_a_healthy_machine_has_status_0_and_a_listing(
    target: Target, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    status = main(["doctor", "--data-root", str(target.data_root), "--runs", str(target.runs)])
    text = capsys.readouterr().out
    assert status == 0, text
    assert all(f"\n{area}\n" in f"\n{text}" for area in AREAS)
    assert "✓ gloo" in text and "WANDB=auto means offline" in text and "No problems" in text
    assert not target.runs.exists()


def test_a_problem_has_status_1_and_programs_can_read_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").touch()
    words = ["doctor", "--data-root", str(tmp_path / "nowhere"), "--runs", str(tmp_path / "runs")]
    assert main([*words, "--dataset", "cub", "--dataset", "nothing", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    found = content["findings"]
    assert {one["area"] for one in found} == set(AREAS)
    bad = [one for one in found if one["status"] in ("problem", "warning")]
    assert content["problems"] + content["warnings"] == len(bad)
    assert all(one["fix"] for one in bad)
    assert {"RUNS", "DATA_ROOT", "cub", "nothing"} <= {one["name"] for one in bad}
    assert not any("could not run" in one["text"] for one in found), bad


def test_a_terminal_without_the_marks_gets_others() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_area("Area", [Finding("név", "problem", "text " * 40, "a fix")], stream)
    stream.seek(0)
    lines = stream.read().splitlines()
    assert lines[0] == "Area" and lines[1].startswith("  x n?v  text") and lines[-1] == "    > a fix"
    assert all(len(line) <= 110 for line in lines) and len(lines) == 4
