from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmodal_bench.bench import experiments
from crossmodal_bench.bench.experiments import (
    dataset_settings,
    expand,
    merge,
    method_settings,
    names,
    resolve,
)
from crossmodal_bench.errors import BadInput

METHODS = names("methods")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of experiments in place of the real one."""
    monkeypatch.setattr(experiments, "experiments_folder", lambda: tmp_path)
    experiments._file.cache_clear()
    for kind in ("methods", "datasets", "suites"):
        (tmp_path / kind).mkdir()
    yield tmp_path
    experiments._file.cache_clear()


def test_merge_goes_key_by_key_and_leaves_its_arguments() -> None:
    base = {"a": {"b": 1, "c": [1]}, "d": 2}
    merged = merge(base, {"a": {"b": 3}, "e": {"f": 4}})
    assert merged == {"a": {"b": 3, "c": [1]}, "d": 2, "e": {"f": 4}}
    merged["a"]["c"].append(2)
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}


def test_another_class_drops_the_arguments_of_the_old_one() -> None:
    base = {"model": {"class_path": "A", "init_args": {"x": 1}}}
    assert merge(base, {"model": {"class_path": "B"}}) == {"model": {"class_path": "B"}}
    same = merge(base, {"model": {"class_path": "A", "init_args": {"y": 2}}})
    assert same["model"]["init_args"] == {"x": 1, "y": 2}


def test_overrides_expand_and_must_not_contradict() -> None:
    assert expand({"a.b.c": 1, "a.d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    with pytest.raises(BadInput, match=r"--set a\.b contradicts --set a=1"):
        expand({"a": 1, "a.b": 2})


def test_sections_apply_in_order(folder: Path) -> None:
    (folder / "methods" / "m.yaml").write_text(
        "paper: {trainer: {a: paper, b: paper, c: paper, d: paper, e: paper}}\n"
        "small: {trainer: {b: small, c: small, d: small, e: small}}\n"
        "datasets:\n"
        "  wiki: {all: {trainer: {c: family, d: family, e: family}}}\n"
        "  wiki-tiny: {small: {trainer: {d: exact, e: exact}}}\n"
        "override: {trainer: {e: override}}\n"
    )
    (folder / "methods" / "child.yaml").write_text("base: m\npaper: {trainer: {a: child}}\n")
    values = ["paper", "small", "family", "exact", "override"]
    assert list(method_settings("m", "wiki-tiny", "small")["trainer"].values()) == values
    assert list(method_settings("m", "other", "paper")["trainer"].values()) == ["paper"] * 4 + ["override"]
    assert method_settings("child", "other", "paper")["trainer"]["a"] == "child"
    variant, over = {"trainer": {"a": "variant", "f": "variant"}}, {"trainer.b": "set"}
    (folder / "datasets" / "wiki.yaml").write_text("data: {}\nsmall: {trainer: {f: preset, g: preset}}\n")
    trainer = resolve("m", "wiki", variant, "small", over, folder)["trainer"]
    assert [trainer[key] for key in "abcfg"] == ["paper", "set", "family", "variant", "preset"]


@pytest.mark.parametrize("kind", ["methods", "datasets", "suites"])
def test_a_misspelt_key_or_broken_yaml_names_the_file(folder: Path, kind: str) -> None:
    (folder / kind / "bad.yaml").write_text("protocolls: {}\npapers: {}\n")
    with pytest.raises(BadInput, match=r"bad\.yaml: key 'protocolls' is unknown"):
        experiments._file(kind, "bad")
    (folder / kind / "broken.yaml").write_text("a: [1\n")
    with pytest.raises(BadInput, match=r"broken\.yaml is not valid YAML"):
        experiments._file(kind, "broken")


def test_unknown_names_come_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"method 'acmrr' is unknown; did you mean 'acmr"):
        method_settings("acmrr", "synthetic", "small")
    with pytest.raises(BadInput, match=r"did you mean 'wikipedia'"):
        dataset_settings("wikipedai", Path("data"))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", "flickr8k/"])
def test_a_data_set_is_a_name_and_not_a_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a path or empty; give the folder's name"):
        dataset_settings(name, tmp_path)


def test_a_folder_in_karpathys_layout_needs_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dataset_mine.json").write_text(json.dumps({"images": []}))
    settings = dataset_settings("mine", tmp_path)
    assert settings["data"]["dataset"]["init_args"]["folder"] == "mine"
    assert experiments.protocols_of(settings) == {"": {}}
    assert dataset_settings("flickr8k", tmp_path)["data"]["dataset"]["init_args"]["folder"] == "flickr8k"


def test_a_synthetic_size_is_part_of_the_name() -> None:
    assert dataset_settings("synthetic-37", Path())["data"]["dataset"]["init_args"]["size"] == "37"


def test_default_methods_exist() -> None:
    found = experiments.default_methods()
    assert found and set(found) <= set(METHODS)


@pytest.mark.parametrize("preset", experiments.PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_model_in_every_preset(method: str, preset: str) -> None:
    config = resolve(method, "synthetic", {}, preset, {}, Path())
    assert config["model"]["class_path"].startswith("crossmodal_bench.methods.")
    assert config["trainer"]["max_epochs"] >= 1
    assert experiments._file("methods", method)["title"]


@pytest.mark.parametrize("name", names("suites"))
def test_suites_name_what_there_is(name: str) -> None:
    content = experiments.suite(name)
    assert content["description"]
    assert set(content["datasets"]) <= set(names("datasets"))
    methods = [*content.get("methods", []), *(row["method"] for row in content.get("rows", []))]
    if "sweep" in content:
        methods.append(content["sweep"]["method"])
    assert methods and set(methods) <= set(METHODS)
