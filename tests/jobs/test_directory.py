"""A job's directory: the names of its files, which stand nowhere else, and how they are read and written."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import crossmodal_bench
from crossmodal_bench.core.checkpoint_files import previous
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import directory
from crossmodal_bench.jobs.directory import JobDirectory, read_json, write_json, write_text

PACKAGE = Path(crossmodal_bench.__file__).parent
FILES = {
    name: getattr(JobDirectory(Path("job")), name)
    for name, member in vars(JobDirectory).items()
    if isinstance(member, property)
}
"""The path of each file in a directory that is called job."""


@cache
def paths_in(module: Path) -> str:
    """What may be file names or patterns among the texts in a module's code, a line each.

    Docstrings, comments and sentences to people are none.
    """
    tree = ast.parse(module.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    texts = [
        node.value for node in constants if isinstance(node.value, str) and id(node) not in documentation
    ]
    return "\n".join(text for text in texts if " " not in text)


def spells(module: Path, name: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(name)}(?!\w)", paths_in(module)) is not None


def test_every_file_has_a_path_of_its_own_below_the_directory() -> None:
    assert len(FILES) > 15 and len(set(FILES.values())) == len(FILES)
    assert all(path.is_relative_to("job") for path in FILES.values())


OF_OTHERS = {"model.safetensors"}
"""Names that a library has for its own files, too: doctor looks for Hugging Face's."""


@pytest.mark.parametrize("name", sorted({path.name for path in FILES.values() if path.suffix} - OF_OTHERS))
def test_a_files_name_is_spelled_nowhere_else(name: str) -> None:
    own = Path(directory.__file__)
    assert spells(own, name)
    assert [path for path in sorted(PACKAGE.rglob("*.py")) if path != own and spells(path, name)] == []


def test_directories_are_found_where_they_are_made(tmp_path: Path) -> None:
    ids = ["b", "a"]
    made = [JobDirectory.of(tmp_path, "wikipedia", "acmr", job_id) for job_id in ids]
    for files in made:
        files.path.mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    assert list(JobDirectory.all_below(tmp_path)) == sorted(made, key=lambda files: files.path)
    assert not made[0].is_done()
    made[0].record.touch()
    assert made[0].is_done()


def test_checkpoints_are_listed_and_have_names_for_when_they_are_set_aside(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    for path in (files.last_checkpoint, files.best_checkpoint, files.log):
        path.touch()
    assert files.checkpoints() == [files.best_checkpoint, files.last_checkpoint]
    assert files.previous_checkpoint == previous(files.last_checkpoint)
    assert files.tags_aside() == []
    for tag in ("sources-changed-20260131T120000", "data-changed-20260131T120000-2"):
        for path in files.aside(tag).values():
            path.touch()
        assert (tmp_path / f"last.previous.{tag}.ckpt").is_file() and (
            tmp_path / f"resume.{tag}.json"
        ).is_file()
    assert files.tags_aside() == ["data-changed-20260131T120000-2", "sources-changed-20260131T120000"]


def test_progress_and_failure_are_read_as_written_and_forgotten(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    assert files.read_error() == files.read_progress() == {}
    files.write_error("bad input", "x is missing; put it there")
    files.write_progress("training", epoch=3)
    assert files.read_error() == {"kind": "bad input", "message": "x is missing; put it there"}
    assert files.read_progress() == {"phase": "training", "epoch": 3}
    files.clear_last_run()
    assert list(tmp_path.iterdir()) == []
    files.clear_last_run()


def test_offline_runs_are_those_of_the_job(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    for name in ("offline-run-1-abc", "offline-run-2-def", "run-3-abc"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert [path.name for path in files.offline_wandb_runs("abc")] == ["offline-run-1-abc"]
    assert len(files.offline_wandb_runs()) == 2


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    assert read_json(path) == {}
    write_json(path, {"a": 1})
    path.with_name("list.json").write_text("[1]")
    path.with_name("half.json").write_text('{"a": ')
    assert read_json(path) == {"a": 1}
    assert read_json(path.with_name("list.json")) == read_json(path.with_name("half.json")) == {}

    def full(*arguments: Any) -> None:
        raise OSError("full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="full"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}


@pytest.mark.parametrize("name", ["log", "wandb_log"])
@pytest.mark.parametrize("what", ["a link", "a link to nothing", "a pipe", "a folder"])
def test_a_log_is_written_to_a_plain_file_alone(tmp_path: Path, what: str, name: str) -> None:
    files = JobDirectory(tmp_path)
    victim, log = tmp_path / "victim.txt", getattr(files, name)
    if what == "a pipe":
        os.mkfifo(log)
    elif what == "a folder":
        log.mkdir()
    else:
        if what == "a link":
            victim.write_text("mine")
        log.symlink_to(victim)
    with pytest.raises(BadInput, match=rf"{log.name} is not a regular file; find out"):
        getattr(files, f"open_{name}")()
    assert not victim.exists() or victim.read_text() == "mine"


def test_a_log_grows_and_that_of_wandb_begins_anew(tmp_path: Path) -> None:
    files = JobDirectory(tmp_path)
    for line in ("first\n", "second\n"):
        for opened in (files.open_log(), files.open_wandb_log()):
            with opened as log:
                log.write(line)
    assert files.log.read_text() == "first\nsecond\n"
    assert files.wandb_log.read_text() == "second\n"


def test_text_takes_the_place_of_a_link(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim.txt", JobDirectory(tmp_path).config
    victim.write_text("mine")
    path.symlink_to(victim)
    write_text(path, "seed_everything: 1\n")
    assert victim.read_text() == "mine"
    assert path.read_text() == "seed_everything: 1\n" and not path.is_symlink()
