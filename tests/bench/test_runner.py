from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
from users import as_its_owner

from crossmodal_bench.bench import runner, runtime_estimate, summary
from crossmodal_bench.bench.kinds import kind_of
from crossmodal_bench.bench.launchers import local
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.bench.runtime_estimate import DryRuns
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.core.signals import Interrupted
from crossmodal_bench.jobs.directory import JobDirectory, write_json
from crossmodal_bench.jobs.locks import is_locked, locked
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.jobs.state import State
from crossmodal_bench.reporting.formats import FILES
from crossmodal_bench.reporting.wandb.state import RunState, write_state

Start = Callable[..., Any]
EPOCHS = 40
WORDS = ("--dataset", "synthetic-20", "--methods", "cca,acmr", "--set", f"trainer.max_epochs={EPOCHS}")
OFF = ("--wandb", "off")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def records(folder: Path) -> dict[str, Path]:
    return {path.parts[-3]: path for path in (folder / "runs").glob("*/*/*/record.json")}


def until(there: Callable[[], Any], seconds: float = 60) -> Any:
    """What ``there`` returns, once it is something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            found = there()
        except (OSError, ValueError):
            found = None
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it never happened")


def test_who_interrupts_a_bench_is_told_what_is_not_sent_without_waiting(
    make_record: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    write_state(record.files, RunState("sending", record.finished_at))

    def interrupted(*_: object) -> None:
        raise Interrupted

    monkeypatch.setattr(runner, "make_plan", lambda *_, **__: [])
    monkeypatch.setattr(runner, "records_of", lambda plan: [record])
    monkeypatch.setattr(runner, "_settle", interrupted)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits"))
    said: list[str] = []
    options = BenchOptions("synthetic-20", runs=tmp_path / "runs", wandb="offline")
    assert runner.bench(options, log=said.append) == 75
    assert said[0].startswith("Interrupted.")
    assert said[1].startswith("W&B: 1 run not sent; crossmodal-bench sync") and "being sent" in said[2]


def test_an_ensembles_last_line_says_whether_its_run_is_sent(
    make_record: Callable[..., Record], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossmodal_bench.bench import ensembles

    record = make_record()
    planned = types.SimpleNamespace(existing=lambda: record)
    monkeypatch.setattr(ensembles, "read_members", lambda records: [])
    monkeypatch.setattr(ensembles, "plan_ensemble", lambda members, runs: planned)
    assert main(["ensemble", str(record.directory), "--wandb", "offline"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("W&B: 1 run not sent; crossmodal-bench sync")


def progress(folder: Path, method: str) -> Path | None:
    return next((folder / "runs").glob(f"*/{method}/*/progress.json"), None)


def in_epoch(folder: Path, method: str, epoch: int) -> Path | None:
    """The job's directory, once it is in that epoch or a later one."""
    path = progress(folder, method)
    return path.parent if path is not None and read(path).get("epoch", -1) >= epoch else None


def worker_of(bench: int) -> int:
    """The process that the bench has started and not collected yet."""
    listed = Path(f"/proc/{bench}/task/{bench}/children").read_text().split()
    return int(listed[-1]) if listed else 0


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


@pytest.fixture(scope="module")
def whole(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a bench that nothing disturbed, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    command = start("bench", *WORDS, *OFF, folder=folder)
    assert command.wait() == 0, command.err.read_text()
    assert command.err.read_text() == ""
    return folder, command.out.read_text()


def test_a_bench_prints_its_plan_a_table_per_job_and_the_notes_once(whole: tuple[Path, str]) -> None:
    folder, text = whole
    assert text.startswith("2 jobs, preset smoke, records in runs/\n")
    assert text.count("seed 0  not started") == 2
    # Two at a time where there are two cores.
    assert re.search(r"2 to run(, 2 at a time)?, about 0:", text)
    assert text.count("ranked by rsum") == 2
    assert text.count("- preset smoke") == 1
    assert text.index("2 of 2 jobs done") > text.index("- preset smoke")
    assert {path.name for path in (folder / "runs" / "report").iterdir()} == set(FILES.values())
    assert len(text.splitlines()) < 60


def test_a_finished_job_keeps_its_files_and_nothing_half_done(whole: tuple[Path, str]) -> None:
    folder, _ = whole
    job = records(folder)["acmr"].parent
    names = {path.name for path in job.iterdir()}
    assert {"record.json", "config.yaml", "log.txt", "ranks.npz", "last.ckpt", "best.ckpt"} <= names
    assert names.isdisjoint({"progress.json", "error.json"}) and not any("tmp" in name for name in names)
    record = read(job / "record.json")
    assert len(record["history"]) == EPOCHS
    assert record["selection"]["metric"] == "val/rsum"
    best = max(record["history"], key=lambda row: row["val/rsum"])
    assert record["selection"]["epoch"] == best["epoch"]


def test_a_second_bench_and_status_run_nothing(whole: tuple[Path, str], start: Start) -> None:
    folder, _ = whole
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in records(folder).values()}
    shown = start("status", *WORDS, *OFF, folder=folder)
    assert shown.wait() == 0
    assert shown.out.read_text().count("seed 0  done") == 2
    again = start("bench", *WORDS, *OFF, "--check-chance", folder=folder)
    assert again.wait() in (0, 1)
    assert "2 of 2 jobs done" in again.out.read_text() and "to run" not in again.out.read_text()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before


@pytest.mark.slow
def test_stale_jobs_run_again_only_when_told(whole: tuple[Path, str], start: Start) -> None:
    folder, _ = whole
    path = records(folder)["cca"]
    content = read(path)
    path.write_text(json.dumps({**content, "source_fingerprint": "old"}))
    shown = start("status", *WORDS, *OFF, folder=folder)
    assert shown.wait() == 0
    assert "stale: the sources or settings differ" in shown.out.read_text()
    assert read(path)["source_fingerprint"] == "old"
    again = start("bench", *WORDS, *OFF, "--rerun", "stale", folder=folder)
    assert again.wait() == 0
    assert "stale: runs again" in again.out.read_text()
    assert read(path)["source_fingerprint"] == content["source_fingerprint"]
    assert read(path)["metrics"] == content["metrics"]


def test_a_killed_bench_goes_on_to_the_same_numbers(
    whole: tuple[Path, str], start: Start, tmp_path: Path
) -> None:
    killed = start("bench", *WORDS, *OFF, folder=tmp_path)
    first = until(lambda: records(tmp_path).get("cca"))
    before = (first.stat().st_mtime_ns, first.read_bytes())
    job = until(lambda: in_epoch(tmp_path, "acmr", 3))
    worker = worker_of(killed.pid)
    killed.signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    until(lambda: gone(worker), 5)
    assert not (job / "record.json").exists()

    assert start("bench", *WORDS, *OFF, folder=tmp_path).wait() == 0
    assert (first.stat().st_mtime_ns, first.read_bytes()) == before
    for method, path in records(whole[0]).items():
        unbroken, resumed = read(path), read(records(tmp_path)[method])
        for key in ("metrics", "intervals", "selection", "job"):
            assert unbroken[key] == resumed[key]
        assert unbroken["history"] == resumed["history"]
    log = (job / "log.txt").read_text()
    assert "Restoring states from the checkpoint path" in log or (job / "resume.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_keeps_what_is_done(start: Start, tmp_path: Path, number: int) -> None:
    words = ("bench", "--dataset", "synthetic-20", "--methods", "acmr", "--set", "trainer.max_epochs=2000")
    bench = start(*words, *OFF, folder=tmp_path)
    job = until(lambda: in_epoch(tmp_path, "acmr", 2))
    worker = worker_of(bench.pid)
    status = start("status", *words[1:], *OFF, folder=tmp_path)
    assert status.wait() == 0
    assert "seed 0  running" in status.out.read_text()
    # A terminal's Ctrl-C reaches every process of the group, the worker too.
    if number == signal.SIGINT:
        os.killpg(bench.pid, number)
    else:
        bench.signal(number)
    assert bench.wait() == 75
    assert gone(worker)
    assert "run the same command again" in bench.out.read_text()
    assert bench.err.read_text() == ""
    assert (job / "last.ckpt").is_file()
    assert not is_locked(job)


def test_an_interrupt_while_looking_ahead_leaves_no_orphan(start: Start, tmp_path: Path) -> None:
    # Some thousand captions: building the views of the first look takes longer than the test.
    slow = ("--dataset", "synthetic-1500", "--methods", "acmr", "--set", "data.num_workers=0")
    bench = start("bench", *slow, *OFF, folder=tmp_path)
    child = until(lambda: worker_of(bench.pid))
    assert progress(tmp_path, "acmr") is None
    bench.signal(signal.SIGTERM)
    assert bench.wait(20) == 75
    assert gone(child)
    assert bench.err.read_text() == ""
    assert not list((tmp_path / "runs").glob("*/*"))


@pytest.mark.slow
def test_a_killed_worker_fails_its_job_and_no_other(start: Start, tmp_path: Path) -> None:
    words = (
        "bench",
        "--dataset",
        "synthetic-20",
        "--methods",
        "acmr,cca",
        *OFF,
        "--set",
        "trainer.max_epochs=400",
        # One at a time: its worker is the only one.
        "--jobs",
        "1",
    )
    bench = start(*words, folder=tmp_path)
    job = until(lambda: in_epoch(tmp_path, "acmr", 1))
    os.kill(worker_of(bench.pid), signal.SIGKILL)
    assert bench.wait() == 1
    assert set(records(tmp_path)) == {"cca"}
    assert read(job / "error.json")["message"].startswith("killed by SIGKILL")
    text = bench.out.read_text()
    assert "failed: acmr on synthetic-20 seed 0: killed by SIGKILL" in text and "1 of 2 jobs done" in text
    again = start("status", *words[1:], folder=tmp_path)
    assert again.wait() == 0
    assert "failed: killed by SIGKILL" in again.out.read_text()


@pytest.mark.slow
def test_a_failing_job_does_not_stop_the_others_and_runs_again(start: Start, tmp_path: Path) -> None:
    options = BenchOptions(
        dataset="synthetic-20", methods="sm,cca", runs=tmp_path / "runs", overrides={"data.batch_size": 32}
    )
    words = ("bench", "--dataset", "synthetic-20", "--methods", "sm,cca", "--set", "data.batch_size=32", *OFF)
    # A folder where a file of the job belongs lets this job, and only this one, fail at its very end.
    in_the_way = make_plan(options, gpu=False)[0].directory / "ranks.npz"
    in_the_way.mkdir(parents=True)
    failing = start(*words, folder=tmp_path)
    assert failing.wait() == 1
    assert set(records(tmp_path)) == {"cca"}
    assert "failed: sm on synthetic-20 seed 0: IsADirectoryError" in failing.out.read_text()
    assert "1 of 2 jobs done" in failing.out.read_text()
    in_the_way.rmdir()
    mended = start(*words, folder=tmp_path)
    assert mended.wait() == 0
    assert "1 to run" in mended.out.read_text() and "2 of 2 jobs done" in mended.out.read_text()
    assert not in_the_way.with_name("error.json").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--dataset", "wikipedia"), "DATA_ROOT"),
        pytest.param(
            ("--methods", "cca,acmr", "--set", "model.init_args.alhpa=1"), "alhpa", marks=pytest.mark.slow
        ),
        pytest.param(
            ("--set", "data.images.network=vgg19", "--set", "data.images.weights=lost.pth"),
            "lost.pth",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_trained(
    start: Start, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    bench = start("bench", "--methods", "cca", "--dataset", "synthetic-20", *words, *OFF, folder=tmp_path)
    assert bench.wait() == 2
    message = bench.err.read_text()
    assert message.startswith("crossmodal-bench: ") and message.count("\n") == 1
    assert sentence in message
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_method_that_cannot_run_on_the_data_keeps_no_other_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BenchOptions("synthetic-20", methods="cca,sm", seeds=1, runs=tmp_path, wandb="off")
    ran, refused = make_plan(options, gpu=False)
    reason = "synthetic-20: caption 'a#2' has no word of the vocabulary"
    found = DryRuns({}, {kind_of(refused): reason})
    monkeypatch.setattr(runtime_estimate, "dry_runs", lambda *arguments: found)
    said: list[str] = []
    assert runner.bench(options, log=said.append) == 1
    assert ran.files.is_done() and not refused.files.is_done()
    assert refused.files.read_error() == {"kind": "bad input", "message": reason}
    assert f"sm on synthetic-20 seed 0 cannot run: {reason}" in said
    assert any("1 of 2 jobs done" in line for line in said)


@pytest.mark.slow
def test_one_caption_without_a_word_stops_the_methods_that_read_words_alone(
    start: Start, tmp_path: Path
) -> None:
    entries = fakes.karpathy_entries({"train": 24, "val": 8, "test": 8}, per_image=2)
    entries[-1]["sentences"][0]["raw"] = "???"
    fakes.write_karpathy(tmp_path / "data", "mine", entries)
    bench = start(
        *("bench", "--dataset", "mine", "--data-root", "data", "--methods", "cca,vse", "--preset", "smoke"),
        *("--weights", "none", "--set", "data.text.min_count=1", *OFF),
        folder=tmp_path,
    )
    assert bench.wait() == 1
    assert set(records(tmp_path)) == {"cca"}
    assert "vse on mine seed 0 cannot run: mine: caption" in bench.out.read_text()


def test_a_runs_folder_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    with pytest.raises(BadInput, match=r"runs cannot be written .*another RUNS folder"):
        runner.check_writable(BenchOptions(runs=tmp_path / "runs"))


def test_whether_it_can_be_written_is_not_tried_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    (tmp_path / f".writable-{os.getpid()}").symlink_to(victim)
    runner.check_writable(BenchOptions(runs=tmp_path))
    assert victim.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2, "nothing stays"


def test_a_disk_that_fills_up_ends_the_bench_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    options = BenchOptions(dataset="synthetic-20", methods="cca", runs=tmp_path / "runs", wandb="off")
    monkeypatch.setattr(runtime_estimate, "dry_runs", lambda *arguments: DryRuns({}, {}))
    monkeypatch.setattr(local, "Worker", full)
    monkeypatch.setattr(runner.tempfile, "NamedTemporaryFile", full)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(BadInput, match=r"No space left on device.*free space"):
        runner.bench(options, log=lambda text: None)
    assert signal.getsignal(signal.SIGINT) == handler


def test_a_stale_job_that_fails_again_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BenchOptions(dataset="synthetic-20", methods="cca", runs=tmp_path, wandb="off", rerun="stale")
    (planned,) = make_plan(options, gpu=False)

    class Failing:
        exit_code = 1

        def __init__(self, planned: PlannedJob, devices: str, environment: Any) -> None:
            write_json(planned.directory / "error.json", {"kind": "error", "message": "ValueError: again"})

        def wait(self, seconds: float) -> bool:
            return True

    planned.directory.mkdir(parents=True)
    for module in (runner, summary):
        monkeypatch.setattr(module, "state_of", lambda planned: State("stale", "the data differ"))
    monkeypatch.setattr(runtime_estimate, "dry_runs", lambda *arguments: DryRuns({}, {}))
    monkeypatch.setattr(local, "Worker", Failing)
    said: list[str] = []
    assert runner.bench(options, log=said.append) == 1
    assert any("failed: ValueError: again" in line for line in said)


def test_escapes_in_a_jobs_files_do_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions("synthetic-20", methods="cca,acmr", runs=tmp_path, wandb="off", devices="cpu")
    failed, piped = (planned.files for planned in make_plan(options, gpu=False))
    for files in (failed, piped):
        files.path.mkdir(parents=True)
    failed.write_error("error", "no\x1b]0;owned\x07\x1b[2J")
    os.mkfifo(piped.error)
    assert runner.status(options) == 0
    said = capsys.readouterr().out
    assert r"failed: no\x1b]0;owned\x07\x1b[2J" in said
    assert "\x1b" not in said and "\x07" not in said


def test_a_damaged_record_is_told_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = BenchOptions("synthetic-20", methods="cca,sm", runs=tmp_path, wandb="off", devices="cpu")
    damaged, other = (planned.files for planned in make_plan(options, gpu=False))
    damaged.path.mkdir(parents=True)
    damaged.record.write_text('{"schema": 1, "jo')
    assert runner.status(options) == 0
    assert "unreadable" in capsys.readouterr().out
    assert runner.bench(options) == 1
    said = capsys.readouterr()
    assert "1 of 2 jobs done" in said.out and "n=1" in said.out and "Report: " in said.out
    assert said.out.count("record.json is damaged") == 2
    assert said.err.count("record.json is damaged") == 1
    assert damaged.record.read_text() == '{"schema": 1, "jo'
    assert other.is_done()


def test_another_users_jobs_are_shown_and_not_run(
    anothers_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions("synthetic-20", methods="cca", runs=anothers_runs, wandb="off", devices="cpu")
    with as_its_owner():
        for planned in make_plan(options, gpu=False):
            planned.directory.mkdir(parents=True)
            with locked(planned.directory):
                pass
    assert runner.status(options) == 0
    assert "not started" in capsys.readouterr().out
    words = ["bench", "--dataset", "synthetic-20", "--methods", "cca", "--runs", str(anothers_runs)]
    assert main([*words, *OFF]) == 2
    assert f"{anothers_runs} cannot be written (Permission denied)" in capsys.readouterr().err


def test_anothers_job_in_a_shared_folder_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "theirs/progress.json")

    monkeypatch.setattr(JobDirectory, "clear_last_run", refused)
    options = BenchOptions("synthetic-20", methods="cca", runs=tmp_path, wandb="off", devices="cpu")
    with pytest.raises(BadInput, match=r"theirs/progress\.json is not yours to use \(Permission denied\)"):
        runner.bench(options)
