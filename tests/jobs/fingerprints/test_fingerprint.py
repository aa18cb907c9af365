"""In what two fingerprints differ, in words."""

from __future__ import annotations

from typing import Any

import pytest

from crossmodal_bench.jobs.fingerprints.fingerprint import Fingerprint

CONTENT: dict[str, Any] = {
    "scheme": 1,
    "modules": {"pkg.a": "1", "pkg.b": "2", "pkg.c": "3", "pkg.d": "4"},
    "files": {"pkg/list.txt": "5"},
    "libraries": {"torch": "2.9", "numpy": "2.4"},
    "settings": {"model.class_path": "6", "trainer.max_epochs": "7"},
    "protocols": {"flickr30k-1k": "8"},
}


def changed(**changes: dict[str, str]) -> Fingerprint:
    """``CONTENT`` with changed entries; one that is "" is gone."""
    content = dict(CONTENT)
    for part, entries in changes.items():
        both = {**content[part], **entries}
        content[part] = {name: digest for name, digest in both.items() if digest}
    return Fingerprint.model_validate(content)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"modules": {"pkg.b": "x"}}, "sources", "pkg.b has changed"),
        ({"modules": {"pkg.a": "x", "pkg.b": "x"}}, "sources", "pkg.a and pkg.b have changed"),
        (
            {"modules": dict.fromkeys(CONTENT["modules"], "x")},
            "sources",
            "pkg.a, pkg.b, pkg.c and 1 more have changed",
        ),
        ({"modules": {"pkg.e": "x"}}, "sources", "pkg.e is new"),
        ({"modules": {"pkg.a": "", "pkg.b": ""}}, "sources", "pkg.a and pkg.b are gone"),
        ({"files": {"pkg/list.txt": "x"}}, "sources", "pkg/list.txt has changed"),
        ({"libraries": {"torch": "2.10"}}, "libraries", "torch 2.9 → 2.10"),
        ({"libraries": {"scipy": "1.17"}}, "libraries", "scipy not used → 1.17"),
        (
            {"settings": {"model.x": "9", "trainer.max_epochs": ""}},
            "settings",
            "settings differ: model.x and trainer.max_epochs",
        ),
        ({"protocols": {"flickr30k-1k": "x"}}, "protocols", "protocol flickr30k-1k has changed"),
    ],
)
def test_a_difference_is_one_phrase(changes: dict[str, Any], kind: str, text: str) -> None:
    before, today = changed(), changed(**changes)
    (difference,) = before.differences(today)
    assert (difference.kind, difference.text) == (kind, text)
    assert before.digest != today.digest and len(today.digest) == 16


def test_several_differences_are_several_clauses_and_none_is_none() -> None:
    today = changed(modules={"pkg.a": "x", "pkg.b": ""}, libraries={"torch": "3.0"})
    texts = [difference.text for difference in changed().differences(today)]
    assert texts == ["pkg.a has changed", "pkg.b is gone", "torch 2.9 → 3.0"]
    assert changed().differences(changed()) == [] and changed().digest == changed().digest


def test_a_protocol_more_or_less_makes_nothing_stale() -> None:
    # The same test split meets another protocol, under which the job has no numbers yet.
    assert changed().differences(changed(protocols={"coco-5k": "9"})) == []


def test_digests_of_two_schemes_are_not_compared() -> None:
    (difference,) = changed().differences(Fingerprint.model_validate({**CONTENT, "scheme": 2}))
    assert difference.kind == "sources" and "cannot be compared" in difference.text
