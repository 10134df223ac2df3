"""The children of an `up` that was killed are ended by the next one, and nobody else's are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from api.processes import child
from api.processes.child import Child


@pytest.fixture
def living() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose command line is like that of a child of `up`."""
    program = "import sys; print(flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "api.cli", "commands"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def pid_file(data: Path, pid: int) -> Path:
    file = data / "run" / "commands.pid"
    file.parent.mkdir()
    file.write_text(f"{pid}\n")
    return file


def test_a_child_that_outlived_its_up_is_ended(tmp_path: Path, living: subprocess.Popen[bytes]) -> None:
    file = pid_file(tmp_path, living.pid)
    Child("commands", ["commands"], {}, tmp_path).end_leftover()
    assert not psutil.pid_exists(living.pid)
    assert not file.exists()


def test_a_process_of_another_ledger_that_got_the_pid_later_is_left_alone(
    tmp_path: Path, living: subprocess.Popen[bytes]
) -> None:
    """As after a reboot: pids restart at 1, and the file is from before."""
    file = pid_file(tmp_path, living.pid)
    os.utime(file, (time.time() - 3600, time.time() - 3600))
    Child("commands", ["commands"], {}, tmp_path).end_leftover()
    assert living.poll() is None
    assert not file.exists()


def test_a_child_that_ends_before_it_is_ended_is_no_error(
    tmp_path: Path, living: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, leftover = pid_file(tmp_path, living.pid), psutil.Process(living.pid)
    monkeypatch.setattr(child, "_living", lambda *_: leftover)
    living.kill()
    living.wait()
    Child("commands", ["commands"], {}, tmp_path).end_leftover()
    assert not file.exists()
