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
    if word == OFF:
        return []
    folder = results_folder() if word == AUTO else Path(word)
    records = read_records(folder) if folder.is_dir() else []
    if not records and word != AUTO:
        raise BadInput(
            f"{folder} has no reference results; name a folder of records, as a checkout's results/ is, or "
            f"leave them out with --reference {OFF}"
        )
    return [record.model_copy(update={"reference": True}) for record in records]
