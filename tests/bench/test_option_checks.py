"""What a bench's words mean, and a method and a data set that are nobody's but the user's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from plugins import command, write_plugin

from crossmodal_bench.bench.launchers.subprocesses import Worker
from crossmodal_bench.bench.option_checks import check_options, method_names
from crossmodal_bench.bench.options import BenchOptions
from crossmodal_bench.bench.plan import make_plan
from crossmodal_bench.cli.main import main
from crossmodal_bench.core.class_paths import trusted
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import experiments
from crossmodal_bench.jobs.planned import PlannedJob
from crossmodal_bench.jobs.record import read_record, read_records

HEAVY = ("torch", "pytorch_lightning", "wandb", "sklearn", "transformers", "matplotlib")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with the documentation's plugin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    write_plugin(tmp_path)
    yield tmp_path
    sys.modules.pop("my_package", None)


def options(folder: Path, **words: object) -> BenchOptions:
    given = {"dataset": "synthetic-20", "methods": "./bilinear.yaml", "plugins": ("my_package",)}
    fixed = {"runs": folder / "runs", "wandb": "off", "devices": "cpu", "preset": "smoke"}
    return BenchOptions(**{**fixed, **given, **words})  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_method_of_ones_own_is_ranked_beside_ours_and_goes_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command(), "--dataset", "synthetic-20", "--set", "trainer.max_epochs=1", "--wandb", "off"]
    words += ["--devices", "cpu", "--reference", "off", "--seeds", "2"]
    assert main(words) == 0
    records = {record.job.method: record for record in read_records(folder / "runs")}
    assert set(records) == {"cca", "bilinear"}
    config = yaml.safe_load(records["bilinear"].files.config.read_text())
    assert config["model"] == {"class_path": "my_package.Bilinear", "init_args": {"dim": 128}}
    shown = capsys.readouterr().out
    assert "bilinear" in shown and "3 of 3 jobs done" in shown
    report = folder / "runs" / "report"
    assert "bilinear" in (report / "leaderboard.md").read_text()
    assert "bilinear" in (report / "index.html").read_text()
    assert main(["status", *words[1:]]) == 0
    assert capsys.readouterr().out.count(" done") == 3
    finished = records["bilinear"].finished_at
    assert main(words) == 0
    assert read_record(records["bilinear"].directory).finished_at == finished
    # A report needs neither the file nor the package, a sum of models the package.
    experiments.forget_given_files()
    assert main(["report", "--runs", "runs", "--reference", "off"]) == 0
    assert "bilinear" in capsys.readouterr().out
    seeds = [
        str(path.parent) for path in (folder / "runs" / "synthetic-20" / "bilinear").rglob("record.json")
    ]
    words = ["ensemble", *seeds, "--wandb", "off"]
    assert main(words) == 2
    assert "configurations may not name" in capsys.readouterr().err
    assert main([*words, "--plugins", "my_package"]) == 0
    experiments.forget_given_files()
    words = ["reproduce", seeds[0]]
    assert main(words) == 2
    assert "'bilinear', which is not built in; name its file with --method" in capsys.readouterr().err
    (folder / "other.yaml").write_text("base: bilinear\n")
    assert main([*words, "--method", "other.yaml"]) == 2
    assert "other.yaml is other, and" in capsys.readouterr().err
    assert main([*words, "--method", "./bilinear.yaml", "--plugins", "my_package"]) == 0
    assert "equal to the digit" in capsys.readouterr().out


def test_without_its_plugin_a_file_is_refused_and_nothing_is_imported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "--methods", "./bilinear.yaml", "--dataset", "synthetic-20", "--wandb", "off"]
    assert main(words) == 2
    assert "'my_package.Bilinear' is in a package that configurations may not name" in capsys.readouterr().err
    assert "my_package" not in sys.modules


@pytest.mark.slow
def test_a_worker_of_its_own_is_told_of_plugins_on_its_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = make_plan(options(folder, seeds=1, overrides={"trainer.max_epochs": 1}), gpu=False)
    assert planned.plugins == ("my_package",) and trusted() == planned.plugins
    monkeypatch.setattr("crossmodal_bench.bench.launchers.subprocesses.can_fork", lambda devices: False)
    worker = Worker(planned, "cpu")
    assert worker.wait(120) and worker.exit_code == 0, planned.files.log.read_text()
    assert PlannedJob.load(planned.directory).plugins == ("my_package",)
    # What lies in a folder of records is nobody's word.
    shutil.rmtree(planned.directory)
    planned.directory.mkdir()
    planned.save()
    module = "crossmodal_bench.bench.launchers.job"
    done = subprocess.run(
        [sys.executable, "-m", module, str(planned.directory), "cpu"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "configurations may not name" in done.stderr


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("def broken(:\n", "my_package.py, line 1: SyntaxError: invalid syntax); fix that line"),
        (
            "import os\n\nimport no_such_library\n",
            "my_package.py, line 3: ModuleNotFoundError: No module named 'no_such_library'); install what it",
        ),
        (
            "from os import no_such_name\n",
            "my_package.py, line 1: ImportError: cannot import name 'no_such_name'",
        ),
        ("x = 1\nx.y\n", "my_package.py, line 2: AttributeError: 'int' object has no attribute 'y'"),
        ("class Bilinear: pass\n", "'my_package.Bilinear' is not a RetrievalMethod"),
        ("", "'my_package.Bilinear' cannot be imported"),
        (
            "from crossmodal_bench.methods import CCA\n\n\nclass Bilinaer(CCA):\n    pass\n",
            "'my_package.Bilinear' cannot be imported; did you mean 'my_package.Bilinaer'?",
        ),
    ],
)
def test_what_is_wrong_with_a_plugins_module_is_a_sentence(folder: Path, module: str, sentence: str) -> None:
    (folder / "my_package.py").write_text(module)
    with pytest.raises(BadInput) as caught:
        make_plan(options(folder), gpu=False)
    assert sentence in str(caught.value) and "model.class_path" in str(caught.value)


def test_a_misspelt_key_in_a_file_of_ones_own_is_named_before_torch_is_imported(folder: Path) -> None:
    (folder / "bilinear.yaml").write_text("title: B\npapers: {}\n")
    code = (
        "import sys\nfrom crossmodal_bench.cli.main import main\n"
        "status = main(sys.argv[1:])\n"
        f"heavy = {set(HEAVY)!r} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(status)\n"
    )
    for words, sentence in (
        (["bench", "--methods", "./bilinear.yaml"], "bilinear.yaml: field 'papers' is unknown"),
        (["status", "--methods", "cca,acmrr"], "method 'acmrr' is unknown; did you mean 'acmr'?"),
        (["bench", "--dataset", "nowhere"], "data set 'nowhere' is unknown"),
        (["bench", "--plugins", "nowhere"], "PLUGINS 'nowhere' is not found"),
        (["bench", "--wandb", "ofline"], "WANDB is 'ofline', which is not a mode; did you mean 'offline'?"),
        (["bench", "--wandb", "off", "--wandb-live"], "WANDB_LIVE=1 has no effect because W&B is off"),
        (["bench", "--wandb", "off", "--wandb-media"], "WANDB_MEDIA=1 has no effect because W&B is off"),
        (["bench", "--reference", "nowhere"], "nowhere has no reference results"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and sentence in done.stderr, done.stderr


def test_files_may_rest_on_each_other_and_on_ours(folder: Path) -> None:
    (folder / "wide.yaml").write_text("base: bilinear\npaper: {model: {init_args: {dim: 256}}}\n")
    (folder / "gru2.yml").write_text("base: gru\nablation: gru\n")
    names = method_names("./wide.yaml,cca,./bilinear.yaml,gru2.yml")
    assert names == ["wide", "cca", "bilinear", "gru2"]
    assert experiments.method_settings("wide", "synthetic", "paper")["model"]["init_args"] == {"dim": 256}
    assert experiments.ablation_of("gru2") == "gru"
    assert {"wide", "bilinear", "gru2"} < set(experiments.names("methods"))
    experiments.forget_given_files()
    assert "wide" not in experiments.names("methods")


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        ("a/bilinear.yaml,b/bilinear.yaml", "two of its files have the same name"),
        ("cca.yaml", "'cca' is already taken"),
        ("all.yaml", "'all' is already taken"),
        ("addr_table1.yaml", "'addr_table1' is already taken"),
        ("all,./bilinear.yaml", "'all' cannot be combined"),
        ("*.yaml", "cannot be used as a results folder name"),
        ("./folder.yaml", "not a regular file"),
        ("bomb.yaml", "its references expand to more than"),
        ("large.yaml", "it is larger than 1 MB"),
    ],
)
def test_what_cannot_be_a_file_of_ones_own_is_refused(folder: Path, methods: str, sentence: str) -> None:
    for name in ("a", "b", "folder.yaml"):
        (folder / name).mkdir()
    for name in ("a/bilinear", "b/bilinear", "cca", "all", "addr_table1", "*"):
        shutil.copyfile(folder / "bilinear.yaml", folder / f"{name}.yaml")
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 1}]" for n in range(9)]
    (folder / "bomb.yaml").write_text("\n".join(lines))
    (folder / "large.yaml").write_text("# " + "x" * 2**20)
    with pytest.raises(BadInput, match=sentence):
        check_options(BenchOptions(methods=methods))
    assert "bomb" not in experiments.names("methods")


READER = """
import json
import numpy as np
from crossmodal_bench.core.files import read_json
from crossmodal_bench.data.corpus import Corpus
from crossmodal_bench.data.datasets.base import DatasetReader, folder_below, numbered, split_names


class Shop(DatasetReader):
    def read(self, root):
        path = folder_below(root, "shop", "items.json") / "items.json"
        items = read_json(path)
        ids = tuple(f"{row}.png" for row in range(len(items)))
        return Corpus(
            name="shop",
            source=str(path),
            image_ids=ids,
            caption_ids=numbered(ids, [[item["text"]] for item in items]),
            caption_image=np.arange(len(items)),
            split=split_names([item["split"] for item in items], path),
            captions=tuple(item["text"] for item in items),
            image_features=np.asarray([item["features"] for item in items], dtype=np.float32),
        )
"""


def test_a_data_set_of_ones_own(folder: Path) -> None:
    (folder / "my_package.py").write_text(READER)
    settings = {"data": {"dataset": {"class_path": "my_package.Shop"}}}
    (folder / "shop.yaml").write_text(yaml.safe_dump(settings))
    (folder / "data" / "shop").mkdir(parents=True)
    items = [
        {"text": f"a red shoe number {n}", "split": split, "features": [n % 3, n % 5, n]}
        for n, split in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 4)
    ]
    (folder / "data" / "shop" / "items.json").write_text(json.dumps(items))
    words = options(folder, dataset="./shop.yaml", data_root=folder / "data", methods="cca")
    (planned,) = make_plan(words, gpu=False)
    assert (planned.job.dataset, planned.counts["test"]["images"]) == ("shop", 4)
    with pytest.raises(BadInput, match="configurations may not name"):
        make_plan(options(folder, dataset="./shop.yaml", methods="cca", plugins=()), gpu=False)
