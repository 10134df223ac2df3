"""The Faust app in a process of its own (`tests/support/fold_program.py`): signals, failures, kills."""

from __future__ import annotations

import itertools
import json
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.rocks_store import RocksStore
from ledger.topics import Topics, TopicSpec
from projections.fail_stop import EXIT_FAILED
from tests.support.counting_fold import PARTITIONS, TOPICS, Counter, write
from tests.support.patience import PATIENCE_S
from tests.support.pausing import pause, resume

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "tests.support.fold_program"


class Process:
    """The running program. `first_line` is the first line it printed: its port."""

    def __init__(self, scenario: str, folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", PROGRAM, json.dumps({"scenario": scenario, "folder": str(folder), **settings})]
        self.stderr = folder / "stderr"
        with self.stderr.open("ab") as stderr:
            self.popen = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT)
        assert self.popen.stdout is not None
        self.first_line = self.popen.stdout.readline()
        self.port = int(self.first_line) if self.first_line.strip().isdigit() else 0

    def get(self, path: str = "/") -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def end(self, number: int | None = None, timeout_s: float = PATIENCE_S) -> tuple[int, float]:
        """Send signal `number`. Returns the exit code and the seconds until the end."""
        began = time.monotonic()
        if number is not None:
            self.popen.send_signal(number)
        return self.popen.wait(timeout_s), time.monotonic() - began


@contextmanager
def process(scenario: str, folder: Path, **settings: Any) -> Iterator[Process]:
    child = Process(scenario, folder, **settings)
    try:
        yield child
    finally:
        child.popen.kill()
        child.popen.wait()
        assert child.popen.stdout is not None
        child.popen.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_open_streams_do_not_hold_it(tmp_path: Path, number: int) -> None:
    with process("plain", tmp_path) as child, socket.create_connection(("127.0.0.1", child.port)) as stream:
        stream.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in stream.recv(1000)
        code, took_s = child.end(number)
        assert code == 0
        assert took_s < 50  # ten times the usual; two seconds are uvicorn's patience with open requests
        assert child.popen.stdout is not None
        assert child.popen.stdout.read() == "", "Faust printed something"


def test_a_request_that_waits_for_the_fold_gets_its_answer_during_a_stop(tmp_path: Path) -> None:
    with process("plain", tmp_path) as child, socket.create_connection(("127.0.0.1", child.port)) as request:
        request.sendall(b"GET /write-later HTTP/1.1\r\nHost: x\r\n\r\n")
        request.settimeout(PATIENCE_S)
        said = request.recv(1000)
        assert b"200 OK" in said  # it has begun
        child.popen.send_signal(signal.SIGTERM)
        while chunk := request.recv(1000):
            said += chunk
        assert b'"folded": true' in said
        assert child.end()[0] == 0


def test_faust_opens_no_connection_and_creates_no_topic(tmp_path: Path) -> None:
    with process("plain", tmp_path) as child:
        connections = psutil.Process(child.popen.pid).net_connections()
        assert {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN} == {child.port}
        assert [c for c in connections if c.status not in (psutil.CONN_LISTEN, psutil.CONN_ESTABLISHED)] == []
        assert child.get("/topics") == sorted(TOPICS)


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("fold-raises", "ValueError('five')"),
        ("reader-dies", "Hole("),
        ("loop-stalls", "event loop is stalled"),
        ("fold-raises-and-stop-hangs", "ValueError('five')"),
    ],
)
def test_a_failure_ends_the_process_with_a_code_of_its_own(tmp_path: Path, scenario: str, says: str) -> None:
    with process(scenario, tmp_path) as child:
        assert child.end(timeout_s=PATIENCE_S)[0] == EXIT_FAILED
        assert says in child.stderr.read_text()


def test_a_port_in_use_ends_it_non_zero(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, process("plain", tmp_path, port=taken.getsockname()[1]) as child:
        assert child.first_line == ""
        assert child.end()[0] == EXIT_FAILED
        assert "address already in use" in child.stderr.read_text()


def test_a_process_that_was_stopped_and_continued_resumes(tmp_path: Path) -> None:
    with process("plain", tmp_path, stall_limit_s=4.0, still_limit_s=4.0) as child:
        pause(child.popen.pid)
        time.sleep(6)
        resume(child.popen.pid)
        time.sleep(2)
        assert child.get()["folding"]
        assert child.end(signal.SIGTERM)[0] == 0


@pytest.mark.kafka
def test_kills_and_random_failures_fold_every_committed_record_once(tmp_path: Path, kafka: KafkaSettings, topics: Topics) -> None:
    log, total = KafkaLog(kafka), 20_000
    names = [topics.events, topics.refusals]
    log.ensure_topics([TopicSpec(name, PARTITIONS) for name in names], PATIENCE_S)
    settings = {"bootstrap": kafka.bootstrap_servers, "topics": names}
    numbers = iter(range(total))
    codes: list[int] = []
    seed = random.Random(7)

    def produce(count: int) -> None:
        write(log, list(itertools.islice(numbers, count)), names, per_transaction=50)

    for life in range(9):
        if life % 2:  # at least three chunks to fold, so that it reaches the one at which it fails
            produce(3_000)
            with process("kafka", tmp_path, fails_at=seed.randint(1, 3), **settings) as child:
                codes.append(child.end()[0])
        else:
            with process("kafka", tmp_path, fails_at=None, **settings) as child:
                produce(1_000)  # while it folds
                time.sleep(seed.uniform(0.0, 0.5))
                codes.append(child.end(signal.SIGKILL)[0])
    produce(total)  # the remaining ones
    assert codes == [-signal.SIGKILL, EXIT_FAILED] * 4 + [-signal.SIGKILL]
    with process("kafka", tmp_path, **settings) as child:
        deadline = time.monotonic() + PATIENCE_S
        while child.get()["behind"] != 0:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert child.end(signal.SIGTERM)[0] == 0
    store = RocksStore(tmp_path / "rocks")
    counts = Counter(store, names).counts()
    store.close()
    assert counts == {b"%d" % n: 1 for n in range(total)}
