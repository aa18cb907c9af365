"""Reference results: the records and ranks behind the rows of the documentation, without weights.

They are in ``results/`` at the top of the repository, laid out like a RUNS folder, and are not part of an
installed package: users of a wheel have to name a checkout's folder.
"""

from __future__ import annotations

from pathlib import Path

import crossmodal_bench
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record, read_records

AUTO, OFF = "auto", "off"
"""Words that mean the checkout's own folder, if there is one, and no folder."""


def results_folder() -> Path:
    """The folder of the checkout that the package runs from; it need not exist."""
    return Path(crossmodal_bench.__file__).parent.parent / "results"


def reference_records(word: str) -> list[Record]:
    """The records of a folder, marked as references.

    Args:
        word: ``auto``, ``off``, or the folder.

    Raises:
        BadInput: the named folder does not exist or has no record that can be read.
    """
    check_reference(word)
    if word == OFF:
        return []
    folder = results_folder() if word == AUTO else Path(word)
    records = read_records(folder) if folder.is_dir() else []
    if not records and word != AUTO:
        raise _nothing_in(folder)
    return [record.model_copy(update={"reference": True}) for record in records]


def check_reference(word: str) -> None:
    """Raise BadInput if the word is a folder that does not exist: a check that takes no time."""
    if word not in (AUTO, OFF) and not Path(word).is_dir():
        raise _nothing_in(Path(word))


def _nothing_in(folder: Path) -> BadInput:
    return BadInput(
        f"{folder} has no reference results; name a folder of records, such as results/ in a checkout, or "
        f"leave them out with --reference {OFF}"
    )
