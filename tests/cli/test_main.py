from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answered import Answered
from users import as_its_owner

from crossmodal_bench.bench.options import read_options
from crossmodal_bench.cli import commands as actions
from crossmodal_bench.cli import main as cli
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.signals import Interrupted
from crossmodal_bench.jobs.record import Record, write_record
from crossmodal_bench.reporting.charts.collection import collect
from crossmodal_bench.reporting.formats import FORMATS
from crossmodal_bench.reporting.report import html
from crossmodal_bench.reporting.table import shown_tables


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    of_runs = ("compare", "submit", "reproduce", "report", "ensemble", "evaluate")
    asked = ("retrieve", "export-embeddings", "export-weights", "list")
    for command in ("bench", "status", *of_runs, *asked, "prepare", "extract", "doctor", "fit", "test"):
        assert f"    {command}" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("bench --methods cca,acmrr", "did you mean 'acmr"),
        ("bench --methods CCA", "method 'CCA' is unknown; did you mean 'cca'?"),
        ("bench --methods Addr_Skan", "did you mean 'addr_scan'?"),
        ("bench --dataset Flickr30K", "did you mean 'flickr30k'?"),
        ("bench --seeds 0", "SEEDS is 0"),
        ("bench --preset papers", "preset 'papers' is unknown; did you mean 'paper'?"),
        ("bench --preset equal", "preset 'equal' is unknown; choose one of auto, paper, small, smoke, tuned"),
        ("bench --methods ./lost.yaml", "lost.yaml cannot be read (No such file or directory)"),
        ("bench --methods lost/cca.yaml", "the name 'cca' is already taken; rename the file"),
        ("bench --dataset ./lost.yaml", "lost.yaml cannot be read (No such file or directory)"),
        ("bench --plugins lost_package", "PLUGINS 'lost_package' is not found; install the package"),
        ("bench --plugins os", "PLUGINS 'os' is not one of your packages"),
        ("bench --plugins a/b", "PLUGINS 'a/b' is not a valid Python package name"),
        ("bench --methods cca --plugins pytest", "PLUGINS 'pytest' has no effect: neither these methods"),
        ("fit --plugins lost_package", "PLUGINS 'lost_package' is not found"),
        ("ensemble nowhere --plugins lost_package", "PLUGINS 'lost_package' is not found"),
        ("prepare ./lost.yaml", "lost.yaml cannot be read"),
        ("bench --methods cca --weights /nope.pth", "WEIGHTS is '/nope.pth' and has no effect: none"),
        ("bench --methods cca --devices 999", "DEVICES is 999, but"),
        ("bench --devices none", "DEVICES is 'none'; give auto, cpu or a positive number"),
        ("bench --devices 0", "DEVICES is '0'"),
        ("bench --jobs 0", "JOBS is 0; give the number of jobs to run at a time, at least 1"),
        ("bench --slurm time=60", "SLURM has no effect with LAUNCHER=local"),
        ("bench --launcher slurm --slurm time=", "--slurm time= is not KEY=VALUE"),
        ("bench --launcher slurm --slurm lost.yaml", "--slurm lost.yaml cannot be read (No such file"),
        ("bench --wandb of", "did you mean 'off'"),
        ("bench --set trainer.max_epochs", "is not KEY=VALUE"),
        ("bench --set =5", "is not KEY=VALUE"),
        ("bench --set a=[1", "'[1' is not a YAML value"),
        ("bench --dataset wikipedia", "set DATA_ROOT"),
        ("status --dataset nowhere", "data set 'nowhere' is unknown"),
        ("report", "runs is missing; run crossmodal-bench bench first"),
        ("ensemble nowhere", "nowhere cannot be read"),
        ("ensemble nowhere --wandb of", "did you mean 'off'"),
        ("compare nowhere elsewhere", "nowhere is not a run, here or in runs"),
        ("compare a b --examples -1", "--examples is -1"),
        ("submit nowhere", "nowhere is not a run"),
        ("reproduce nowhere", "nowhere is not a run"),
        ("reproduce nowhere --threads 0", "--threads is 0"),
        ("reproduce nowhere --devices none", "DEVICES is 'none'"),
        ("bench --reference nowhere", "nowhere has no reference results"),
        ("prepare flickr8k", "set DATA_ROOT"),
        ("prepare wikipedai", "did you mean 'wikipedia'"),
    ],
)
def test_bad_input_is_one_sentence_on_stderr(
    words: str,
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    message = capsys.readouterr().err
    assert message.startswith("crossmodal-bench: ") and message.count("\n") == 1
    assert sentence in message
    assert [path.name for path in tmp_path.iterdir()] in ([], ["runs"])
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize("words", ["bench --rerun all", "bench --seeds two", "benhc", ""])
def test_the_parser_refuses_with_the_same_status(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(words.split())
    assert end.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_every_option_reaches_the_plan(tmp_path: Path) -> None:
    words = (
        "bench --dataset d --data-root r --methods m --seeds 2 --preset p --runs u --devices 3 --wandb off "
        "--wandb-live --wandb-media --network n --weights w --text t --rerun stale --on-bad-image skip "
        "--set a.b=1e-3 --set c=[1,2] --reference off --jobs 4 --launcher slurm --slurm time=60 --locks off "
        "--plugins a,b --plugins a --plugins c.d"
    )
    options = vars(read_options(cli._parser().parse_args(words.split())))
    assert options == {
        "dataset": "d",
        "data_root": Path("r"),
        "methods": "m",
        "plugins": ("a", "b", "c.d"),
        "seeds": 2,
        "preset": "p",
        "runs": Path("u"),
        "devices": "3",
        "jobs": 4,
        "launcher": "slurm",
        "slurm": {"time": 60},
        "wandb": "off",
        "wandb_live": "1",
        "wandb_media": "1",
        "network": "n",
        "weights": "w",
        "text": "t",
        "rerun": "stale",
        "locks": "off",
        "reference": "off",
        "on_bad_image": "skip",
        "overrides": {"a.b": 1e-3, "c": [1, 2]},
    }


def test_ctrl_c_asks_to_run_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(actions, "report", interrupted)
    assert main(["report"]) == 75
    assert "same command again" in capsys.readouterr().err


def test_a_report_without_records_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--runs", str(tmp_path)]) == 2
    assert "has no finished job" in capsys.readouterr().err


def test_a_report_can_be_of_some_formats_alone(
    make_record: Callable[..., Record], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record()
    assert main(["report", "--runs", str(runs), "--format", "latex", "csv"]) == 0
    assert {path.name for path in (runs / "report").iterdir()} == {"leaderboard.tex", "leaderboard.csv"}
    assert capsys.readouterr().out.startswith("Report: ")
    assert main(["report", "--runs", str(runs), "--format", "terminal"]) == 0
    assert "ranked by mAP" in capsys.readouterr().out
    assert main(["report", "--runs", str(runs), "--format", "latx"]) == 2
    assert "did you mean 'latex'" in capsys.readouterr().err


def test_a_report_can_write_every_query(
    make_record: Callable[..., Record], runs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Answered(make_record)(0.3, images=12)
    words = ["report", "--runs", str(runs), "--data-root", str(tmp_path), "--format", "csv"]
    assert main(words) == 0
    assert "Queries: " not in capsys.readouterr().out
    assert main([*words, "--queries", "all"]) == 0
    assert f"Queries: 1 file in {runs / 'report' / 'queries'}" in capsys.readouterr().out
    (written,) = (runs / "report" / "queries").iterdir()
    assert len(written.read_text().splitlines()) == 12 + 60


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in FORMATS)


def test_prepare_describes_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "synthetic-20", "--data-root", str(tmp_path), "--runs", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "train 20 images, 100 captions, 5 per image" in text
    assert "vocabulary" in text and "fingerprint" in text and "8 (" in text
    assert "protocol synthetic-test@1\n    not the split of synthetic-tiny, which has 48 images" in text
    assert 'split {ids: "exact", images: "' in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "--network is missing; name the network to run"),
        ("--regions detector --network vgg19", "--network has no effect with a detector; leave it out"),
        ("--regions detector --image-size 64", "--image-size has no effect with a detector"),
        ("--regions detector --batch-size 4", "--batch-size has no effect with a detector"),
    ],
)
def test_options_of_extract_that_do_not_go_together(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract", "synthetic-20", *words.split()]) == 2
    assert sentence in capsys.readouterr().err


def test_extract_makes_a_grid_of_regions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["extract", "synthetic-20", "--regions", "grid", "--weights", "none"]
    assert main([*words, "--image-size", "32", "--device", "cpu", "--runs", str(tmp_path)]) == 0
    # The pass over the pictures leaves the vectors of the same network, too.
    (store,) = (tmp_path / "cache" / "features").glob("*grid*.npy")
    text = capsys.readouterr().out.replace("\n", "")
    assert store.name.endswith("-32-grid36.npy") and "28 x 36 x 1280, mobilenet_v2, weights none" in text


def test_extract_runs_once_and_names_its_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["extract", "synthetic-20", "--network", "mobilenet_v2", "--weights", "none"]
    words += ["--image-size", "32", "--device", "cpu"]
    assert main([*words, "--runs", str(tmp_path)]) == 0
    first = capsys.readouterr().out
    (store,) = (tmp_path / "cache" / "features").glob("*.npy")
    before = store.stat().st_mtime_ns
    assert main([*words, "--runs", str(tmp_path)]) == 0
    for text in (first, capsys.readouterr().out):
        flat = text.replace("\n", "")
        assert str(store) in flat and "28 x 1280, mobilenet_v2, weights none" in flat
    assert store.stat().st_mtime_ns == before


needs_a_full_device = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="no device that is always full"
)


def test_a_reader_that_has_gone_ends_it_quietly(
    make_record: Callable[..., Record],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_record()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert main(["report", "--format", "terminal", "--runs", str(runs)]) == 141
    assert capsys.readouterr().err == ""


@needs_a_full_device
def test_an_output_that_takes_no_more_is_a_sentence(
    make_record: Callable[..., Record],
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_record()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["report", "--format", "terminal", "--runs", str(runs)]) == 2
    assert capsys.readouterr().err.startswith("crossmodal-bench: the output's disk is full")


@pytest.mark.parametrize("output", ["nobody", pytest.param("/dev/full", marks=needs_a_full_device)])
def test_python_has_nothing_to_add_at_its_end(output: str) -> None:
    if output == "nobody":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open(output, os.O_WRONLY)
    # With a command that imports nothing heavy.
    code = (
        "import sys\n"
        "from crossmodal_bench.cli import commands\n"
        "from crossmodal_bench.cli.main import main\n"
        "commands.report = lambda arguments: print('a table') or 0\n"
        "sys.exit(main())\n"
    )
    words = [sys.executable, "-c", code, "report"]
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    if output == "nobody":
        assert (ended.returncode, ended.stderr) == (141, "")
    else:
        assert ended.returncode == 2 and ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("crossmodal-bench: the output's disk is full")


def test_who_is_stopped_before_a_command_has_begun_is_told_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(words: list[str]) -> int:
        raise Interrupted

    monkeypatch.setattr(cli, "_written", stopped)
    assert main(["report"]) == 75
    assert capsys.readouterr().err == "Interrupted. Run the same command again to resume.\n"


def test_no_memory_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def eats(arguments: object) -> int:
        return len(bytearray(2**60))

    monkeypatch.setattr(actions, "report", eats)
    assert main(["report"]) == 1
    assert capsys.readouterr().err.startswith("crossmodal-bench: memory ran out (MemoryError); allow")


def test_a_pipe_that_breaks_elsewhere_is_no_quiet_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(arguments: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(actions, "report", breaks)
    monkeypatch.setattr(cli, "_output_is_closed", lambda: False)
    with pytest.raises(BrokenPipeError):
        main(["report"])


def test_another_users_records_are_reported(
    anothers_runs: Path, make_content: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["report", "--runs", str(anothers_runs), "--reference", "off"]
    with as_its_owner():
        write_record(anothers_runs / "wikipedia" / "acmr" / "job", make_content())
        # Modules and templates are loaded by who may read them: Python itself may lie in a home of root's.
        tables = shown_tables(anothers_runs)
        html(tables, collect([table.source for table in tables]), anothers_runs)
    assert main(words) == 0
    said = capsys.readouterr()
    assert "acmr" in said.out and "is not writable" in said.err
    assert main([*words, "--format", "html"]) == 2
    assert "index.html cannot be written (Permission denied)" in said.err + capsys.readouterr().err


def test_a_report_shows_what_can_be_read(
    make_record: Callable[..., Record], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_record(method="cca")
    make_record(method="acmr").files.record.write_text("{")
    assert main(["report", "--runs", str(runs), "--reference", "off"]) == 0
    said = capsys.readouterr()
    assert "cca" in said.out and "is damaged" in said.err


def test_a_file_that_is_closed_to_the_user_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(arguments: object) -> int:
        raise PermissionError(13, "Permission denied", "theirs/\x1b[2Jfile")

    monkeypatch.setattr(actions, "report", refused)
    assert main(["report"]) == 2
    said = capsys.readouterr().err
    assert "theirs/\\x1b[2Jfile is not yours to use (Permission denied); ask its owner" in said
