"""Reference results: the records and ranks behind the rows of the documentation, without weights.

They lie in ``results/`` at the top of the repository, in the layout of a folder of runs, and are no part of
an installed package: a wheel's user names a checkout's folder.
"""

from __future__ import annotations

from pathlib import Path

import crossmodal_bench
from crossmodal_bench.core.errors import BadInput
from crossmodal_bench.jobs.record import Record, read_records

AUTO, OFF = "auto", "off"
"""Words for the checkout's own folder, as far as there is one, and for none."""


def results_folder() -> Path:
    """The folder of the checkout that the package runs from; it need not exist."""
    return Path(crossmodal_bench.__file__).parent.parent / "results"


def reference_records(word: str) -> list[Record]:
    """The records of a folder, marked as references.

    Args:
        word: ``auto``, ``off``, or the folder.

    Raises:
        BadInput: a folder that was named is not there or has no record, or has none that can be read.
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
    """Raise BadInput where the word is a folder that is not there, which takes no time to find out."""
    if word not in (AUTO, OFF) and not Path(word).is_dir():
        raise _nothing_in(Path(word))


def _nothing_in(folder: Path) -> BadInput:
    return BadInput(
        f"{folder} has no reference results; name a folder of records, as a checkout's results/ is, or "
        f"leave them out with --reference {OFF}"
    )
