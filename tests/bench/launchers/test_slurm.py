"""Jobs on a cluster: against a queue that a test moves, submitit's local executor, and SLURM where it is."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from offline_runs import read_run

from crossmodal_bench.bench.launchers import slurm
from crossmodal_bench.bench.launchers.slurm import Slurm
from crossmodal_bench.bench.launchers.slurm_job import SlurmJob
from crossmodal_bench.bench.launchers.slurm_options import asks_for_gpus, executor_parameters, tasks_per_node
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import PlannedJob, make_plan
from crossmodal_bench.core import process_group
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.directory import read_json, write_json
from crossmodal_bench.jobs.record import Job, read_record
from crossmodal_bench.jobs.state import State
from crossmodal_bench.reporting.wandb import live
from crossmodal_bench.reporting.wandb.state import read_state

Start = Callable[..., Any]


class Queue(Slurm):
    """A queue whose jobs do what a test says."""

    ask_every = 0.0

    def __init__(self, by_hand: bool = False) -> None:
        self.states: dict[str, str] = {}
        self.submitted = 0
        self.by_hand, self.notice = by_hand, False
        self.said: list[str] = []
        super().__init__(BenchOptions(), self.said.append)

    def check(self) -> None:
        """There is one."""

    def submit(self, planned: PlannedJob) -> str:
        self.submitted += 1
        self.states[str(self.submitted)] = "PENDING"
        return str(self.submitted)

    def ask(self, identities: set[str]) -> dict[str, str] | None:
        return {one: state for one, state in self.states.items() if one in identities}

    def ended_by_signal(self, identity: str) -> bool:
        return self.notice

    def cancelled_by_user(self, identity: str) -> bool:
        return self.by_hand


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlannedJob:
    monkeypatch.setattr(SlurmJob, "grace", 0.0)
    job = Job(
        id="0" * 16,
        method="acmr",
        dataset="wikipedia",
        protocol="wikipedia-2173-map",
        preset="small",
        seed=0,
        suite=None,
        label="",
        overrides={},
    )
    return PlannedJob(job, {}, [], "test", tmp_path / "job", "split", "data", {})


def end(planned: PlannedJob, queue: Queue, identity: str, state: str, status: int | None = None) -> None:
    queue.states[identity] = state
    if status is not None:
        write_json(planned.files.slurm_exit(identity), {"status": status})


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_job_that_ends_by_itself_is_not_submitted_again(planned: PlannedJob, status: int) -> None:
    queue = Queue()
    job = SlurmJob(planned, queue)
    assert not job.wait(0) and read_json(planned.files.slurm_launch)["slurm_job"] == "1"
    queue.states["1"] = "RUNNING"
    assert not job.wait(0.01)
    # What a job has written counts at once, whatever the queue still says.
    end(planned, queue, "1", "RUNNING", status)
    assert job.wait(0) and job.exit_code == status
    assert queue.submitted == 1 and not planned.files.slurm_launch.exists() and queue.parting() == ""


@pytest.mark.parametrize(
    ("state", "status"),
    [("TIMEOUT", None), ("PREEMPTED", 75), ("FAILED", 75), ("NODE_FAIL", None), ("", None)],
)
def test_a_job_that_slurm_cuts_off_is_submitted_again_as_long_as_it_comes_further(
    planned: PlannedJob, state: str, status: int | None
) -> None:
    queue = Queue()
    job = SlurmJob(planned, queue)
    for turn in range(1, 6):
        (planned.directory / "last.ckpt").write_text("saved")
        os.utime(planned.directory / "last.ckpt", (turn, turn))
        end(planned, queue, str(turn), state or "GONE", status)
        assert not job.wait(0) and queue.submitted == turn + 1
    assert queue.said[-1].startswith("acmr on wikipedia seed 0: SLURM job 5 was cut off (")
    assert queue.parting() == "SLURM keeps running the submitted jobs; to cancel them: scancel 6"
    for turn in range(6, 9):
        end(planned, queue, str(turn), state or "GONE", status)
        over = job.wait(0)
    assert over and job.exit_code == 1 and queue.submitted == 8
    message = read_json(planned.files.error)["message"]
    assert (
        message.startswith("SLURM cut off 3 jobs in a row without any progress (the last, 8, as ")
        and "--slurm time" in message
    )


@pytest.mark.parametrize(
    ("state", "status", "hint"),
    [
        ("CANCELLED", None, ""),
        ("CANCELLED", 75, ""),
        ("FAILED", None, ""),
        ("OUT_OF_MEMORY", None, "--slurm mem"),
    ],
)
def test_a_job_that_was_cancelled_or_broke_is_not(
    planned: PlannedJob, state: str, status: int | None, hint: str
) -> None:
    queue = Queue(by_hand=True)
    job = SlurmJob(planned, queue)
    end(planned, queue, "1", state, status)
    assert job.wait(0) and job.exit_code == 1 and queue.submitted == 1
    message = read_json(planned.files.error)["message"]
    assert message.startswith(f"SLURM job 1 ended as {state}") and hint in message
    # The administrators' cancelling is another matter.
    again = SlurmJob(planned, queue)
    queue.by_hand = False
    end(planned, queue, "2", "CANCELLED", status)
    assert not again.wait(0) and queue.submitted == 3


def test_a_notice_that_comes_too_early_to_be_heeded_is_no_failure(planned: PlannedJob) -> None:
    queue = Queue()
    job = SlurmJob(planned, queue)
    queue.notice = True
    end(planned, queue, "1", "FAILED")
    assert not job.wait(0) and queue.submitted == 2


@pytest.mark.parametrize(
    ("shown", "notice"),
    [
        ("JobState=FAILED ExitCode=140:0 x", True),
        ("ExitCode=0:12", True),
        ("ExitCode=1:0", False),
        ("ExitCode=0:11", False),
        ("", False),
    ],
)
def test_a_notice_is_told_from_a_crash(monkeypatch: pytest.MonkeyPatch, shown: str, notice: bool) -> None:
    monkeypatch.setattr(slurm, "_output", lambda command: shown)
    assert Slurm.ended_by_signal(Queue(), "7") is notice


def test_who_cancelled_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for said, by_hand in (
        (f"CANCELLED by {os.getuid()}", True),
        (f"CANCELLED by {os.getuid() + 1}", False),
        ("", True),
    ):
        monkeypatch.setattr(slurm, "_output", lambda command, said=said: said)
        assert Slurm.cancelled_by_user(Queue(), "7") is by_hand


def test_a_job_is_found_again_by_the_next_bench_and_by_one_beside_it(planned: PlannedJob) -> None:
    queue = Queue()
    first = SlurmJob(planned, queue)
    first.terminate()
    first.stop()
    assert queue.adopts(planned)
    second, beside = SlurmJob(planned, queue), SlurmJob(planned, queue)
    assert queue.submitted == 1
    assert queue.said[-1] == "acmr on wikipedia seed 0 is in the queue as SLURM job 1"
    # Both see that it was cut off; it is submitted again once.
    end(planned, queue, "1", "TIMEOUT")
    assert not second.wait(0) and not beside.wait(0) and queue.submitted == 2
    end(planned, queue, "2", "COMPLETED", 0)
    assert second.wait(0) and beside.wait(0) and (second.exit_code, beside.exit_code) == (0, 0)
    assert not queue.adopts(planned)


def test_a_controller_that_does_not_answer_has_lost_nothing(
    planned: PlannedJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue()
    monkeypatch.setattr(queue, "ask", lambda identities: None)
    job = SlurmJob(planned, queue)
    assert not job.wait(0) and queue.submitted == 1


def test_status_says_what_is_queued(planned: PlannedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm.queued([planned]) == {}
    planned.directory.mkdir()
    write_json(planned.files.slurm_launch, {"slurm_job": "7"})
    for answer, expected in (
        ({"7": "PENDING"}, {planned.job.id: State("queued", "SLURM job 7")}),
        ({"7": "COMPLETING"}, {planned.job.id: State("running", "SLURM job 7")}),
        ({"7": "TIMEOUT"}, {}),
        ({}, {}),
    ):
        monkeypatch.setattr(slurm, "squeue", lambda identities, answer=answer: answer)
        assert slurm.queued([planned]) == expected
    monkeypatch.setattr(slurm, "squeue", lambda identities: None)
    assert slurm.queued([planned])[planned.job.id].name == "queued"


def test_without_a_cluster_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="needs sbatch, which is not on PATH; start the bench on"):
        Slurm(BenchOptions(launcher="slurm"))
    monkeypatch.setattr(slurm.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"needs submitit; pip install 'crossmodal-bench\[slurm\]'"):
        Slurm(BenchOptions(launcher="slurm"))


def test_devices_are_tasks_of_a_node() -> None:
    def tasks(devices: str, **given: Any) -> int:
        return tasks_per_node(BenchOptions(devices=devices, slurm=given))

    assert (tasks("auto"), tasks("cpu"), tasks("2"), tasks("2", gpus_per_node="a100:4")) == (1, 1, 2, 2)
    assert (tasks("auto", gpus_per_node=4), tasks("auto", gpus_per_node="h100:2")) == (4, 2)
    with pytest.raises(BadInput, match="DEVICES is 4, but --slurm gpus_per_node is 2"):
        tasks("4", gpus_per_node=2)
    assert asks_for_gpus({"gres": "gpu:1"}) and asks_for_gpus({"gpus_per_node": 1}) and not asks_for_gpus({})


def test_options_reach_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit.SlurmExecutor, "affinity", classmethod(lambda cls: 1))
    given = {"partition": "gpu", "time": "2:00:00", "nodes": 2, "gpus_per_node": 4, "reservation": "ours"}
    executor = submitit.SlurmExecutor(tmp_path)
    words = BenchOptions(devices="4", slurm={**given, "cpus_per_task": 6})
    executor.update_parameters(**executor_parameters(words, "acmr-0"))
    script = executor._make_submission_file_text("command", "x")
    for line in ("partition=gpu", "time=2:00:00", "nodes=2", "gpus-per-node=4", "reservation=ours"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --ntasks-per-node=4\n" in script and "#SBATCH --signal=USR2@90\n" in script
    assert "--kill-on-bad-exit=1 --cpus-per-task=6" in script and "wckey" not in script
    plain = submitit.SlurmExecutor(tmp_path)
    plain.update_parameters(**executor_parameters(BenchOptions(), "acmr-0"))
    assert "--time" not in plain._make_submission_file_text("command", "x")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ntasks_per_node": 2}, "--slurm ntasks_per_node is determined by DEVICES; leave it out"),
        ({"nodes": "two"}, "--slurm nodes is 'two'; give a whole number from 1"),
    ],
)
def test_options_that_contradict_are_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        executor_parameters(BenchOptions(slurm=given), "x")


def test_only_what_slurm_started_is_one_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (process_group.TASK, "SLURM_NTASKS", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert process_group.trainer_arguments() == {} and process_group.global_rank() == 0
    given = {"NTASKS": "4", "NTASKS_PER_NODE": "2", "NNODES": "2", "PROCID": "3", "JOB_NAME": "acmr-0"}
    for name, value in given.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    # A bench that somebody runs within an allocation.
    (environment,) = process_group.trainer_arguments()["plugins"]
    assert type(environment).__name__ == "LightningEnvironment" and process_group.global_rank() == 0
    monkeypatch.setenv(process_group.TASK, "slurm")
    arguments = process_group.trainer_arguments("ddp_find_unused_parameters_true")
    (environment,) = arguments["plugins"]
    assert environment.world_size() == 4 and not environment.auto_requeue
    assert arguments["num_nodes"] == 2 and arguments["strategy"] == "ddp_find_unused_parameters_true"
    assert process_group.global_rank() == 3


class Here(Slurm):
    """submitit's local executor, whose jobs are processes of this machine."""

    ask_every = 0.0

    def check(self) -> None:
        """It is always there."""

    def executor(self, planned: PlannedJob) -> Any:
        import submitit

        executor = submitit.LocalExecutor(planned.files.slurm.resolve(), max_num_timeout=0)
        executor.update_parameters(timeout_min=5)
        return executor

    def ask(self, identities: set[str]) -> dict[str, str] | None:
        return {one: "RUNNING" for one in identities if not os.waitpid(int(one), os.WNOHANG)[0]}


@pytest.mark.slow
def test_a_job_goes_the_whole_way_through_submitit(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    words = BenchOptions("pascal_sentence", data_root, methods="cca", wandb="off", launcher="slurm")
    (planned,) = make_plan(words, gpu=False)
    said: list[str] = []
    cluster = Here(words, said.append)
    job = cluster.start(planned, cluster.slots[0])
    deadline = time.monotonic() + 300
    while not job.wait(0.2) and time.monotonic() < deadline:
        pass
    assert job.exit_code == 0, (planned.directory / "log.txt").read_text()
    assert read_record(planned.directory).job == planned.job and said == []


@pytest.mark.slow
def test_a_followed_jobs_run_is_finished_before_its_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(live.SWITCH, "offline")
    changes = {"trainer.max_epochs": 3}
    words = BenchOptions("synthetic-20", methods="acmr", wandb="offline", launcher="slurm", overrides=changes)
    (planned,) = make_plan(words, gpu=False)
    cluster = Here(words)
    job = cluster.start(planned, cluster.slots[0])
    identity = cluster.following.copy().pop()
    deadline = time.monotonic() + 300
    while cluster.ask({identity}) and time.monotonic() < deadline:
        time.sleep(0.05)
    # SLURM would end what is left of the job now.
    record = read_record(planned.directory)
    state = read_state(planned.files)
    assert job.wait(0) and job.exit_code == 0
    assert state is not None and state.is_complete_locally(record), state
    (log,) = record.files.offline_wandb_runs()
    assert read_run(log).exit_code == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no SLURM on this machine: sbatch is not in PATH")
def test_a_suite_on_a_real_cluster_survives_its_bench(start: Start, tmp_path: Path) -> None:
    words = ("--dataset", "synthetic-20", "--methods", "cca,acmr", "--set", "trainer.max_epochs=60")
    words += ("--wandb", "off", "--launcher", "slurm", "--slurm", "time=20 cpus_per_task=1")
    bench = start("bench", *words, folder=tmp_path)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/acmr/*/launch.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    bench.signal(signal.SIGINT)
    assert bench.wait() == 75 and "scancel" in bench.out.read_text()
    shown = start("status", *words, folder=tmp_path)
    assert shown.wait() == 0 and "SLURM job" in shown.out.read_text()
    again = start("bench", *words, folder=tmp_path)
    assert again.wait(900) == 0, again.out.read_text() + again.err.read_text()
    assert "is in the queue as SLURM job" in again.out.read_text()
    assert "2 of 2 jobs done" in again.out.read_text()
    assert len(list(tmp_path.glob("runs/*/*/*/slurm/*_submission.sh"))) == 2
