"""What is left of the folders of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmodal_bench.jobs.portable_paths import without_folders


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/mnt/data/flickr8k/images", "data/flickr8k/images"),
        ("/mnt/runs/coco/acmr/0", "runs/coco/acmr/0"),
        ("/opt/weights/vgg.pt", "vgg.pt"),
        ("~/weights/vgg.pt", "vgg.pt"),
        ("C:\\Users\\me\\w.pt", "w.pt"),
        ("a parent at /home/me/x/record.json, and --to=/srv/y", "a parent at record.json, and --to=y"),
        ("--set 'weights=/home/me/my files/w.pt'", "--set 'weights=my files/w.pt'"),
        ("images/s and 1/2, and/or W&B / none", "images/s and 1/2, and/or W&B / none"),
        ("https://example.org/a/b", "https://example.org/a/b"),
    ],
)
def test_folders_become_names(text: str, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    content = without_folders({"deep": [{"text": text}], "n": 1}, "/mnt/data", Path("/mnt/runs"))
    assert content == {"deep": [{"text": left}], "n": 1}
