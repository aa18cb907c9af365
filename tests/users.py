"""Two users: the one that a test runs as, and one who owns its folder of runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def as_its_owner() -> Iterator[None]:
    """What happens inside, the owner does, and files made there are readable by all."""
    umask = os.umask(0o022)
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(NOBODY)
        os.umask(umask)


FIRST, SECOND, GROUP = 54321, 54322, 54320
"""Two users and a group that nobody else has."""
