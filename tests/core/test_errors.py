"""The sentence that a user reads when an input is bad."""

from __future__ import annotations

import errno
import pickle
import re

import pytest
import torch
from torch._utils import ExceptionWrapper

from crossmodal_bench.core.errors import BadInput, MissingInput, nearest, out_of_memory


@pytest.mark.parametrize(
    ("name", "choices", "expected"),
    [
        ("acrm", ["cca", "acmr", "sm"], "; did you mean 'acmr'?"),
        ("zzzzzz", ["cca", "acmr", "sm"], "; choose one of acmr, cca, sm"),
        ("zzzzzz", ["a.b.ACMR", "a.b.CCA"], "; choose one of ACMR, CCA of a.b"),
        ("zzzzzz", ["a.b.ACMR", "a.c.CCA"], "; choose one of a.b.ACMR, a.c.CCA"),
        ("zzzzzz", [], ""),
        ("zzzzzz", [f"option{i}" for i in range(41)], ""),
        ("acrm", ["acmr", *(f"option{i}" for i in range(41))], "; did you mean 'acmr'?"),
    ],
)
def test_nearest_names_the_neighbour_or_a_short_list_of_choices(
    name: str, choices: list[str], expected: str
) -> None:
    assert nearest(name, choices) == expected


def test_missing_input_is_bad_input_and_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(MissingInput("a.json is missing; put it there")))
    assert isinstance(error, BadInput)
    assert type(error) is MissingInput
    assert str(error) == "a.json is missing; put it there"


@pytest.mark.parametrize("kind", [BadInput, MissingInput])
def test_what_a_loader_process_raised_is_the_sentence_without_the_traceback(kind: type[BadInput]) -> None:
    sentence = "x/y.jpg cannot be read as an image (broken: here); replace it"
    try:
        try:
            raise OSError("broken: here")
        except OSError as cause:
            raise kind(sentence) from cause
    except BadInput:
        carried = ExceptionWrapper(where="in DataLoader worker process 0")
    assert "Traceback" in carried.exc_msg
    with pytest.raises(kind) as raised:
        carried.reraise()
    assert str(raised.value) == sentence


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), r"memory ran out \(MemoryError\); allow the process more"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), r"\[Errno 12\] Cannot allocate memory"),
        (ImportError("libtorch.so: failed to map segment from shared object"), r"\(libtorch\.so: failed"),
        (RuntimeError("can't start new thread"), "fewer JOBS at a time"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nSee"),
            "the GPU ran out",
        ),
    ],
)
def test_no_memory_is_a_sentence_whoever_says_it(error: Exception, sentence: str) -> None:
    said = out_of_memory(error)
    assert said is not None and re.search(sentence, said) and "\n" not in said


def test_torch_says_it_so() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert "memory ran out" in str(out_of_memory(raised.value))


def test_other_failures_are_not_about_memory() -> None:
    assert out_of_memory(RuntimeError("size mismatch")) is None
    assert out_of_memory(OSError(errno.ENOENT, "No such file or directory")) is None
    assert out_of_memory(ValueError()) is None
