"""Findings as a listing for users, and as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TextIO

from rich.console import Console
from rich.text import Text

from crossmodal_bench.cli.doctor.findings import Finding
from crossmodal_bench.core.errors import printable

MARKS = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
    "information": ("·", "dim"),
}
PLAIN = str.maketrans({"✓": "+", "✗": "x", "·": "-", "→": ">"})
"""For a terminal that cannot display the marks."""
WIDTH = 110


def print_area(area: str, findings: Sequence[Finding], stream: TextIO | None = None) -> None:
    """Print an area's findings, each with its mark, and its fix on a separate line."""
    lines: list[tuple[Text, int]] = [(Text(area, style="bold"), 0)]
    for finding in findings:
        name, text = printable(finding.name), printable(finding.text)
        line = Text.assemble("  ", MARKS[finding.status], " ", (name, "bold"), "  ", text)
        lines.append((line, 4))
        if finding.fix:
            lines.append((Text.assemble("    → ", (printable(finding.fix), "italic")), 6))
    _print(lines, stream)


def print_end(findings: Sequence[Finding], seconds: float, stream: TextIO | None = None) -> None:
    """Print how many problems and warnings there were."""
    counts = Counter(finding.status for finding in findings)
    summary = ", ".join(
        f"{counts[name] or 'no'} {name}{'s' * (counts[name] != 1)}" for name in ("problem", "warning")
    )
    style = "bold red" if counts["problem"] else "bold"
    _print([(Text(f"{summary[0].upper()}{summary[1:]} ({seconds:.0f} s)", style=style), 0)], stream)


def _print(lines: Sequence[tuple[Text, int]], stream: TextIO | None) -> None:
    stream = stream or sys.stdout
    terminal = bool(getattr(stream, "isatty", bool)())
    console = Console(
        file=stream, width=None if terminal else WIDTH, markup=False, highlight=False, emoji=False
    )
    with console.capture() as capture:
        for line, indent in lines:
            for number, part in enumerate(line.wrap(console, console.width - indent)):
                console.print(Text(" " * indent if number else "") + part, soft_wrap=True)
    text = capture.get()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(PLAIN).encode(encoding, "replace").decode(encoding)
    stream.write(text)
    stream.flush()


def as_json(areas: Mapping[str, Sequence[Finding]]) -> str:
    """{"problems", "warnings", "findings": [{"area", "name", "status", "text", "fix"}]}, in ASCII."""
    counts = Counter(finding.status for findings in areas.values() for finding in findings)
    content = {
        "problems": counts["problem"],
        "warnings": counts["warning"],
        "findings": [
            {"area": area, **asdict(finding)} for area, findings in areas.items() for finding in findings
        ],
    }
    return json.dumps(content, indent=1)
