"""A process ends with its owner, whatever ends the owner and whichever thread started it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ledger.owner_watch import OwnerWatch
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="without effect there")

ROOT = Path(__file__).parents[2]
WARD = "import signal, sys, time; {}; print('up', flush=True); time.sleep(600)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
# Starts the ward and its watch on a thread that ends immediately, then waits to be killed.
OWNER = """
import subprocess, sys, threading, time
from ledger.owner_watch import OwnerWatch
def start():
    command = [sys.executable, "-c", sys.argv[1], "mark-of-the-ward"]
    ward = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    ward.stdout.readline()
    watch = OwnerWatch(ward.pid, "mark-of-the-ward", stop_s=0.2)
    print(ward.pid, flush=True)
    kept.append((ward, watch))
kept = []
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("does", ["pass", STUBBORN], ids=["willing", "ignores SIGTERM"])
def test_a_ward_ends_when_its_owner_is_killed(does: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, WARD.format(does)], cwd=ROOT, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert not gone(pid)
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + PATIENCE_S
    while not gone(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def ward() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits, under a mark. Ended in any case: a failing test must not wait for it."""
    with subprocess.Popen([sys.executable, "-c", WARD.format("pass"), "the-mark"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_a_watch_that_is_closed_ends_and_leaves_the_process_alone(ward: subprocess.Popen[bytes]) -> None:
    threads, children = set(threading.enumerate()), set(psutil.Process().children())
    watch = OwnerWatch(ward.pid, "the-mark")
    (process,) = set(psutil.Process().children()) - children
    assert not any("the-mark" in word for word in process.cmdline())
    watch.close()
    assert gone(process.pid)
    assert ward.poll() is None
    assert set(threading.enumerate()) <= threads


def test_another_process_under_the_same_pid_is_left_alone(ward: subprocess.Popen[bytes]) -> None:
    watch = OwnerWatch(ward.pid, "a mark it does not carry")
    assert watch._process.stdin is not None
    watch._process.stdin.close()  # as when the owner dies
    assert watch._process.wait(PATIENCE_S) == 0
    assert ward.poll() is None
