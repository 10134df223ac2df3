"""A payment provider and stock services over HTTP and gRPC whose answers look right and mostly are not.

`OddServer` answers every request of Stripe's client and of the HTTP door to a stock service with the object that the path is
about: correct, or with members missing, null, of other types and sizes, in bytes that are not JSON or not UTF-8, under another
status, with odd headers, cut off in the middle. `odd_stock_over_grpc` does the same with protobuf.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc

from commands.stock_proto import stock_pb2 as pb
from tests.support.stripe_objects import CHARGE, DISPUTE, INTENT, REFUND, mutated

MARK = "zaphod"  # marks everything in an answer that no log line may repeat
STATUSES = ["requires_payment_method", "requires_action", "processing", "requires_capture", "succeeded", "canceled"]
ERROR = {
    "error": {
        "type": "card_error",
        "code": "card_declined",
        "decline_code": "do_not_honor",
        "message": f"of {MARK}",
        "payment_intent": INTENT | {"client_secret": f"pi_1_secret_{MARK}"},
        "doc_url": "https://docs.example",
    }
}
STOCK: list[dict[str, Any]] = [
    {"status": "reserved", "reservation_ref": "r-17"},
    {"status": "rejected", "reason": "out_of_stock", "items": [{"sku": "mug", "available": 1}]},
    {"status": "released"},
]
REFUSING = [400, 401, 402, 403, 404, 409, 410, 425, 429, 500, 502, 503, 418, 302, 204, 206]
BODIES = [
    *(b"", b"null", b"[]", b"{}", b"0", b'"x"', b"<html>not now</html>", b"\xff\xfe{}", b"\xef\xbb\xbf{}"),
    *(
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b"1" * 5_000,
        b'{"id":1e999}',
        b'{"id":"pi_1","id":"pi_2"}',
        b"{" + b" " * 300_000 + b"}",
    ),
]
HEADERS = [
    *(b"Retry-After: 0", b"Retry-After: never", b"Retry-After: 99999999999", b"Retry-After: Wed, 21 Oct 9999 07:28:00 GMT"),
    *(b"Stripe-Should-Retry: true", b"Stripe-Should-Retry: false", b"Stripe-Should-Retry: perhaps", b"Content-Encoding: gzip"),
    *(
        b"Content-Type: text/html; charset=klingon",
        b"Location: /elsewhere",
        b"Request-Id: " + b"x" * 5_000,
        b"Set-Cookie: a=\xff",
    ),
]


class OddServer:
    """Use as an async context manager, which sets `url`. `answered` counts its answers by kind."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self.answered: Counter[str] = Counter()
        self.url = ""

    async def __aenter__(self) -> OddServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, *lines = head.decode("latin-1").replace("\r\n", " ", 1).split(" ", 2)
                headers = dict(line.lower().split(": ", 1) for line in lines[0].split("\r\n") if ": " in line)
                await reader.readexactly(int(headers.get("content-length", "0")))
                status, extra, body = self._answer(method, target.partition("?")[0])
                answer = b"HTTP/1.1 %d Odd\r\nContent-Length: %d\r\n%b\r\n" % (status, len(body), extra) + body
                if self._chance.random() < 0.01:
                    self.answered["broken off"] += 1
                    writer.write(answer[: self._chance.randrange(len(answer))])
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def _answer(self, method: str, path: str) -> tuple[int, bytes, bytes]:
        chance = self._chance
        extra = chance.choice(HEADERS) + b"\r\n" if chance.random() < 0.05 else b""
        thing = self._thing(method, path)
        match chance.choices(("right", "mutated", "bytes", "error", "other"), (25, 55, 8, 8, 4))[0]:
            case "right" as kind:
                status, body = 200, json.dumps(thing).encode()
            case "mutated" as kind:
                status, body = 200, json.dumps(self._mutated(thing)).encode()
            case "bytes" as kind:
                raw = bytearray(json.dumps(self._mutated(thing)).encode())
                for _ in range(chance.randint(1, 3)):
                    raw[chance.randrange(len(raw))] = chance.choice(b'\x00\xff\xc3{}[]",:9')
                status, body = 200, bytes(raw[: chance.choice((len(raw), len(raw) // 2))])
            case "error" as kind:
                status, body = (
                    chance.choice(REFUSING),
                    json.dumps(mutated(ERROR, chance) if chance.random() < 0.7 else ERROR).encode(),
                )
            case kind:
                status, body = chance.choice([200, *REFUSING]), chance.choice(BODIES)
        self.answered[kind] += 1
        return status, extra, b"" if status == 204 else body

    def _mutated(self, thing: dict[str, Any]) -> dict[str, Any]:
        """Of a list: sometimes the list itself, sometimes one of its items."""
        if isinstance(inner := thing.get("data"), list) and inner and self._chance.random() < 0.7:
            return thing | {"data": [mutated(one, self._chance) for one in inner]}
        return mutated(thing, self._chance)

    def _thing(self, method: str, path: str) -> dict[str, Any]:
        """The answer of a provider that works."""
        chance = self._chance
        parts = path.strip("/").split("/")
        if parts[0] == "reservations":
            return STOCK[2] if method == "DELETE" else chance.choice(STOCK)
        kind, name = parts[1], parts[2] if len(parts) > 2 else ""
        match kind, name:
            case "payment_intents", "search":
                return {"object": "search_result", "url": path, "has_more": False, "data": [self._intent("pi_1")]}
            case "payment_intents", _:
                return self._intent(name or "pi_1", {"capture": "succeeded", "cancel": "canceled"}.get(parts[-1]))
            case "refunds", "" if method == "GET":
                refunds = [self._refund(n) for n in range(chance.randint(0, 3))]
                return {"object": "list", "url": path, "has_more": chance.random() < 0.1, "data": refunds}
            case "refunds", _:
                return self._refund(1)
        disputes = [DISPUTE | {"status": chance.choice(("needs_response", "won", "lost", "warning_closed"))}]
        return {"object": "list", "url": path, "has_more": False, "data": disputes}

    def _intent(self, name: str, status: str | None = None) -> dict[str, Any]:
        status = status or self._chance.choice(STATUSES)
        received = 2200 if status == "succeeded" else 0
        charge = CHARGE | {"disputed": self._chance.random() < 0.3}
        secret = {"client_secret": f"{name}_secret_{MARK}"}
        return INTENT | {"id": name, "status": status, "amount_received": received, "latest_charge": charge} | secret

    def _refund(self, number: int) -> dict[str, Any]:
        status = self._chance.choice(("pending", "succeeded", "failed", "canceled", "requires_action"))
        return REFUND | {"id": f"re_{number}", "status": status, "metadata": {"order": "ord_1", "refund_no": str(number)}}


@contextlib.asynccontextmanager
async def odd_stock_over_grpc(chance: random.Random) -> AsyncIterator[str]:
    """Yields where it listens (host:port)."""

    async def reply(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if chance.random() < 0.1:
            await context.abort(chance.choice([code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]), MARK)
        items = [
            pb.Item(sku=chance.choice(("mug", "", "é" * 100)), available=chance.choice((0, -1, 2**31, 2**62))) for _ in range(3)
        ]
        reply_message = pb.ReserveReply(
            status=chance.choice((0, 1, 2, 3, 99, -1)),  # type: ignore[arg-type]  # an open enum on the wire
            reservation_ref=chance.choice(("", "r-1", "é", "x" * 200, "r 1")),
            reason=chance.choice((0, 1, 2, 3, 77)),  # type: ignore[arg-type]
            items=items * chance.choice((0, 1, 100)),
        )
        raw = bytearray(reply_message.SerializeToString())
        for _ in range(chance.choice((0, 0, 1, 3)) if raw else 0):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        return bytes(raw) if chance.random() < 0.9 else bytes(raw[: len(raw) // 2])

    server = grpc.aio.server()
    handlers = {name: grpc.unary_unary_rpc_method_handler(reply) for name in ("Reserve", "Release")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("orderledger.stock.v1.Stock", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
