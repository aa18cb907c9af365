"""Every command of the documentation means something to the program, or the Makefile, that it is given to."""

from __future__ import annotations

import argparse
import ast
import functools
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, SHELLS, Document, documents

from crossmodal_bench.bench.option_checks import check_options
from crossmodal_bench.bench.options import NAMES, BenchOptions, read_options
from crossmodal_bench.cli.main import _parser
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.training.lightning_cli import _CLI

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
VARIABLES = {name.upper() for name in NAMES if name != "overrides"} | {"PYTHON", "BASE", "GPU"}
EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
)
OF_OTHERS = {"wandb", "hf", "cp", "mkdir", "export", "docker", "pre-commit", "git", "source"}
"""Programs that are not ours, whose words are not looked at."""
OF_READERS = {"shoes"}
"""Data sets that a reader of the documentation makes."""
LIGHTNING = {"fit", "test"}
"""Commands whose words Lightning's own parser reads."""


PARSER = _parser()


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (commands,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


COMMANDS = subcommands()
RECIPES = {
    target: (ROOT / "Makefile").read_text(encoding="utf-8").split(f"\n{target}:", 1)[1].split("\n\n")[0]
    for target in TARGETS
}
"""What each target of the Makefile runs."""
REFUSED = set(re.findall(r"\(filter (\w+),\$\(MAKECMDGOALS\)\),\$\(filter ([A-Z_]+),\$\(given\)\)", MAKEFILE))
"""Targets with a variable that the Makefile refuses for them."""
STARTS = ("make", "crossmodal-bench", "python", "pip", ".ci/run")
"""The first words of the commands that a block in no shell's language may hide."""


def command_lines(block: str) -> Iterator[list[str]]:
    """The words of each command of a shell block, without comments and variables set in front of it."""
    pending = ""
    for line in block.replace("\\\n", " ").splitlines():
        pending += line
        lexer = shlex.shlex(pending, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        try:
            parts = [*lexer, ";"]
        except ValueError:
            # A quotation that goes on in the next line.
            pending += "\n"
            continue
        pending = ""
        words: list[str] = []
        for word in parts:
            if not set(word) <= set("&|;"):
                words.append(word)
            elif words:
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words = words[1:]
                yield words
                words = []
    assert not pending, f"a quotation is not closed: {pending}"


def complaint(words: Sequence[str]) -> str | None:
    """What is wrong with a command; None where nothing is."""
    program, *arguments = words
    if program == "crossmodal-bench":
        return _of_ours(arguments)
    if program == "make":
        return _of_make(arguments)
    if program == "pip":
        extras = {
            extra for word in arguments for part in re.findall(r"\[(.+)\]", word) for extra in part.split(",")
        }
        return f"no extra {extras - EXTRAS}" if extras - EXTRAS else None
    if program == "python":
        return _of_python(arguments)
    if program == ".ci/run":
        return None
    return None if program in OF_OTHERS else f"what is {program}?"


def _of_python(arguments: Sequence[str]) -> str | None:
    if arguments[0].startswith("-"):
        return None
    script = ROOT / arguments[0]
    if not script.is_file():
        return f"{arguments[0]} is not there"
    known = script_options(script)
    given = [word.partition("=")[0] for word in arguments[1:] if word.startswith("-")]
    unknown = [word for word in given if word not in known]
    return f"{arguments[0]} has no {', '.join(unknown)}" if unknown else None


@functools.cache
def script_options(script: Path) -> frozenset[str]:
    """The options of a script, from its calls of ``add_argument``: to import it would measure something."""
    return frozenset(
        word.value
        for call in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument"
        for word in call.args
        if isinstance(word, ast.Constant) and str(word.value).startswith("-")
    )


def _of_ours(arguments: Sequence[str]) -> str | None:
    if arguments[0] in LIGHTNING:
        return _of_lightning(arguments)
    try:
        parsed = PARSER.parse_args(list(arguments))
    except SystemExit:
        return "the command line is not understood"
    if arguments[0] not in ("bench", "status"):
        return None
    try:
        check_options(_without_files_of_readers(read_options(parsed)))
    except BadInput as error:
        return str(error)
    return None


def _without_files_of_readers(options: BenchOptions) -> BenchOptions:
    """Files and packages that only readers have are not here to be looked at; all other words are."""
    given = options.dataset or ""
    if given in OF_READERS or given.endswith((".yaml", ".yml")):
        options = replace(options, dataset=None)
    methods = options.methods.split(",")
    named = [name for name in methods if not name.strip().endswith((".yaml", ".yml"))]
    if len(named) < len(methods):
        options = replace(options, methods=",".join(named) or "default")
    return replace(options, plugins=())


@functools.cache
def lightning_options(command: str) -> frozenset[str]:
    """The options of ``fit`` or ``test``, as Lightning's parser has them."""
    seen: list[Any] = []

    class Asked(_CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            seen.append(parser)
            raise BadInput("asked")

    with pytest.raises(BadInput, match="asked"):
        Asked(args=[command])
    (choices,) = (action.choices for action in seen[0]._actions if isinstance(action.choices, dict))
    # Loaded when they are asked for.
    return frozenset(choices[command]._option_string_actions)


def _of_lightning(arguments: Sequence[str]) -> str | None:
    command, *words = arguments
    known = lightning_options(command)
    # Arguments of a class that a file chooses, as those of the model, are known when it has been read.
    given = [word.partition("=")[0] for word in words if word.startswith("-")]
    unknown = [
        word
        for word in given
        if word not in known and not word.startswith(("--model.init_args.", "--data.dataset.init_args."))
    ]
    return f"{command} has no {', '.join(unknown)}" if unknown else None


def _of_make(arguments: Sequence[str]) -> str | None:
    targets = [word for word in arguments if "=" not in word]
    pairs = [word.partition("=")[::2] for word in arguments if "=" in word]
    wrong = [word for word in targets if word not in TARGETS] + [
        name for name, _ in pairs if name not in VARIABLES
    ]
    if wrong:
        return f"the Makefile has no {', '.join(wrong)}"
    unread = [
        name
        for name, _ in pairs
        if name != "PYTHON" and not any(reads(target, name) for target in targets or ["help"])
    ]
    if unread:
        return f"make {' '.join(targets)} does not read {', '.join(unread)}"
    words = [
        word
        for name, value in pairs
        if name not in ("PYTHON", "BASE", "GPU")
        for word in (f"--{name.lower().replace('_', '-')}", value)
    ]
    # Whatever target reads a variable: its value must be one of the bench's.
    return _of_ours(["bench", *words]) if words else None


def reads(target: str, variable: str) -> bool:
    """Whether what a target runs looks at a variable of the Makefile."""
    recipe = RECIPES[target]
    if variable in ("BASE", "GPU"):
        return "of_perf" in recipe
    if (target, variable) in REFUSED:
        return False
    return "bench_options" in recipe or variable in re.findall(r"[A-Z_]+", recipe)


@pytest.mark.parametrize("document", documents(), ids=lambda document: document.name)
def test_every_command_in_a_block_is_understood(
    document: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        " ".join(words): said
        for block in document.blocks(*SHELLS)
        for words in command_lines(block)
        if (said := complaint(words)) is not None
    }
    assert not wrong, capsys.readouterr().err


@pytest.mark.parametrize("document", documents(), ids=lambda document: document.name)
def test_every_command_in_a_sentence_has_a_name_and_options_that_there_are(document: Document) -> None:
    wrong = []
    for code in document.inline_code:
        program, _, rest = code.partition(" ")
        words = rest.split()
        if program == "crossmodal-bench" and words:
            command = COMMANDS.get(words[0].rstrip(","))
            options = [word.partition("=")[0] for word in words if word.startswith("--")]
            # The first word may be the program's own option, as --version.
            if command is None:
                wrong += [] if words[0].startswith("-") else [code]
            elif words[0] not in LIGHTNING:
                wrong += [code for option in options if option not in command._option_string_actions]
        elif program == "make" and words:
            names = [word.partition("=")[0] for word in words]
            known = TARGETS | VARIABLES | {"alone"}
            wrong += [code for name in names if name not in known and name not in ("...", "…")]
    assert wrong == []


@pytest.mark.parametrize("document", documents(), ids=lambda document: document.name)
def test_no_block_in_another_language_hides_a_command(document: Document) -> None:
    hidden = [
        line
        for block in document.blocks("", "text")
        for line in block.splitlines()
        # The synopsis, whose words the next test compares with the options.
        if line.split()[:1] and line.split()[0] in STARTS and not line.startswith("make bench [DATASET=")
    ]
    assert hidden == []


def test_every_option_is_described() -> None:
    (page,) = (document for document in documents() if document.name == "docs/running.md")
    (synopsis,) = page.blocks("text")
    assert re.findall(r"\[([A-Z_]+)=", synopsis) != [] and set(re.findall(r"\[([A-Z_]+)=", synopsis)) == {
        name.upper() for name in NAMES if name != "overrides"
    }
    rows = " ".join(row.split("|")[1] for row in page.prose.splitlines() if row.startswith("| `"))
    described = set(re.findall(r"`([A-Z_]+)`", rows))
    missing = [
        field.name
        for field in fields(BenchOptions)
        if field.name.upper() not in described
        and f"{field.metadata['flag']} " not in "".join(f"{code} " for code in page.inline_code)
    ]
    assert missing == []


@pytest.mark.parametrize(
    "line",
    [
        "crossmodal-bench bnech",
        "crossmodal-bench bench --datset flickr8k",
        "crossmodal-bench bench --methods acrm",
        "make bench DATSET=flickr8k",
        "make bnech",
        "make bench METHODS=acmr,cac",
        "pip install 'crossmodal-bench[everything]'",
        "make bench METHODS=./mine.yaml,cac",
        "crossmodal-bench bench --methods cca,./mine.yaml --plugins mine --preset tiny",
        "crossmodal-bench bench --dataset ./mine.yaml --methods cac",
        "make reference DATASET=flickr300k",
        "make doctor PRESET=small",
        "make reference METHODS=cca",
        "make test SEEDS=2",
        "make smoke METHODS=acrm",
        "crossmodal-bench fit --confg config.yaml",
        "crossmodal-bench test --trainer.max_epoch 3 --config config.yaml",
        "python benchmarks/nothing.py",
        "python benchmarks/ranking.py --imags 3",
        "npm install",
    ],
)
def test_what_is_misspelt_is_seen(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = command_lines(line)
    assert complaint(words) is not None
    capsys.readouterr()


@pytest.mark.parametrize(
    "line",
    [
        "crossmodal-bench fit --config config.yaml --trainer.max_epochs=3 --model.init_args.dim 4",
        "crossmodal-bench test -c config.yaml --ckpt_path last.ckpt",
        "python benchmarks/ranking.py --images=3",
        "make reference DATASET=flickr30k DATA_ROOT=data",
        "make perf BASE=v1.0",
        "make setup PYTHON=python3.12",
    ],
)
def test_what_is_right_is_understood(line: str) -> None:
    (words,) = command_lines(line)
    assert complaint(words) is None


def test_lines_comments_variables_and_pipes_are_understood() -> None:
    assert list(command_lines("make x='a\n b' y\nmake z")) == [["make", "x=a\n b", "y"], ["make", "z"]]
    block = "A=1 make bench \\\n  SEEDS=2   # why\ncp -r a b && crossmodal-bench report | head\n"
    assert list(command_lines(block)) == [
        ["make", "bench", "SEEDS=2"],
        ["cp", "-r", "a", "b"],
        ["crossmodal-bench", "report"],
        ["head"],
    ]
