"""The tests of ``tests/pretended``, in a process of their own: torch forgets no device once it knows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize("kind", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_methods_run_on_a_pretended_accelerator_within_their_budgets_of_waits(kind: str) -> None:
    environment = {**os.environ, "PRETENDED_ACCELERATOR": "1"}
    words = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", kind, "-rs"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(TESTS / "pretended")],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "passed" in run.stdout or "works with torch" in run.stdout, "nothing ran, and nothing says why"
