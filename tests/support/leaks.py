"""A test that leaves something open fails itself, not the test that runs when the garbage is collected.

Sockets, files, event loops and pipes warn when they are collected unclosed, and `filterwarnings` makes an error of that. So
garbage is collected at the end of each test that has more files open, or more threads or children, than before it, and at
the end of each module. Collecting after every test would cost a fifth of the quick ones.

Children that still run and threads that delay the program's exit are leaks, whether or not anything still refers to them.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

PATIENCE_S = 60.0  # for threads that are ending
# They belong to the default executor of a loop that may live longer than the test: started as needed, joined with the loop.
POOLED = ("asyncio_", "ThreadPoolExecutor")
# Fixtures whose processes outlive the test and are ended by a fixture of the session or module.
# End to end, in test_embedded_broker, on a cluster, in a browser.
KEEPERS = frozenset({"up", "the_up", "broker", "stopped_data", "cluster", "chromium"})


def open_files() -> set[tuple[str, str]]:
    """Open file descriptors with what they are, such as `socket:[4711]`; empty where that cannot be known.

    Not their number: a test that leaves one open may close another one.
    """
    try:
        fds = os.listdir("/proc/self/fd")  # noqa: PTH208  # the quickest; it is called twice a test
    except FileNotFoundError:
        return set()
    return {(fd, target) for fd in fds if (target := _target(fd))}


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    except FileNotFoundError:  # it was that of the listing
        return ""


def children() -> set[int]:
    """Running child processes, without the embedded broker that the whole run shares."""
    try:
        running = {int(pid) for task in os.listdir("/proc/self/task") for pid in _children_of(task)}  # noqa: PTH208
    except FileNotFoundError:
        running = {child.pid for child in psutil.Process().children()}
    return running


def _children_of(task: str) -> list[str]:
    try:
        with open(f"/proc/self/task/{task}/children") as file:  # noqa: PTH123
            return file.read().split()
    except FileNotFoundError:  # the thread has ended
        return []


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if not t.daemon and not t.name.startswith(POOLED)}


def ends_by_itself(pid: int) -> bool:
    """Whether it is the broker's training, in the background of a first start, or a process that multiprocessing ends itself."""
    try:
        command = " ".join(psutil.Process(pid).cmdline())
        return "ledger.broker.aot_training" in command or "multiprocessing.resource_tracker" in command
    except psutil.Error:
        return True


def described(pid: int) -> str:
    try:
        return f"{pid}: {' '.join(psutil.Process(pid).cmdline())[:300]}"
    except psutil.Error:
        return f"{pid}: ended"


@pytest.fixture(autouse=True, scope="module")
def _nothing_left_by_the_module() -> Iterator[None]:
    """The first fixture of a module, so the last to end, after the module's other fixtures."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def _nothing_left_by_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The first of a test's fixtures, so the last to end. What fixtures of a wider scope opened counts as open before."""
    files, processes, running = open_files(), children(), threads()
    yield
    deadline = time.monotonic() + PATIENCE_S
    while (left := {t for t in threads() - running if t.is_alive()}) and time.monotonic() < deadline:
        time.sleep(0.002)
    new = set() if KEEPERS & set(request.fixturenames) else children() - processes
    if open_files() - files or new or left or excused(request):
        gc.collect()
    new = {pid for pid in new - shared_processes(request.config) if not ends_by_itself(pid)}
    assert not new, f"processes were left running: {[described(pid) for pid in new]}"
    assert not left, f"threads were left running: {left}"


def excused(request: pytest.FixtureRequest) -> bool:
    """Whether the test expects a resource warning: then garbage is collected while that holds, not in the next test."""
    marks = request.node.iter_markers("filterwarnings")
    return any("ResourceWarning" in rule for mark in marks for rule in mark.args)


def shared_processes(config: pytest.Config) -> set[int]:
    """The broker's processes, which this test may have been the first to need."""
    shared = config.pluginmanager.get_plugin("tests.support.workers")
    return set() if shared is None else shared.broker_processes(config)
