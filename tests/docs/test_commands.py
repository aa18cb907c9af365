"""Every command of the documentation means something to the program, or the Makefile, that it is given to."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from documents import ROOT, SHELLS, Document, documents

from crossmodal_bench.bench.options import NAMES, read_options
from crossmodal_bench.bench.words import check_words
from crossmodal_bench.cli.main import _parser
from crossmodal_bench.core.errors import BadInput

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
        there = arguments[0].startswith("-") or (ROOT / arguments[0]).is_file()
        return None if there else f"{arguments[0]} is not there"
    if program == ".ci/run":
        return None
    return None if program in OF_OTHERS else f"what is {program}?"


def _of_ours(arguments: Sequence[str]) -> str | None:
    if arguments[0] in LIGHTNING:
        return None
    try:
        parsed = PARSER.parse_args(list(arguments))
    except SystemExit:
        return "the command line is not understood"
    if arguments[0] not in ("bench", "status"):
        return None
    try:
        options = read_options(parsed)
        if options.dataset in OF_READERS:
            options = replace(options, dataset=None)
        # A reader's own files are not here to be looked at.
        if not options.plugins and not options.methods.endswith(".yaml"):
            check_words(options)
    except BadInput as error:
        return str(error)
    return None


def _of_make(arguments: Sequence[str]) -> str | None:
    targets = [word for word in arguments if "=" not in word]
    pairs = [word.partition("=")[::2] for word in arguments if "=" in word]
    wrong = [word for word in targets if word not in TARGETS] + [
        name for name, _ in pairs if name not in VARIABLES
    ]
    if wrong:
        return f"the Makefile has no {', '.join(wrong)}"
    if targets != ["bench"]:
        return None
    words = [word for name, value in pairs for word in (f"--{name.lower().replace('_', '-')}", value)]
    return _of_ours(["bench", *words])


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


def test_a_block_without_a_language_hides_no_command() -> None:
    hidden = [
        (document.name, line)
        for document in documents()
        for block in document.blocks("")
        for line in block.splitlines()
        if line.startswith(("make ", "crossmodal-bench ", "python "))
    ]
    assert hidden == []


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
        "python benchmarks/nothing.py",
        "npm install",
    ],
)
def test_what_is_misspelt_is_seen(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = command_lines(line)
    assert complaint(words) is not None
    capsys.readouterr()


def test_lines_comments_variables_and_pipes_are_understood() -> None:
    assert list(command_lines("make x='a\n b' y\nmake z")) == [["make", "x=a\n b", "y"], ["make", "z"]]
    block = "A=1 make bench \\\n  SEEDS=2   # why\ncp -r a b && crossmodal-bench report | head\n"
    assert list(command_lines(block)) == [
        ["make", "bench", "SEEDS=2"],
        ["cp", "-r", "a", "b"],
        ["crossmodal-bench", "report"],
        ["head"],
    ]
