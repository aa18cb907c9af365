"""Print the lower bounds of ``pyproject.toml`` as constraints, each package at exactly its bound.

    python tools/lower_bounds.py > bounds.txt && pip install -c bounds.txt -e .

Only the package's own dependencies are constrained, not the development tools.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lower_bounds(requirements: list[str]) -> list[str]:
    """``name==bound`` for each ``name[extra]>=bound``.

    Raises:
        ValueError: a requirement has no lower bound.
    """
    bounds = []
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9][0-9a-z.]*)", requirement)
        if match is None:
            raise ValueError(f"{requirement} has no lower bound")
        bounds.append(f"{match[1]}=={match[2]}")
    return bounds


def main() -> int:
    """Print them, one per line."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    print("\n".join(lower_bounds(project["dependencies"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
