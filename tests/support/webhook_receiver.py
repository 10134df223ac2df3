"""A receiver of webhooks on loopback that verifies what it gets, and fails in as many ways as a test wants."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

OK = "ok"
# How it can fail: what it sends, or does. `gone` is another matter: it ends the deliveries.
MANNERS = (
    "500",
    "404",
    "redirect",
    "busy",
    "closes",
    "resets",
    "half an answer",
    "no HTTP",
    "endless",
    "silent",
    "drips",
)
_ANSWERS = {
    OK: b"HTTP/1.1 204 No Content\r\n\r\n",
    "500": b"HTTP/1.1 500 Broken\r\nContent-Length: 6\r\n\r\nsecret",
    "404": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    "busy": b"HTTP/1.1 429 Too Many\r\nRetry-After: 7200\r\nContent-Length: 0\r\n\r\n",
    "half an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "no HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "gone": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
}


class Got(NamedTuple):
    """One request: how it was answered, and what was in it."""

    manner: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def message(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    def is_signed(self, secret: str) -> bool:
        """Whether one of its signatures is by this secret, computed here by the words of the specification."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.message_id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return f"v1,{wanted}" in self.headers["webhook-signature"].split(" ")


class Receiver:
    """`manner(got)` says how a request is answered; one that is not `OK` fails. Everything that came is in `got`, in order."""

    def __init__(self, manner: Callable[[Got], str] = lambda got: OK) -> None:
        self.manner = manner
        self.got: list[Got] = []
        self.connections = 0
        self._ending = threading.Event()
        receiver = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with suppress(OSError):
                    receiver._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver", daemon=True)
        self._thread.start()

    def delivered(self) -> list[Got]:
        return [got for got in list(self.got) if got.manner == OK]

    def ids(self) -> list[str]:
        """Of the messages that were answered 2xx."""
        return [got.message_id for got in self.delivered()]

    def close(self) -> None:
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ---- one connection

    def _serve(self, connection: socket.socket) -> None:
        self.connections += 1
        with connection.makefile("rb") as stream:
            while (line := stream.readline()).strip():
                path = line.split()[1].decode()
                headers: dict[str, str] = {}
                while (line := stream.readline()).strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                got = Got("", path, headers, body)
                got = got._replace(manner=self.manner(got))
                self.got.append(got)
                if not self._answer(connection, got.manner):
                    return

    def _answer(self, connection: socket.socket, manner: str) -> bool:
        """Returns whether the connection stays open."""
        if manner == "silent":
            self._ending.wait()
        elif manner == "resets":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        elif manner == "endless":
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while not self._ending.is_set():
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        elif manner == "drips":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not self._ending.wait(0.02):
                connection.sendall(b"x")
        elif manner in _ANSWERS:
            connection.sendall(_ANSWERS[manner])
            return manner in (OK, "500", "404", "redirect", "busy", "gone")
        return False
