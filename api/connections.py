"""Limits on connections of the HTTP server: their number, their duration, and the size of headers.

No client may slow down others. Uvicorn's protocol parses; this one adds what uvicorn leaves to a reverse proxy:

- headers must be complete 10 s after the connection or their first byte, a body 10 s after its headers (408);
- headers have at most 32 KiB (431), because the cost of the parser grows with the square of their length, and so have chunk
  headers and trailers together, up to the next byte of the body; a trailer never counts as a header (RFC 9110, 6.5.1);
- a client that reads nothing of its answer for a minute is disconnected;
- at the maximum number of connections, the one that has been idle longest is closed, of the address that has most of them. Only
  if all connections are busy, a new one is refused (503).

Invalid HTTP is answered with a problem and a `Request-Id`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import sys
from collections import Counter
from http import HTTPStatus
from typing import Any, NamedTuple

import structlog
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from api.callers.proxies import Proxies
from api.problems import PROBLEM_JSON, Problem
from ledger.faults import in_short

log = structlog.get_logger(__name__)

LINGER_S, LINGER_BYTES = 2.0, 1024 * 1024  # to read what a client still sends, or a reset would overtake the answer
OWN_FILES = 512  # databases, sockets to Kafka and to the provider
FILES = 65_536  # nobody needs more, and some systems have no limit
# Why the server closes a connection. Each is shown from the start: an increase from nothing to 1 is none to Prometheus.
ENDINGS = (
    *("refused", "crowded out", "malformed", "silent", "idle", "slow header", "slow body"),
    *("long header", "long trailer", "unread answer"),
)


class ConnectionLimits(NamedTuple):
    """Sizes in bytes, times in seconds, counts of connections."""

    connections: int = 8192
    per_address: int = 4096
    header_bytes: int = 32 * 1024
    header_s: float = 10.0
    body_s: float = 10.0
    idle_s: float = 75.0  # longer than clients and proxies keep idle connections
    unread_s: float = 60.0
    sweep_s: float = 1.0  # at most so much later


class ClientAddress:
    """The connections of one address (IPv6: of one /64). Those without a request in progress are listed oldest first."""

    __slots__ = ("count", "idle", "silent")

    def __init__(self) -> None:
        self.count = 0
        self.silent: dict[BoundedProtocol, None] = {}  # never had a complete request
        self.idle: dict[BoundedProtocol, None] = {}  # kept alive for the next request

    def longest_resting(self) -> BoundedProtocol | None:
        return next(iter(self.silent or self.idle), None)


class Connections:
    """All connections of one server; on its event loop. Pass `protocol` as uvicorn's option `http`."""

    def __init__(self, limits: ConnectionLimits | None = None, proxies: Proxies | None = None) -> None:
        self.limits, self._proxies = limits or ConnectionLimits(), proxies or Proxies()
        self.ended = Counter(dict.fromkeys(ENDINGS, 0))  # by the server
        self._open: dict[BoundedProtocol, None] = {}
        self._addresses: dict[str, ClientAddress] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def protocol(self, **of_uvicorn: Any) -> BoundedProtocol:
        return BoundedProtocol(self, **of_uvicorn)

    def admit(self, connection: BoundedProtocol, name: str, host: str = "") -> ClientAddress | None:
        """Count a new connection of `host` under `name`, closing an idle one if necessary. None: there is no room."""
        address = self._addresses.get(name) or ClientAddress()
        if address.count >= self.limits.per_address and host not in self._proxies and not self._make_room(address):
            return None
        if len(self._open) >= self.limits.connections:
            fullest = max(self._addresses.values(), key=lambda a: len(a.silent) + len(a.idle))
            if not self._make_room(fullest):
                return None
        self._addresses[name] = address
        address.count += 1
        self._open[connection] = None
        if self._sweep is None:
            self._sweep = connection.loop.call_later(self.limits.sweep_s, self._check_all, connection.loop)
        return address

    def _make_room(self, address: ClientAddress) -> bool:
        longest = address.longest_resting()
        if longest is None:
            return False
        longest.end("crowded out")
        return True

    def forget(self, connection: BoundedProtocol, name: str) -> None:
        if self._open.pop(connection, self) is self:
            return
        address = self._addresses[name]
        address.silent.pop(connection, None)
        address.idle.pop(connection, None)
        address.count -= 1
        if not address.count:
            del self._addresses[name]

    def _check_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close slow connections. One timer for all: two per request would slow down every request."""
        now = loop.time()
        for connection in list(self._open):
            try:
                connection.check(now)
            except Exception as exc:  # affects only this connection: the checks must continue
                log.error("connection could not be checked", why=in_short(exc))
                connection.transport.abort()
        self._sweep = loop.call_later(self.limits.sweep_s, self._check_all, loop) if self._open else None


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Its states: header (also for a new connection), body, answering, idle, and ending while it sends a problem itself. With
    pipelined requests, it is the state of the last one.
    """

    def __init__(self, connections: Connections, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._all = connections
        self._limits = connections.limits
        self.timeout_keep_alive = self._limits.idle_s  # type: ignore[assignment]  # seconds of a `call_later`
        self._address: ClientAddress | None = None
        self._name = ""
        self._state = "header"
        self._since = 0.0
        self._header_bytes = 0
        self._framing_bytes = 0  # since the last byte of the body, roughly: chunk headers, extensions, trailers
        self._completed = False  # the headers, in the chunk that is being parsed
        self._unread_since: float | None = None
        self._lingers: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None  # `cycle` is that of the last request, which may be queued

    # ---- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        host = self.client[0] if self.client else ""
        self._name = _network(host)
        self._address = self._all.admit(self, self._name, host)
        if self._address is None:
            self._all.ended["refused"] += 1
            self._answer(Problem("too-many-connections"))
        else:
            self._address.silent[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.forget(self, self._name)
        if self._lingers is not None:
            self._lingers.cancel()
        super().connection_lost(exc)

    def end(self, why: str, problem: Problem | None = None) -> None:
        """Close it, with `problem` as the answer if none has begun. A route that reads the body gets a disconnect."""
        self._all.ended[why] += 1
        self._all.forget(self, self._name)  # now: a slot is needed, and the transport closes one iteration later
        begun = self.cycle is not None and self.cycle.response_started
        if self._answers() and (self._answering is not self.cycle or begun):
            problem = None  # it would be taken for the answer to another request
        elif self._state == "body" and begun:
            problem = None  # it was answered before its body was complete
        for cycle in (self._answering, *(queued for queued, _ in self.pipeline)):
            if cycle is not None:
                cycle.disconnected = True
                cycle.message_event.set()
        if problem is not None:
            self._answer(problem)
        elif self._unread_since is not None:
            self.flow.resume_writing()
            self.transport.abort()  # unread data cannot be flushed
        else:
            self.transport.close()

    def check(self, now: float) -> None:
        """Close the connection if it is too slow."""
        if self._unread_since is not None:
            if now - self._unread_since > self._limits.unread_s:
                self.end("unread answer")
            return
        if self.flow.read_paused or (self._state == "header" and self._answers()):
            self._since = now  # the server is not reading, or has not answered an earlier request
        waits_s = now - self._since
        if self._state == "header" and waits_s > self._limits.header_s:
            begun = self._header_bytes > 0
            self.end("slow header" if begun else "silent", Problem("request-timeout") if begun else None)
        elif self._state == "body" and waits_s > self._limits.body_s:
            self.end("slow body", Problem("request-timeout"))
        elif self._state == "idle" and waits_s > self._limits.idle_s:
            self.end("idle")  # the rest of a body that arrives after its answer cancels uvicorn's timer

    def timeout_keep_alive_handler(self) -> None:
        """Uvicorn's own timer of an idle connection."""
        if not self.transport.is_closing():
            self.end("idle")

    def _answers(self) -> bool:
        return self._answering is not None and not self._answering.response_complete

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    # ---- incoming data

    def data_received(self, data: bytes) -> None:
        if self._state == "ending":
            self._header_bytes += len(data)
            if self._header_bytes > LINGER_BYTES:
                self.transport.abort()
            return
        if self._state == "idle":
            self._state, self._since, self._header_bytes = "header", self.loop.time(), 0
        limit = self._limits.header_bytes
        if len(data) <= limit and self._state not in ("header", "body"):
            super().data_received(data)
            return
        while data and self._state != "ending" and not self.transport.is_closing():
            in_header = self._state == "header"
            room = limit - self._header_bytes if in_header else limit
            piece, data = data[:room], data[room:]
            self._completed = False
            self._framing_bytes += len(piece)
            super().data_received(piece)
            if self._state == "header":
                # Headers that began after another request in this chunk are counted from the next chunk on.
                self._header_bytes = 0 if self._completed or not in_header else self._header_bytes + len(piece)
                if self._header_bytes >= limit:
                    self.end("long header", Problem("header-too-large"))
                    return
            elif self._state == "body" and self._framing_bytes >= limit and not self.transport.is_closing():
                self.end("long trailer", Problem("header-too-large"))
                return

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._state = "header"

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._state != "body":  # there, it is a trailer: nobody needs any
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._address is not None:
            self._address.silent.pop(self, None)
            self._address.idle.pop(self, None)
        self._state, self._since, self._completed = "body", self.loop.time(), True
        self._framing_bytes = 0
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._framing_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._state = "answering"
        self._become_idle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._become_idle()

    def _become_idle(self) -> None:
        if self._state == "answering" and not self._answers() and self._address is not None:
            self._state, self._since = "idle", self.loop.time()
            self._address.idle[self] = None

    def send_400_response(self, msg: str) -> None:
        self.end("malformed", Problem("malformed-request"))

    def _answer(self, problem: Problem) -> None:
        """Write a problem and close: for requests that reach no route."""
        body = problem.as_bytes("/")
        headers = {
            **problem.headers,
            "Content-Type": PROBLEM_JSON.decode(),
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Request-Id": secrets.token_hex(8),
            "Connection": "close",
        }
        head = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}", *(f"{n}: {v}" for n, v in headers.items())]
        self.transport.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        self.transport.write_eof()
        self._state, self._header_bytes = "ending", 0
        self._lingers = self.loop.call_later(LINGER_S, self.transport.abort)


def _network(host: str) -> str:
    """The network of an address: itself, or for IPv6 its /64, which one customer line gets."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))


def limits_within(connections: int, per_address: int, files: int) -> ConnectionLimits:
    """The limits of the settings, reduced to what the number of open files allows."""
    most = max(64, min(connections, files - OWN_FILES))
    if most < connections:
        log.warning(
            "fewer connections than configured, limited by open files", connections=most, asked_for=connections, open_files=files
        )
    return ConnectionLimits(connections=most, per_address=min(per_address, most))


def raise_file_limit() -> int:
    """Raise the limit of open files to the maximum that the system allows; returns it."""
    if sys.platform == "win32":
        return FILES  # sockets are not files there
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as exc:  # macOS has a lower limit
            log.warning("limit of open files could not be raised", open_files=soft, why=str(exc))
            return soft
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft
