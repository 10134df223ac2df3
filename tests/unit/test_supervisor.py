"""How `up` asks whether `serve` is ready: directly, whatever proxy the environment names; stale reads are not enough.

And when it restarts a child that has ended.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from api.processes import child as child_module
from api.processes.child import Child
from api.processes.up import _is_ready
from ledger.ports import free_port
from tests.support.patience import PATIENCE_S


class Ready(BaseHTTPRequestHandler):
    status = 200
    body = b'{"status":"ready","checks":{}}'

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/ready" else 404)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_no_proxy_of_the_environment_is_between_up_and_serve(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert _is_ready(server.server_port)


def test_another_status_or_no_answer_means_not_ready(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ready, "status", 503)
    assert not _is_ready(server.server_port)
    assert not _is_ready(free_port())


def test_a_node_that_can_only_answer_stale_reads_is_waited_for(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ready, "body", b'{"status":"ready","checks":{},"reason":"log-unavailable","stale":true,"staleness_ms":7}')
    assert not _is_ready(server.server_port)


def ended_again(child: Child) -> str:
    """The message about the next end of a child."""
    deadline = time.monotonic() + PATIENCE_S
    while (message := child.tend()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return message


def test_a_child_that_has_worked_is_restarted_immediately_and_another_after_ever_longer_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    child = Child("helping", ["--help"], os.environ, tmp_path)  # ends on its own, soon
    try:
        monkeypatch.setattr(child_module, "CALM_S", 1e9)
        child.tend()
        assert (child.pid is not None, child.restarts) == (True, 0)
        assert "restarting it in 0.5 s" in ended_again(child)
        assert child.pid is None
        assert "restarting it in 1.0 s" in ended_again(child)
        assert (child.ends, child.restarts) == (2, 1)
        monkeypatch.setattr(child_module, "CALM_S", 0.0)
        assert "restarting it (" in ended_again(child)
        assert (child.pid is not None, child.ends, child.restarts) == (True, 3, 3)
        monkeypatch.setattr(child_module, "CALM_S", 1e9)
        assert "restarting it in 0.5 s" in ended_again(child), "it starts over with the first pause"
    finally:
        child.wait_stopped(PATIENCE_S)
