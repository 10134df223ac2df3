"""`/live`, `/ready` and `/metrics` of a process without HTTP of its own, on a port for operators.

Nothing here is secret, and nothing can be changed. A port that is taken costs the process nothing but this. Whoever reaches it
can take no more than `MOST_CONNECTIONS` threads, each for `REQUEST_S`.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from ledger.http_client import url_of
from ledger.supervision import WorkerThread

REQUEST_S = 10.0  # a connection is closed then, from whichever side it is slow
MOST_CONNECTIONS = 32
STOP_S = 5.0

log = structlog.get_logger(__name__)

Checks = Mapping[str, str]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape every few seconds says nothing."""


class _Server(ThreadingWSGIServer):
    """One thread for each connection, which has one request. The thread that accepts them closes those that take too long."""

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self._lock = threading.Lock()
        self._ends_at: dict[socket.socket, float] = {}  # monotonic, of each open connection
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            is_full = len(self._ends_at) >= MOST_CONNECTIONS
            if not is_full:
                self._ends_at[request] = time.monotonic() + REQUEST_S
        if is_full:
            self.shutdown_request(request)  # whoever scrapes comes back
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._ends_at.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Twice a second, and after each connection."""
        self._end(time.monotonic())

    def server_close(self) -> None:
        self._end(float("inf"))
        super().server_close()

    def _end(self, now: float) -> None:
        """Shut down the connections that should have ended by now; their threads, which wait for them, then close them."""
        with self._lock:  # or a thread could close one just now, and another file get its number
            for request, ends_at in self._ends_at.items():
                if ends_at <= now:
                    with suppress(OSError):  # the other side has closed it
                        request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # otherwise the connection broke, which is not worth a line
            log.error("a request about health or metrics failed", exc_info=True)


class _Server6(_Server):
    """For an IPv6 address. `::` takes IPv4, too, where the system does so."""

    address_family = socket.AF_INET6


class HealthServer:
    """`ready()` returns whether the process should be relied on, and what it checked, by name. Threads of this server call it."""

    def __init__(
        self, name: str, host: str, port: int, registry: CollectorRegistry, ready: Callable[[], tuple[bool, Checks]]
    ) -> None:
        """`port` 0: any free one. `name` is the process, for the log."""
        self._name, self._address, self._ready = name, (host, port), ready
        self._metrics: Any = make_wsgi_app(registry)
        self._server: Any = None
        self._thread: WorkerThread | None = None

    @property
    def url(self) -> str | None:
        """Where it answers; None if it could not listen."""
        if self._server is None:
            return None
        return url_of(self._address[0], self._server.server_port)

    def start(self) -> None:
        """Listen and answer from now on. A port in use is logged."""
        host, port = self._address
        try:
            self._server = make_server(host, port, self._answer, _Server6 if ":" in host else _Server, _Handler)
        except OSError as exc:
            log.error("health and metrics are not served", process=self._name, port=port, why=exc.strerror or str(exc))
            return
        stopping = threading.Event()
        self._stopping = stopping
        self._thread = WorkerThread("health", self._server.serve_forever, lambda _: None, again=True, stopping=stopping)
        self._thread.start()
        log.info("health and metrics are served", process=self._name, url=self.url)

    def stop(self) -> None:
        """Close the port."""
        if self._server is not None and self._thread is not None:
            self._stopping.set()
            self._server.shutdown()
            self._thread.join(STOP_S)
            self._server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start_response)  # type: ignore[no-any-return]
        if path == "/live":
            return _json(start_response, "200 OK", {"status": "live"})
        if path == "/ready":
            is_ready, checks = self._ready()
            status = "200 OK" if is_ready else "503 Service Unavailable"
            return _json(start_response, status, {"status": "ready" if is_ready else "not_ready", "checks": dict(checks)})
        return _json(start_response, "404 Not Found", {"status": "unknown", "paths": ["/live", "/ready", "/metrics"]})


def _json(start_response: StartResponse, status: str, body: Mapping[str, object]) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps(body).encode()]
