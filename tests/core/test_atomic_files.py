from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from crossmodal_bench.core.atomic_files import remove_leftovers, replace_file

KILLED = """
import os, sys
from pathlib import Path
from crossmodal_bench.core.atomic_files import replace_file

def write(stream):
    stream.write(b"half")
    stream.flush()
    os.kill(os.getpid(), 9)

replace_file(Path(sys.argv[1]), write)
"""


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    replace_file(path, lambda stream: stream.write(b"one"))
    replace_file(path, lambda stream: stream.write(b"two"), keep=tmp_path / "before", durable=False)
    assert path.read_bytes() == b"two" and (tmp_path / "before").read_bytes() == b"one"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["before", "x.json"]


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        replace_file(tmp_path / "x", lambda stream: stream.write(b"x"))
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_a_refused_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def refuse(stream: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_file(path, refuse, keep=tmp_path / "before")
    assert [one.name for one in tmp_path.iterdir()] == ["x"] and path.read_text() == "old"


def test_a_killed_write_leaves_what_was_there_and_its_rest_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    (tmp_path / ".hidden").write_text("not ours")
    finished = subprocess.run([sys.executable, "-c", KILLED, str(path)])
    assert finished.returncode == -9
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 3
    remove_leftovers(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".hidden", "x.json"]
