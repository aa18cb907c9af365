from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakes
import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.experiments import (
    dataset_settings,
    expand,
    merge,
    method_settings,
    names,
    resolve,
)

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


def test_another_network_drops_the_weights_that_were_named_for_the_old_one() -> None:
    base = {"images": {"network": "resnet152", "weights": "IMAGENET1K_V1", "size": 224}}
    for network in ("mobilenet_v2", None):
        assert merge(base, {"images": {"network": network}})["images"] == {"network": network, "size": 224}
    both = {"network": "resnet50", "weights": "IMAGENET1K_V2"}
    assert merge(base, {"images": both})["images"] == {**both, "size": 224}
    for same in ({"network": "resnet152"}, {"size": 96}):
        assert merge(base, {"images": same})["images"]["weights"] == "IMAGENET1K_V1"
    without = {"images": {"weights": "mine.pth"}}
    assert merge(without, {"images": {"network": "vgg19"}})["images"]["weights"] == "mine.pth"


@pytest.mark.parametrize("dataset", ["flickr30k", "coco", "cub", "my_pictures"])
@pytest.mark.parametrize("method", ["timam", "gxn", "gxn_resnet", "gru_bi", "vse"])
def test_papers_of_2018_and_2019_ask_for_the_weights_of_their_time(
    method: str, dataset: str, tmp_path: Path
) -> None:
    (tmp_path / "my_pictures").mkdir()
    (tmp_path / "my_pictures" / "dataset_mine.json").write_text(json.dumps({"images": []}))

    def images(preset: str, **overrides: str) -> Any:
        changes = {f"data.images.{name}": value for name, value in overrides.items()}
        return resolve(method, dataset, {}, preset, changes, tmp_path)["data"]["images"]

    own = images("paper")
    assert own["weights"] == "IMAGENET1K_V1" and own["network"] in ("resnet101", "resnet152", "vgg19")
    for preset in ("smoke", "small"):
        assert "weights" not in images(preset), "as before: the user's file, or torchvision's default"
    # The command has the last word, and another network its usual weights.
    assert images("paper", weights="DEFAULT")["weights"] == "DEFAULT"
    assert images("paper", weights="none", network="resnet50")["weights"] == "none"
    assert "weights" not in images("paper", network="resnet50")


def test_overrides_expand_and_must_not_contradict() -> None:
    assert expand({"a.b.c": 1, "a.d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    with pytest.raises(BadInput, match=r"--set a\.b conflicts with --set a=1"):
        expand({"a": 1, "a.b": 2})


def test_sections_apply_in_order(folder: Path) -> None:
    (folder / "methods" / "m.yaml").write_text(
        "title: M\npaper: {trainer: {a: paper, b: paper, c: paper, d: paper, e: paper}}\n"
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
    (folder / "datasets" / "wiki.yaml").write_text(
        "data: {dataset: {class_path: Wiki}}\nsmall: {trainer: {f: preset, g: preset}}\n"
    )
    trainer = resolve("m", "wiki", variant, "small", over, folder)["trainer"]
    assert [trainer[key] for key in "abcfg"] == ["paper", "set", "family", "variant", "preset"]


def test_what_is_tuned_lies_on_top_of_the_papers_settings(folder: Path) -> None:
    (folder / "methods" / "m.yaml").write_text(
        "title: M\npaper: {trainer: {a: paper, b: paper, c: paper, d: paper}}\n"
        "tuned: {trainer: {b: tuned, c: tuned, d: tuned}}\n"
        "datasets:\n"
        "  wiki: {paper: {trainer: {c: its paper, d: its paper}}, tuned: {trainer: {d: its tuned}}}\n"
    )
    assert list(method_settings("m", "wiki", "paper")["trainer"].values()) == [
        "paper",
        "paper",
        "its paper",
        "its paper",
    ]
    tuned = ["paper", "tuned", "its paper", "its tuned"]
    assert list(method_settings("m", "wiki", "tuned")["trainer"].values()) == tuned
    assert list(method_settings("m", "other", "tuned")["trainer"].values()) == ["paper", *["tuned"] * 3]
    (folder / "datasets" / "wiki.yaml").write_text(
        "data: {dataset: {class_path: Wiki}}\n"
        "paper: {trainer: {e: features, f: features}}\ntuned: {trainer: {f: others}}\n"
    )
    trainer = resolve("m", "wiki", {}, "tuned", {}, folder)["trainer"]
    assert (trainer["e"], trainer["f"]) == ("features", "others")


def test_acmrs_paper_preset_is_what_is_printed_on_every_data_set() -> None:
    """Section 4.1.2 and Figure 5; what we chose otherwise is the preset tuned."""
    printed = {"regularisation": 1.0, "regularisation_form": "norm", "adversary": 1.0, "k": 5}
    datasets = ["wikipedia", "wikipedia_deep", "pascal_sentence", "nuswide10k", "acmr_coco"]
    grid = [0.01, 0.1, 1.0, 10.0, 100.0]
    for dataset in datasets:
        settings = method_settings("acmr", dataset, "paper")
        values = settings["model"]["init_args"]
        assert printed.items() <= values.items(), dataset
        assert values["triplet"]["negative_weight"] == 0.05 and values["triplet"]["margin_unit"] == "distance"
        assert values["projectors"] == {
            "image_hidden": [2000],
            "text_hidden": [500],
            "dim": 200,
            "last": "tanh",
        }
        assert values["discriminator"]["hidden"] == [50]
        assert (settings["data"]["batch_size"], settings["trainer"]["max_epochs"]) == (64, 200)
        assert values["alpha"] in grid and values["beta"] in grid
    tuned = method_settings("acmr", "wikipedia", "tuned")
    assert tuned["data"]["batch_size"] == 256 and tuned["model"]["init_args"]["regularisation"] == 0.0


def test_a_grid_has_every_combination_and_chooses_on_validation(folder: Path) -> None:
    text = (
        "evaluate: val\noverrides: {e: 0}\ngrid: {method: m, writes: best, keys: {a.b: [1, 2], c: [x, y]}}\n"
    )
    (folder / "suites" / "g.yaml").write_text(text)
    rows = list(experiments.suite_rows(experiments.suite("g")))
    assert [row.label for row in rows] == ["b = 1, c = x", "b = 1, c = y", "b = 2, c = x", "b = 2, c = y"]
    assert rows[1].overrides == {"e": 0, "a.b": 1, "c": "y"}
    (folder / "suites" / "t.yaml").write_text(text.replace("evaluate: val\n", ""))
    with pytest.raises(
        BadInput, match="'evaluate' is test; a grid selects hyperparameters, so set it to val"
    ):
        experiments.suite("t")


@pytest.mark.parametrize("kind", ["methods", "datasets", "suites"])
def test_a_misspelt_key_or_broken_yaml_names_the_file(folder: Path, kind: str) -> None:
    (folder / kind / "bad.yaml").write_text("protocolls: {}\npapers: {}\n")
    with pytest.raises(BadInput, match=r"bad\.yaml: field 'protocolls' is unknown"):
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


def test_a_folder_without_captions_says_where_to_write_them(tmp_path: Path) -> None:
    (tmp_path / "shoes").mkdir()
    (tmp_path / "shoes" / "captions.csv").write_text("filename,split,caption\n")
    with pytest.raises(BadInput, match=r"has neither a dataset\*\.json.*; write .* to .*shoes/dataset\.json$"):
        dataset_settings("shoes", tmp_path)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("flickr30k/f30k_precomp", "flickr30k"),
        ("f30k_precomp", "f30k_precomp"),
        ("mine/x_precomp", "mine"),
        ("mine", "mine"),
        ("my_precomp", "my_precomp"),
    ],
)
def test_a_folder_of_regions_needs_neither_a_file_nor_a_network(
    tmp_path: Path, place: str, name: str
) -> None:
    fakes.write_precomputed(tmp_path, place)
    reader = {"class_path": "crossmodal_bench.data.datasets.Precomputed", "init_args": {"folder": name}}
    assert dataset_settings(name, tmp_path)["data"]["dataset"] == reader
    data = resolve("acmr", name, {}, "small", {}, tmp_path)["data"]
    assert data["dataset"] == reader and data["images"] == {}


def test_regions_beside_a_json_leave_it_the_say(tmp_path: Path) -> None:
    folder = fakes.write_karpathy(tmp_path, "flickr30k", images=False)
    fakes.write_precomputed(folder)
    data = resolve("acmr", "flickr30k", {}, "small", {}, tmp_path)["data"]
    assert data["dataset"]["class_path"] == "crossmodal_bench.data.datasets.Karpathy"
    assert data["images"] == {"network": "mobilenet_v2", "regions": "grid"}


def test_regions_in_another_kind_of_data_set_are_not_its_captions(tmp_path: Path) -> None:
    fakes.write_precomputed(tmp_path, "cub/x_precomp")
    assert dataset_settings("cub", tmp_path)["data"]["dataset"]["class_path"].endswith(".CUB")


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "coco"])
def test_regions_are_extracted_where_a_preset_says_so(name: str, tmp_path: Path) -> None:
    found = [
        resolve("cca", name, {}, preset, {}, tmp_path)["data"]["images"].get("regions")
        for preset in experiments.PRESETS
    ]
    assert dict(zip(experiments.PRESETS, found, strict=True)) == {
        "smoke": "grid",
        "small": "grid",
        "paper": None,
        "tuned": None,
    }


def test_a_familiar_folder_has_the_methods_settings_of_its_data_set(folder: Path) -> None:
    (folder / "methods" / "m.yaml").write_text(
        "title: M\npaper: {trainer: {a: 1}}\ndatasets: {flickr30k: {all: {trainer: {a: 2}}}}\n"
    )
    assert method_settings("m", "f30k_precomp", "small")["trainer"]["a"] == 2
    assert method_settings("m", "x_precomp", "small")["trainer"]["a"] == 1


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
    assert experiments._method(method).title


@pytest.mark.parametrize("name", names("suites"))
def test_suites_name_what_there_is(name: str) -> None:
    content = experiments.suite(name)
    assert content.description
    assert set(content.datasets) <= set(names("datasets"))
    methods = [*content.methods, *(row.method for row in content.rows)]
    if content.parameter_sweep is not None:
        methods.append(content.parameter_sweep.method)
    if content.grid is not None:
        methods.append(content.grid.method)
    for row in content.ensembles:
        methods += [row.method, *(member.method for member in row.members)]
    assert methods and set(methods) <= set(METHODS)


def test_a_part_that_a_method_does_not_have_cannot_be_half_set() -> None:
    path = "model.init_args.pictures.init_args.form"
    found = experiments.resolve("gxn_t2i", "synthetic-20", {}, "smoke", {path: "minimax"}, Path("data"))
    assert found["model"]["init_args"]["pictures"]["init_args"]["form"] == "minimax"
    with pytest.raises(BadInput, match=r"'gxn_finetune' has no model\.init_args\.pictures, so nothing in it"):
        experiments.resolve("gxn_finetune", "synthetic-20", {}, "smoke", {path: "minimax"}, Path("data"))


def test_what_applies_to_a_parent_is_what_it_has() -> None:
    over = {
        "model.init_args.pictures.init_args.form": "minimax",
        "model.init_args.captions.init_args.samples": 2,
        "model.init_args.ranking.margin": 0.1,
        "trainer.max_epochs": 3,
    }
    without_pictures = experiments.method_settings("gxn_t2i", "synthetic", "smoke")
    assert list(experiments.applicable(over, without_pictures)) == [list(over)[i] for i in (0, 2, 3)]
    whole = experiments.method_settings("gxn_finetune", "synthetic", "smoke")
    assert list(experiments.applicable(over, whole)) == list(over)[2:]


@pytest.mark.parametrize(
    ("method", "dataset", "preset", "same"),
    [
        ("cca", "wikipedia", "small", True),
        ("cca", "pascal_sentence", "smoke", True),
        ("acmr", "wikipedia", "paper", True),
        ("acmr", "wikipedia", "tuned", False),
        ("acmr", "pascal_sentence", "tuned", True),
        ("acmr", "wikipedia", "small", False),
        ("timam", "flickr30k", "small", False),
        ("mine", "wikipedia", "paper", False),
        ("acmr", "wikipedia", "of another version", False),
    ],
)
def test_a_preset_under_which_nothing_changes_has_the_papers_settings(
    method: str, dataset: str, preset: str, same: bool
) -> None:
    assert experiments.has_papers_settings(method, dataset, preset) is same


@pytest.mark.parametrize("host", ["vse", "scan", "scan_i2t", "bfan", "vsrn", "addr_scan", "united_vsrn"])
def test_the_hosts_vocabulary_is_their_codes_and_training_alone_by_option(host: str) -> None:
    def vocabulary(preset: str, **overrides: str) -> object:
        config = resolve(host, "synthetic", {}, preset, overrides, Path())
        return config["data"]["text"]["vocabulary"]

    assert vocabulary("paper") == vocabulary("tuned") == "train+val"
    assert vocabulary("smoke") == vocabulary("small") == "train"
    assert vocabulary("paper", **{"data.text.vocabulary": "train"}) == "train"
