"""What each part of the package brings with it: libraries are imported where they are needed, not before."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import crossmodal_bench
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.jobs.record import Record, write_record

STAGES = """
import sys

def check(what, *heavy):
    there = set(heavy) & set(sys.modules)
    assert not there, f"{what} imports {there}"

TRAINING = ("pytorch_lightning", "transformers", "torchvision", "torchmetrics", "sklearn", "wandb")
from crossmodal_bench.cli.main import main
check("the command line", *TRAINING, "torch", "numpy", "pandas", "matplotlib")
import crossmodal_bench.evaluation
check("evaluation", *TRAINING, "pandas", "matplotlib")
scored = crossmodal_bench.evaluate_embeddings(
    "a.npy",
    "b.npy",
    caption_ids="captions.txt",
    image_ids=[f"scene{row:06d}" for row in range(208, 256)],
    protocol="synthetic-tiny",
    runs="scored",
)
assert "CIDEr" in scored.metrics["synthetic-tiny"]
check("evaluate_embeddings", *TRAINING, "pandas")
assert main("evaluate --images a.npy --texts b.npy --dataset mine --runs scored".split()) == 0
check("evaluate", *TRAINING, "pandas")
from crossmodal_bench.reporting.report import build_report
check("what makes a report", *TRAINING, "pandas", "matplotlib", "scipy.stats", "jsonargparse")
import crossmodal_bench.reporting.wandb.contents, crossmodal_bench.reporting.wandb.dashboard
import crossmodal_bench.reporting.wandb.live, crossmodal_bench.reporting.wandb.sync
assert main(["report", "--runs", sys.argv[1], "--reference", "off"]) == 0
check("a report", *TRAINING)
words = ["--dataset", "synthetic-tiny", "--runs", sys.argv[2], "--wandb", "off", "--reference", "off"]
assert main(["status", "--methods", "cca,acmr", *words]) == 0
check("status", *TRAINING)
assert main(["bench", "--methods", "cca", *words]) == 0
check("a bench with nothing to do", *TRAINING)
"""


def test_each_part_imports_what_it_needs(
    make_record: Callable[..., Record],
    make_content: Callable[..., dict[str, Any]],
    runs: Path,
    tmp_path: Path,
) -> None:
    """In one process, the lightest first: torch takes seconds."""
    make_record()
    finished = tmp_path / "finished"
    finished.mkdir()
    write_done(finished, make_content)
    np.save(tmp_path / "a.npy", np.eye(48))
    np.save(tmp_path / "b.npy", np.eye(48).repeat(3, 0))
    captions = [f"scene{208 + row // 3:06d}#{row % 3}" for row in range(144)]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    root = str(Path(crossmodal_bench.__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", STAGES, str(runs), str(finished)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert "1 of 1 jobs done" in ended.stdout
    assert re.search(r"cca .* done\n.*acmr .* not started", ended.stdout)


def write_done(runs: Path, make_content: Callable[..., dict[str, Any]]) -> None:
    """A record of cca that is nobody's guess to be done, and what planning it and acmr has left."""
    options = BenchOptions(dataset="synthetic-tiny", methods="cca,acmr", runs=runs)
    planned, _ = make_plan(options, gpu=False)
    fingerprint = planned.fingerprint()
    data = {
        "fingerprint": planned.data_fingerprint,
        "split_hash": planned.split_hash,
        "counts": planned.counts,
    }
    record = make_content(
        **vars(planned.job),
        data={**data, "labels": {}, "features": None},
        source_fingerprint=fingerprint.digest,
        made_from=fingerprint.model_dump(),
    )
    write_record(planned.directory, record)


def test_the_module_answers_by_its_name() -> None:
    words = [sys.executable, "-m", "crossmodal_bench", "--version"]
    shown = subprocess.run(words, check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == crossmodal_bench.__version__
