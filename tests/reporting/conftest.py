from __future__ import annotations

from collections.abc import Callable

import pytest
from answered import Answered

from crossmodal_bench.jobs.record import Record


@pytest.fixture
def answered(make_record: Callable[..., Record]) -> Answered:
    return Answered(make_record)
