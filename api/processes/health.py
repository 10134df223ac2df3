"""`/live`, `/ready` and `/metrics` of a process without HTTP of its own, on a port for operators.

Nothing here is secret, and nothing can be changed. A port that is taken costs the process nothing but this.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from ledger.http_client import url_of
from ledger.supervision import WorkerThread

SILENT_S = 10.0  # a connection without a request is closed
STOP_S = 5.0

log = structlog.get_logger(__name__)

Checks = Mapping[str, str]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


class _Handler(WSGIRequestHandler):
    timeout = SILENT_S

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: a scrape every few seconds says nothing."""


class _Server6(ThreadingWSGIServer):
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
            self._server = make_server(host, port, self._answer, _Server6 if ":" in host else ThreadingWSGIServer, _Handler)
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
