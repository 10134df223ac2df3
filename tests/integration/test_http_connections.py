"""Connections of one client cost that client its connections, and nobody else anything."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import httpx
import pytest

from api import call
from api.connections import BoundedProtocol, ConnectionLimits
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import RunningLedger, decided, order_body, placed, running_ledger
from tests.support.patience import PATIENCE_S, until

PATIENT = ConnectionLimits(
    connections=12, per_address=10, header_s=PATIENCE_S, body_s=PATIENCE_S, idle_s=PATIENCE_S, unread_s=PATIENCE_S, sweep_s=0.05
)
HASTY = PATIENT._replace(header_s=1.0, body_s=1.0, idle_s=1.5, unread_s=1.0)


@pytest.fixture(scope="module")
def ledger() -> Iterator[RunningLedger]:
    """A node that accepts few connections. A test that waits for the end of a time makes it short."""
    with running_ledger(MemoryLog(), Topics("connections."), limits=PATIENT) as running:
        for client in running.clients:
            client.close()
        yield running


@pytest.fixture(autouse=True)
def _nobody_is_left(ledger: RunningLedger) -> Iterator[None]:
    yield
    until(lambda: len(ledger.context.connections) == 0)


def opened(ledger: RunningLedger) -> list[BoundedProtocol]:
    """The node's side of each open connection."""
    return list(ledger.context.connections._open)


def hurry(ledger: RunningLedger, limits: ConnectionLimits = HASTY) -> None:
    """The open connections have these limits from now on; before, a slow machine could take its time."""
    for connection in opened(ledger):
        connection._limits = limits


def wait_received(ledger: RunningLedger, sent: bytes) -> None:
    """Wait until the node has these first bytes of its one connection: part of a header, or a header and part of a body."""
    until(lambda: any(c._state == "body" or (c._state, c._header_bytes) == ("header", len(sent)) for c in opened(ledger)))


def connect(ledger: RunningLedger, **options: int) -> socket.socket:
    url = httpx.URL(ledger.url)
    connection = socket.socket()
    for name, value in options.items():
        connection.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    connection.settimeout(PATIENCE_S)
    connection.connect((url.host, url.port))
    return connection


def everything(connection: socket.socket) -> bytes:
    """Everything received until the server closes."""
    received = b""
    with suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
    return received


def answer(raw: bytes) -> httpx.Response:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return httpx.Response(int(first.split()[1]), headers=[tuple(line.split(": ", 1)) for line in lines], content=body)


def is_problem(raw: bytes, status: int, code: str) -> None:
    read_answer = answer(raw)
    assert (read_answer.status_code, read_answer.json()["code"]) == (status, code)
    assert read_answer.headers["content-type"] == "application/problem+json"
    assert read_answer.headers["connection"] == "close"
    assert read_answer.headers["request-id"]
    assert read_answer.json()["instance"] == "/"


def ended(ledger: RunningLedger, why: str) -> int:
    return ledger.context.connections.ended[why]


def still_serves(ledger: RunningLedger) -> None:
    with ledger.client() as client:
        placed(client)


def post(ledger: RunningLedger, length: int, headers: str = "") -> bytes:
    token = ledger.tokens["gateway"]
    return (
        f"POST /orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nCustomer-Id: c-1\r\nIdempotency-Key: k\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n"
    ).encode()


def get(ledger: RunningLedger, path: str, headers: bytes = b"") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ledger.tokens['reader']}\r\n".encode() + headers + b"\r\n"


# ---- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begins", "why", "problem"),
    [
        (lambda _: b"", "silent", False),
        (lambda _: b"GET /live HTTP/1.1\r\nHost:", "slow header", True),
        (lambda ledger: post(ledger, 1000) + b"{", "slow body", True),
        (lambda ledger: post(ledger, 1000), "slow body", True),
    ],
    ids=["nothing", "half a header", "half a body", "no body"],
)
def test_a_request_that_is_never_complete_ends_its_connection(
    ledger: RunningLedger, begins: Callable[[RunningLedger], bytes], why: str, problem: bool
) -> None:
    before = ended(ledger, why)
    with connect(ledger) as connection:
        connection.sendall(begins(ledger))
        wait_received(ledger, begins(ledger))
        hurry(ledger)
        raw = everything(connection)
    assert ended(ledger, why) == before + 1
    if problem:
        is_problem(raw, 408, "request-timeout")
    else:
        assert raw == b""


@pytest.mark.parametrize("begin", [b"GET /live HTTP/1.1\r\nX: ", b"POST"], ids=["a header's value", "a body"])
def test_a_byte_now_and_then_buys_no_time(ledger: RunningLedger, begin: bytes) -> None:
    begin = begin if begin != b"POST" else post(ledger, 60_000)
    with connect(ledger) as connection:
        connection.sendall(begin)
        wait_received(ledger, begin)
        hurry(ledger)
        connection.settimeout(0.1)
        deadline, raw = time.monotonic() + PATIENCE_S, b""
        while b"\r\n\r\n" not in raw:
            assert time.monotonic() < deadline
            with suppress(ConnectionError):  # on a slow machine, the answer has come and the connection has ended
                connection.sendall(b"x")
            with suppress(TimeoutError):
                raw += connection.recv(65536)
        is_problem(raw + everything(connection), 408, "request-timeout")


def test_a_connection_that_is_kept_alive_ends_if_it_is_not_used(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger.context.connections, "limits", PATIENT._replace(idle_s=HASTY.idle_s))
    before = ended(ledger, "idle")
    with connect(ledger) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer(everything(connection)).status_code == 200
    assert ended(ledger, "idle") == before + 1


def asked_without_token(connection: socket.socket, headers: bytes) -> bytes:
    """A POST without its body; the answer, which comes before the body."""
    connection.sendall(b"POST /orders HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
    raw = b""
    while not raw.endswith(b"}"):
        chunk = connection.recv(65536)
        assert chunk, raw
        raw += chunk
    assert answer(raw).status_code == 401
    return raw


def test_a_connection_whose_body_came_after_the_answer_ends_if_it_is_not_used(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed open for ever: the body cancels the timer that the answer has started."""
    monkeypatch.setattr(ledger.context.connections, "limits", PATIENT._replace(idle_s=HASTY.idle_s))
    before = ended(ledger, "idle")
    with connect(ledger) as connection:
        asked_without_token(connection, b"Content-Length: 2\r\n")
        connection.sendall(b"{}")
        assert everything(connection) == b""
    assert ended(ledger, "idle") == before + 1


@pytest.mark.parametrize(
    ("headers", "body"), [(b"Content-Length: 2\r\n", b""), (b"Transfer-Encoding: chunked\r\n", b"zz\r\n")], ids=["slow", "wrong"]
)
def test_a_request_that_is_answered_before_its_body_gets_no_second_answer(
    ledger: RunningLedger, headers: bytes, body: bytes
) -> None:
    with connect(ledger) as connection:
        asked_without_token(connection, headers)
        hurry(ledger)
        connection.sendall(body)
        assert everything(connection) == b""


def test_a_fault_in_one_connection_does_not_end_the_checks_of_all(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing restarts the checks: from then on no connection would ever have been too slow."""
    monkeypatch.setattr(ledger.context.connections, "limits", HASTY)
    check, faults = BoundedProtocol.check, [ZeroDivisionError("a fault of the product")]

    def faulty(self: BoundedProtocol, now: float) -> None:
        if faults:
            raise faults.pop()
        check(self, now)

    monkeypatch.setattr(BoundedProtocol, "check", faulty)
    with connect(ledger) as connection:
        assert everything(connection) == b""  # the connection at which it happened
    assert faults == []
    before = ended(ledger, "silent")
    with connect(ledger) as connection:
        everything(connection)
    assert ended(ledger, "silent") == before + 1


def test_a_client_that_reads_nothing_of_its_answers_is_disconnected(
    ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger.context.connections, "limits", PATIENT._replace(unread_s=HASTY.unread_s))
    before = ended(ledger, "unread answer")
    document = get(ledger, "/openapi.json")
    with connect(ledger, SO_RCVBUF=4096) as connection:
        connection.setblocking(False)
        deadline = time.monotonic() + PATIENCE_S
        while ended(ledger, "unread answer") == before:
            assert time.monotonic() < deadline
            try:
                connection.send(document)
            except BlockingIOError:
                time.sleep(0.02)
            except ConnectionError:
                break
        until(lambda: ended(ledger, "unread answer") == before + 1)
    still_serves(ledger)


def test_a_client_whose_answer_takes_long_is_not_too_slow(ledger: RunningLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a header or a body may take: the node waits, not the client. The requests sent behind it wait too."""
    monkeypatch.setattr(call, "MAX_WAIT_S", PATIENCE_S)
    position, body = ledger.context.projector.position(0), b"{}"
    asked = f"Ledger-Position: 0-{position + 1}\r\nPrefer: wait={PATIENCE_S:.0f}\r\n".encode()
    with connect(ledger) as connection:
        connection.sendall(get(ledger, "/orders", asked) + post(ledger, len(body), "Connection: close\r\n") + body[:1])
        wait_received(ledger, body[:1])
        hurry(ledger)
        time.sleep(1.5)  # no condition to wait for: nothing may happen in this time
        assert len(ledger.context.connections) == 1
        hurry(ledger, PATIENT)
        connection.sendall(body[1:])
        with ledger.client() as client:
            while ledger.context.projector.position(0) == position:
                placed(client)
        raw = everything(connection)
    first, second = raw.split(b"HTTP/1.1 ")[1:3]
    assert first.startswith(b"200")
    assert second.startswith(b"422")


# ---- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "status"), [(31 * 1024, 200), (33 * 1024, 431), (2 * 1024 * 1024, 431)])
def test_a_header_has_a_largest_size(ledger: RunningLedger, size: int, status: int) -> None:
    with connect(ledger) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nX-Long: ")
        for start in range(0, size, 4096):
            try:
                connection.sendall(b"x" * min(4096, size - start))
            except ConnectionError:
                break
        else:
            connection.sendall(b"\r\nConnection: close\r\n\r\n")
        raw = everything(connection)
    if status == 431:
        is_problem(raw, 431, "header-too-large")
    assert answer(raw).status_code == status


@pytest.mark.parametrize("bytes_sent", [b"GET /" + b"x" * 40_000, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 7_000])
def test_a_long_path_and_many_headers_are_a_long_header_too(ledger: RunningLedger, bytes_sent: bytes) -> None:
    with connect(ledger) as connection:
        connection.sendall(bytes_sent)
        is_problem(everything(connection), 431, "header-too-large")


def test_an_endless_header_is_not_read_to_its_end(ledger: RunningLedger) -> None:
    before, sent = ended(ledger, "long header"), 0
    with connect(ledger) as connection:
        connection.sendall(b"GET /live HTTP/1.1\r\nX: ")
        with suppress(ConnectionError):
            while sent < 64 * 1024 * 1024:
                sent += connection.send(b"x" * 65536)
    assert ended(ledger, "long header") == before + 1
    assert sent < 32 * 1024 * 1024  # no more was sent than the sockets' buffers hold


CHUNKED = b"POST /orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("begins", "piece"),
    [(b"0\r\nX: ", b"x" * 65_536), (b"0\r\n", b"a:b\r\n" * 13_000), (b"1;x=", b"x" * 65_536)],
    ids=["one trailer", "many trailers", "an extension of a chunk"],
)
def test_endless_trailers_are_not_read_to_their_end(ledger: RunningLedger, begins: bytes, piece: bytes) -> None:
    before, sent = ended(ledger, "long trailer"), 0
    with connect(ledger) as connection, suppress(ConnectionError):
        connection.sendall(CHUNKED + b"\r\n" + begins + piece)
        while sent < 64 * 1024 * 1024:
            sent += connection.send(piece)
    assert ended(ledger, "long trailer") == before + 1
    assert sent < 32 * 1024 * 1024  # no more was sent than the sockets' buffers hold


def test_a_trailer_is_no_header(ledger: RunningLedger) -> None:
    """It arrives in one piece with the headers, before the request is answered."""
    token = f"Authorization: Bearer {ledger.tokens['gateway']}\r\n".encode()
    named = b"Customer-Id: c-1\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\nConnection: close\r\n"
    for headers, trailers, status in ((named, token, 401), (named + token, b"Customer-Id: c-2\r\n", 422)):
        with connect(ledger) as connection:
            connection.sendall(CHUNKED + headers + b"\r\n2\r\n{}\r\n0\r\n" + trailers + b"\r\n")
            assert answer(everything(connection)).status_code == status


def test_large_bodies_and_many_requests_in_one_piece_are_not_a_long_header(ledger: RunningLedger) -> None:
    body = b'{"a": "%s"}' % (b"x" * 60_000)
    with connect(ledger) as connection:
        connection.sendall(
            get(ledger, "/live") * 1000
            + (post(ledger, len(body)) + body) * 3
            + b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        raw = everything(connection)
    statuses = [int(part[:3]) for part in raw.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200] * 1000 + [422, 422, 422, 200]


@pytest.mark.parametrize(
    "bytes_sent", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELO x\r\n\r\n", b"GET / HTTP/1.1\r\nA b\r\n\r\n"]
)
def test_bytes_that_are_not_http_get_a_problem_as_answer(ledger: RunningLedger, bytes_sent: bytes) -> None:
    with connect(ledger) as connection:
        connection.sendall(bytes_sent)
        is_problem(everything(connection), 400, "malformed-request")


# ---- number ---------------------------------------------------------------------------------------------------------


def test_a_new_connection_replaces_the_one_that_rested_longest(ledger: RunningLedger) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(ledger)) for _ in range(PATIENT.per_address)]
        until(lambda: len(ledger.context.connections) == PATIENT.per_address)
        before = ended(ledger, "crowded out")
        still_serves(ledger)
        assert ended(ledger, "crowded out") == before + 1
        assert everything(silent[0]) == b""
        silent[-1].sendall(b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer(everything(silent[-1])).status_code == 200


def test_where_every_connection_has_a_request_in_progress_a_new_one_is_refused(ledger: RunningLedger) -> None:
    with ledger.client() as client:
        path = decided(client, "/orders", order_body()).headers["location"]
    stream = get(ledger, f"{path}/events", b"Accept: text/event-stream\r\n")
    with ExitStack() as stack:
        for _ in range(PATIENT.per_address):
            connection = stack.enter_context(connect(ledger))
            connection.sendall(stream)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        before = ended(ledger, "refused")
        with connect(ledger) as late:
            raw = everything(late)
        is_problem(raw, 503, "too-many-connections")
        assert answer(raw).headers["retry-after"] == "1"
        assert ended(ledger, "refused") == before + 1
    until(lambda: len(ledger.context.connections) == 0)
    still_serves(ledger)


def test_ended_connections_are_counted(ledger: RunningLedger) -> None:
    with connect(ledger) as connection:
        connection.sendall(b"\0\0\0\0")
        everything(connection)
    with ledger.client("operator") as client:
        text = client.get("/metrics").text
    assert 'ledger_http_connections_ended_total{why="malformed"}' in text
    assert "ledger_http_connections 1.0" in text
