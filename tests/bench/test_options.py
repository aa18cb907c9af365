from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from crossmodal_bench.bench.options import BenchOptions, add_options, read_options
from crossmodal_bench.core.errors import BadInput


def options(*words: object) -> BenchOptions:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return read_options(parser.parse_args([str(word) for word in words]))


def test_no_words_are_the_defaults() -> None:
    assert options() == BenchOptions()


def test_other_commands_share_an_options_default_and_help() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, ("runs", "wandb"))
    assert vars(parser.parse_args(["--runs", "r"])) == {"runs": Path("r"), "wandb": "auto"}
    text = " ".join(parser.format_help().split())
    assert "Weights & Biases: auto (online when logged in), online, offline or off (auto)" in text


@pytest.mark.parametrize("words", [("--launcher", "slrum"), ("--on-bad-image", "x"), ("--seeds", "two")])
def test_values_are_checked_by_the_fields_types_and_choices(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        options(*words)
    assert f"argument {words[0]}: invalid" in capsys.readouterr().err


def test_a_clusters_options_come_word_by_word_or_from_a_file(tmp_path: Path) -> None:
    slurm = ("--launcher", "slurm", "--slurm")
    assert options(*slurm, "partition=gpu time=600", "--slurm", "gpus-per-node=4").slurm == {
        "partition": "gpu",
        "time": 600,
        "gpus_per_node": 4,
    }
    # YAML would read these as 7200 and as a boolean.
    path = tmp_path / "cluster.yaml"
    path.write_text("time: 2:00:00\nconstraint: on\nexclusive: true\nsetup: [module load cuda]\nnodes: 2\n")
    assert options(*slurm, path, "--slurm", "nodes=3").slurm == {
        "time": "2:00:00",
        "constraint": "on",
        "exclusive": True,
        "setup": ["module load cuda"],
        "nodes": 3,
    }
    path.write_text("- partition\n")
    with pytest.raises(BadInput, match=r"cluster\.yaml contains no keys; write e.g. partition: gpu"):
        options(*slurm, path)
