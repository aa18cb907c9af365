"""The page's bytes: the same again, nothing from elsewhere, and a policy that fits what is in it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from crossmodal_bench.reporting.page.document import json_text, lines
from crossmodal_bench.reporting.report import build_report


def test_a_page_that_was_deleted_comes_back_with_the_same_bytes(board: Path, page_file: Path) -> None:
    before = {path: path.read_bytes() for path in (page_file, page_file.with_name("charts.json"))}
    for path in before:
        path.unlink()
    build_report(board, ["html", "charts"])
    assert {path: path.read_bytes() for path in before} == before


def test_the_policy_allows_the_pages_own_scripts_alone(page_file: Path) -> None:
    text = page_file.read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    assert len(hashes) == 6 and all(f"'sha256-{each}'" in policy for each in hashes)


def test_json_in_the_page_ends_no_script() -> None:
    text = str(json_text({"caption": "</script><!-- & \u2028"}))
    assert text == '{"caption":"\\u003c/script\\u003e\\u003c!-- \\u0026 \\u2028"}'


def test_lines_are_kept_and_escaped() -> None:
    assert str(lines("a: <b>\n  c: \x1b[31m")) == "a: &lt;b&gt;\n  c: \\x1b[31m"
