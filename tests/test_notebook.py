"""The notebook of the documentation runs, from its first cell to its last."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_promises(tmp_path: Path) -> None:
    # In a kernel of its own, which has torch and Lightning to import.
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    copy = shutil.copy(NOTEBOOK, tmp_path)
    notebook = nbformat.read(copy, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "keep it without outputs"
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
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
