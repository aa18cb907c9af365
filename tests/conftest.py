"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from crossmodal_bench.interruption import ASKING


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals are handled behind a test as before it: what runs in the tests' own process may listen."""
    before = {number: signal.getsignal(number) for number in ASKING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
