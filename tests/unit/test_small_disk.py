"""The small disk: its process alone meets its end, from outside it is filled and emptied, and it ends with its process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import until
from tests.support.small_disk import empty, fill, is_possible, on_small_disk, used_mb

pytestmark = pytest.mark.skipif(not is_possible(), reason="this machine allows no mount namespaces")

# Writes a line whenever it reads one, and says whether that worked.
WRITER = """
import sys
for line in sys.stdin:
    try:
        with open(sys.argv[1] + "/file", "ab") as file:
            file.write(line.encode() * 1000)
        print("written", flush=True)
    except OSError as exc:
        print(exc.strerror, flush=True)
"""


def test_its_process_alone_meets_a_disk_that_is_full_and_then_is_not(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("seen by others")
    command = [*on_small_disk(tmp_path, 4), sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def write() -> str:
            process.stdin.write("a line\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return process.stdout.readline().strip()  # type: ignore[union-attr]

        try:
            assert write() == "written"
            used = used_mb(process.pid, tmp_path)
            assert used is not None
            assert 0 < used < 1
            assert fill(process.pid, tmp_path)
            assert write() == "No space left on device"
            empty(process.pid, tmp_path)
            assert write() == "written"
            assert os.listdir(tmp_path) == ["outside"], "nobody else sees the disk"  # noqa: PTH208
        finally:
            process.kill()
    until(lambda: used_mb(process.pid, tmp_path) is None)
    assert not fill(process.pid, tmp_path)
    assert os.listdir(tmp_path) == ["outside"]  # noqa: PTH208


def test_a_process_on_the_usual_disk_has_no_small_one(tmp_path: Path) -> None:
    assert used_mb(os.getpid(), tmp_path) is None
