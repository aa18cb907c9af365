from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs import reference
from crossmodal_bench.jobs.record import Record
from crossmodal_bench.jobs.reference import check_reference, reference_records, results_folder


def test_a_folder_auto_and_off(
    make_record: Callable[..., Record], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record()
    (marked,) = reference_records(str(runs))
    assert marked.reference and not record.reference and marked.metrics == record.metrics
    assert all(part.reference for part in marked.by_protocol())
    assert reference_records("off") == []
    monkeypatch.setattr(reference, "results_folder", lambda: runs / "not there")
    assert reference_records("auto") == []
    for word in (str(runs / "wikipedia"), "of"):
        with pytest.raises(BadInput, match="has no reference results; name a folder of records"):
            reference_records(word)
    with pytest.raises(BadInput, match="of has no reference results"):
        check_reference("of")
    for word in ("auto", "off", str(runs)):
        check_reference(word)


def test_the_folder_lies_beside_the_package() -> None:
    assert results_folder().name == "results" and (results_folder().parent / "pyproject.toml").is_file()
