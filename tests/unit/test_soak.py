"""The soak command: what it counts, what it keeps, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests import soak
from tests.support.patience import PATIENCE_S

FAILS_EVERY_OTHER_TIME = """
import pathlib, pytest

@pytest.fixture
def fresh():
    count = pathlib.Path(__file__).with_name("count")
    before = int(count.read_text()) if count.exists() else 0
    count.write_text(str(before + 1))
    return before

def test_always(): pass

def test_sometimes(fresh): assert fresh % 2 == 0
"""


def test_it_says_how_often_each_test_failed_and_keeps_only_the_runs_that_failed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FAILS_EVERY_OTHER_TIME)
    kept = tmp_path / "kept"
    command = [sys.executable, "-m", "tests.soak", "--runs", "2", "--json", "--folder", str(kept)]
    command += ["--", "-n", "0", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=soak.ROOT, timeout=PATIENCE_S, check=False)
    assert done.returncode == 1, done.stderr
    result = json.loads(done.stdout)
    assert (result["runs"], result["passed"], result["failures"]) == (2, 1, {"test_it::test_sometimes": 1})
    assert [(run["tests"], run["exit_code"]) for run in result["each"]] == [(2, 0), (2, 1)]
    assert sorted(path.name for path in kept.iterdir()) == ["run-2"]
    assert "assert 1 % 2 == 0" in (kept / "run-2" / "output.txt").read_text().replace("(", "").replace(")", "")
    assert str(kept) in done.stderr
    assert [line.split(":")[0] for line in done.stderr.splitlines()[:2]] == ["run 1 of 2", "run 2 of 2"]


def test_failures_are_counted_over_all_runs_most_often_first() -> None:
    runs = [soak.Run(1, 3.0, 1, 9, ["a"]), soak.Run(2, 1.0, 1, 9, ["b", "a"]), soak.Run(3, 2.0, 0, 9)]
    result = soak.summary(runs)
    assert (result["runs"], result["passed"], result["median_s"], result["longest_s"]) == (3, 1, 2.0, 3.0)
    assert list(result["failures"].items()) == [("a", 2), ("b", 1)]  # type: ignore[attr-defined]


def test_a_run_without_a_report_is_a_failed_run(tmp_path: Path) -> None:
    run = soak.run_once(1, tmp_path / "run-1", ["--no-such-option"])
    assert not run.passed
    assert run.failed == ["the run itself: exit code 4, FileNotFoundError"]


def test_ctrl_c_ends_the_busy_loops_and_reports_the_runs_before_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import time\ndef test_long(): time.sleep(600)\n")
    command = [sys.executable, "-m", "tests.soak", "--runs", "2", "--busy", "2", "--folder", str(tmp_path / "kept")]
    command += ["--", "-n", "0", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=soak.ROOT, text=True, process_group=0)
    me, deadline = psutil.Process(process.pid), time.monotonic() + PATIENCE_S
    while len(started := me.children(recursive=True)) < 3:
        assert time.monotonic() < deadline, started
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process that it runs
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "0 of 0 runs passed" in out
    assert "interrupted" in err
    assert [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_busy_loop_ends_with_the_process_that_started_it() -> None:
    start = (
        "import os, subprocess, sys\n"
        "loop = subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())], stdout=subprocess.DEVNULL)\n"
        "print(loop.pid)\n"
    )
    started = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", start, soak.BUSY_LOOP], stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True
    )
    pid, deadline = int(started.stdout), time.monotonic() + PATIENCE_S
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)
