"""The sentence that pydantic's complaint becomes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from crossmodal_bench.core.errors import LONGEST, BadInput
from crossmodal_bench.core.validation import (
    FolderName,
    Items,
    Model,
    WholeNumber,
    complaint,
    fault,
    is_folder_name,
    validated,
)


class Row(Model):
    method: FolderName
    seed: WholeNumber = 0
    rate: float = 0.0
    kind: Literal["a", "b"] = "a"
    flag: bool = False


class File(Model):
    rows: Annotated[Items[Row], Field(min_length=1)]
    title: str = ""
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)


ROW = {"method": "scan"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (3, "its content is 3; it must be keys and values"),
        ({}, "field 'rows' is missing; add it"),
        ({"rows": []}, "field 'rows' lists 0; it must list at least 1"),
        ({"rows": {}}, "field 'rows' is {}; it must be a list"),
        ({"rows": [ROW, 3]}, "field 'rows[1]' is 3; it must be keys and values"),
        ({"rows": [{}]}, "field 'rows[0].method' is missing; add it"),
        ({"rows": [ROW], "titel": 1}, "field 'titel' is unknown; did you mean 'title'?"),
        (
            {"rows": [{"methud": "scan"}]},
            "field 'rows[0].methud' is unknown; did you mean 'method'?",
        ),
        ({"rows": [ROW], "title": 1}, "field 'title' is 1; it must be text"),
        (
            {"rows": [{"method": "a/b"}]},
            "'rows[0].method' (method 'a/b') is 'a/b', which cannot name a folder",
        ),
        ({"rows": [{**ROW, "seed": True}]}, "seed' (method 'scan') is True; it must be a whole number"),
        ({"rows": [{**ROW, "seed": 1.0}]}, "seed' (method 'scan') is 1.0; it must be a whole number"),
        ({"rows": [{**ROW, "seed": 2**63}]}, f"is {2**63}; it must be less than {2**63}"),
        ({"rows": [{**ROW, "rate": "1"}]}, "rate' (method 'scan') is '1'; it must be a number"),
        ({"rows": [{**ROW, "rate": float("nan")}]}, "is nan; it must be a finite number"),
        ({"rows": [{**ROW, "kind": "c"}]}, "kind' (method 'scan') is 'c'; it must be 'a' or 'b'"),
        ({"rows": [{**ROW, "flag": 1}]}, "flag' (method 'scan') is 1; it must be true or false"),
        ({"rows": [ROW], "settings": {"x": 1}}, "field 'settings.x' is 1; it must be keys and values"),
    ],
)
def test_a_fault_is_a_sentence_with_file_field_and_fix(content: Any, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        validated(File, content, "some/file.yaml")
    said = str(caught.value)
    assert said.startswith("some/file.yaml: ") and sentence in said
    assert "\n" not in said and "pydantic" not in said


def test_lists_of_a_file_become_tuples_and_nothing_else_is_converted() -> None:
    read = validated(File, {"rows": [{**ROW, "rate": 1}]}, "file")
    assert read.rows == (Row(method="scan", rate=1.0),)
    with pytest.raises(ValidationError, match="frozen"):
        read.title = "other"


def test_a_huge_value_and_a_huge_name_make_no_huge_sentence() -> None:
    for content in ({"rows": "x" * 10**6}, {"rows": [ROW], "y" * 10**6: 1}, {"rows": [ROW] * 5000 + [3]}):
        with pytest.raises(BadInput) as caught:
            validated(File, content, "file")
        assert len(str(caught.value)) <= LONGEST + 3


def test_of_a_missing_field_the_caller_says_what_to_do() -> None:
    with pytest.raises(ValidationError) as caught:
        File.model_validate({})
    assert complaint(caught.value, {}) == "field 'rows' is missing"
    assert complaint(caught.value, {}, missing="is gone") == "field 'rows' is gone"


def test_a_validators_own_words_may_hold_braces() -> None:
    assert "is {x}" in str(fault("is {x}", "a"))


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *((name, True) for name in ("acmr", "a+b", "synthetic-20", "a b", "ä")),
        *((name, False) for name in ("", ".", "..", "a/b", "a\\b", "/a", "C:", "a*", "a?", "[a]", "a\0b")),
    ],
)
def test_a_name_is_one_folders_and_no_pattern(name: str, is_one: bool) -> None:
    assert is_folder_name(name) is is_one
