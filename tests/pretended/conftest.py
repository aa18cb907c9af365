"""A device cannot be forgotten again: what is here runs in a process of its own (tests/test_pretended.py)."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("PRETENDED_ACCELERATOR") else ["test_*.py"]
