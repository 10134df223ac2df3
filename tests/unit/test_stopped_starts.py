"""Ctrl-C and SIGTERM end `up`, `broker` and `demo` while Kafka is still being downloaded, or another process downloads it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from ledger.broker.jars import KAFKA_VERSION, JarLock, ensure_jars
from ledger.errors import BrokerError
from ledger.ports import free_port
from tests.support.patience import PATIENCE_S, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

ROOT = Path(__file__).parents[2]
VERBS = [("up", 0), ("broker", 0), ("demo", 130)]


@dataclass
class Trickle:
    """A Maven repository whose jars arrive byte by byte, and never completely."""

    url: str = ""
    began: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def trickle() -> Iterator[Trickle]:
    repository = Trickle()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            while not repository.ending.wait(0.05):
                try:
                    self.wfile.write(b"x")
                except OSError:  # the other side has ended
                    return
                repository.began.set()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = False  # so that leaving this block waits for them
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        repository.url = f"http://127.0.0.1:{http.server_port}"
        yield repository
        repository.ending.set()
        http.shutdown()
        thread.join()


@contextmanager
def begun(verb: str, folder: Path, repository: str) -> Iterator[subprocess.Popen[str]]:
    """The verb, in `folder`, with an empty cache of jars there that `repository` fills."""
    config = folder / "jgo.conf"
    config.write_text(f"[repositories]\ncentral = {repository}\n", "utf-8")
    arguments = {
        "up": ["--data-dir", str(folder / "data"), "--port", str(free_port())],
        "broker": ["--data-dir", str(folder / "data"), "--port", "0"],
        "demo": [],
    }
    own = {
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folder),
        "ORDER_LEDGER_CACHE": str(folder / "cache"),
        "JGO_CONFIG_FILE": str(config),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli", verb, *arguments[verb]],
        cwd=folder,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def check_ended(process: subprocess.Popen[str], code: int, folder: Path) -> None:
    """It ends by itself, without a stack trace, and leaves no process, and no folder of a demo."""
    shown, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, shown + said
    assert "Traceback" not in said
    assert "error" not in said
    lines = {other.pid: other.info["cmdline"] or () for other in psutil.process_iter(["cmdline"])}
    assert [line for line in lines.values() if any(str(folder) in part for part in line)] == []
    assert list(folder.glob("order-ledger-demo-*")) == []


@pytest.mark.parametrize(("verb", "code"), VERBS)
def test_a_signal_ends_a_slow_download(verb: str, code: int, trickle: Trickle, tmp_path: Path) -> None:
    with begun(verb, tmp_path, trickle.url) as process:
        until(lambda: trickle.began.is_set() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        check_ended(process, code, tmp_path)


@pytest.mark.parametrize(("verb", "code"), VERBS)
def test_a_signal_ends_the_wait_for_a_process_that_fills_the_cache(verb: str, code: int, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / f"kafka-{KAFKA_VERSION}"
    cache.mkdir(parents=True)
    with FileLock(cache / ".lock"), begun(verb, tmp_path, "http://127.0.0.1:1") as process:
        until(lambda: list(tmp_path.glob("*/broker/broker.json")) or process.poll() is not None)
        process.send_signal(signal.SIGTERM)
        check_ended(process, code, tmp_path)


def test_nothing_is_fetched_for_a_start_that_is_to_end(tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match="stopped before Kafka was ready") as caught:
        ensure_jars(tmp_path, lock=JarLock.read(), stopping=lambda: True)
    assert caught.value.code == "not_running"
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == []
