"""A test that leaves something open fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.support.patience import PATIENCE_S

TESTS = """
import asyncio, gc, socket, subprocess, sys, threading, time
import pytest

ends = threading.Event()

class Cycle:
    def __init__(self, held):
        self.me, self.held = self, held

@pytest.fixture
def forgetful():
    yield
    Cycle(socket.socket())

def test_leaks_a_socket(): Cycle(socket.socket())
def test_good_1(): pass
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_good_because_it_is_excused():
    held = socket.socket()
    Cycle(held.dup())
    held.close()
def test_good_after_it(): gc.collect()
older = socket.socket()
def test_leaks_a_socket_and_closes_an_older_one():
    Cycle(socket.socket())
    older.close()
def test_good_after_that(): gc.collect()
def test_leaks_a_file(tmp_path): Cycle((tmp_path / "f").open("w"))
def test_good_2(): gc.collect()
def test_leaks_a_loop(): Cycle(asyncio.new_event_loop())
def test_good_3(): socket.socket().close()
def test_leaks_a_socket_in_a_fixture(forgetful): pass
def test_good_4(): asyncio.run(asyncio.sleep(0))
def test_leaks_a_process():
    global child
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
def test_good_5():
    child.kill()
    child.wait()
def test_leaks_a_thread(): threading.Thread(target=ends.wait, name="left").start()
def test_good_6(): ends.set()
def test_good_7(): subprocess.run([sys.executable, "-c", ""], check=True)
"""
MODULE = """
import socket, pytest
from test_a import Cycle

@pytest.fixture(scope="module")
def forgetful():
    yield
    Cycle(socket.socket())

def test_leaks_in_a_fixture_of_the_module(forgetful): pass
"""
LAST = "import gc\ndef test_good_8(): gc.collect()\n"


def test_each_leak_fails_the_test_that_leaks_and_no_other(tmp_path: Path) -> None:
    for name, text in (("a", TESTS), ("b", MODULE), ("c", LAST)):
        (tmp_path / f"test_{name}.py").write_text(text)
    report = tmp_path / "junit.xml"
    (tmp_path / "conftest.py").write_text("from tests.support import leaks\nleaks.PATIENCE_S = 0.2\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:schemathesis",
        "-p",
        "tests.support.leaks",
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "-c",
        os.devnull,
    ]
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", f"--junitxml={report}", str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [c.get("name") for c in cases if c.find("failure") is not None or c.find("error") is not None]
    names = [c.get("name", "") for c in cases]
    assert bad == [name for name in names if name.startswith("test_leaks")], done.stdout
    assert len(set(names)) == 19
    for word in ("unclosed <socket", "unclosed file", "unclosed event loop", "time.sleep(600)", "Thread(left"):
        assert word in done.stdout
