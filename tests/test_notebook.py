"""The notebook of the documentation runs, from its first cell to its last."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


SECONDS = 40
"""Of processor time that it may take, importing torch and Lightning included: a reader waits for it. It takes
15 on two cores of one's own, and took 27 where ten other processes shared them."""


def taken_by_children() -> float:
    """Seconds of processor time of the processes that this one has started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_the_notebook_runs_and_shows_what_it_promises(tmp_path: Path) -> None:
    # In a kernel of its own, which has torch and Lightning to import.
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    copy = shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(copy, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "keep it without outputs"
    before = taken_by_children()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert taken_by_children() - before < SECONDS, taken_by_children() - before
    shown = [
        output.get("text") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", ())
    ]
    text = "\n".join(shown)
    for part in (
        "rsum",
        "scene",
        "['dinosaur']",
        "torch.Size([2, 100])",
        "adjusted_p",
        "torch.Size([64, 192])",
    ):
        assert part in text, part
