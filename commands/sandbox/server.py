"""The sandbox as one process: payment provider, stock services, and pages to inspect it and to inject faults.

    GET      /sandbox/health
    GET PUT  /sandbox/chaos      injected faults (`chaos.ChaosConfig`)
    GET PUT  /sandbox/clock      {"offset_s": ...}: seconds by which its clock is ahead of the machine's
    GET      /sandbox/journal    ?order_id= &limit=: calls and effects, oldest first
    GET      /sandbox/sums       sums of each order: money captured and refunded, units still reserved

Loopback only. It accepts only its own key, moves no money, and says so in every answer (`Order-Ledger-Sandbox: no real money`).
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commands.sandbox.chaos import Chaos, Fate, decode_chaos
from commands.sandbox.chaos_http import ChaosMiddleware
from commands.sandbox.journal import Journal
from commands.sandbox.payment_server import payment_routes
from commands.sandbox.provider import PORT as PAYMENTS
from commands.sandbox.provider import Provider
from commands.sandbox.stock import StockRooms, stock_routes
from commands.sandbox.webhooks import WebhookSender
from ledger.bounds import SERVICES
from ledger.clock import now_ms
from ledger.errors import ConfigError
from ledger.supervision import keep_at

if TYPE_CHECKING:
    from commands.sandbox.stock_grpc_server import StockGrpc

TICK_S = 0.2
JOURNAL_ROWS = 1000


class Clock:
    """The sandbox's clock: that of the machine plus `offset_s`, which survives a restart."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        journal.add_tables("create table if not exists clock (one integer primary key check (one = 1), offset_s integer);")
        rows = journal.rows("select offset_s from clock")
        self.offset_s = int(rows[0]["offset_s"]) if rows else 0

    def move(self, offset_s: int) -> None:
        with self._journal.transaction() as db:
            db.execute("insert or replace into clock (one, offset_s) values (1, ?)", (offset_s,))
        self.offset_s = offset_s

    def now_ms(self) -> int:
        return now_ms() + self.offset_s * 1000

    def now_s(self) -> int:
        return self.now_ms() // 1000


class Sandbox:
    """The stand-ins of one data directory. `app` is the ASGI application; its lifespan sends messages and changes refunds.

    `grpc_ports`: ports on which stock services also serve gRPC, by service.
    """

    def __init__(
        self,
        database: Path,
        webhook_url: str | None = None,
        webhook_secret: str | None = None,
        grpc_ports: Mapping[str, int] | None = None,
    ) -> None:
        self.journal = Journal(database)
        self.chaos = Chaos()
        self.clock = Clock(self.journal)
        self.webhooks = WebhookSender(self.journal, self.chaos)
        self.payments = Provider(self.journal, self.clock.now_s, self.webhooks.wake)
        self.rooms = StockRooms(self.journal, self.clock.now_ms)
        self.grpc: StockGrpc | None = None
        if grpc_ports:
            from commands.sandbox.stock_grpc_server import StockGrpc  # gRPC would be a third of the import time

            self.grpc = StockGrpc(self.rooms, self.chaos, grpc_ports, self._refused)
        if webhook_url and webhook_secret:
            self.webhooks.send_to(webhook_url, webhook_secret)
        self.app: ASGIApp = Starlette(
            routes=[
                *payment_routes(self.payments),
                *stock_routes(self.rooms, SERVICES),
                *self._pages(),
            ],
            middleware=[
                Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"]),
                Middleware(_Label),
                Middleware(ChaosMiddleware, chaos=self.chaos, port_of=port_of, on_refused=self._refused),
            ],
            lifespan=self._life,
        )

    def close(self) -> None:
        self.journal.close()

    def _refused(self, port: str, verb: str, fate: Fate, status: int = 0) -> None:
        """Record a call that chaos kept from its stand-in."""
        with self.journal.transaction() as db:
            self.journal.note_call(db, self.clock.now_ms(), port, verb, fate=fate, status=status)

    @asynccontextmanager
    async def _life(self, app: Starlette) -> AsyncIterator[None]:
        if self.grpc is not None:
            await self.grpc.start()
        tasks = [
            asyncio.create_task(keep_at("refunds", self._turn_refunds)),
            asyncio.create_task(keep_at("messages", self.webhooks.run)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.grpc is not None:
                await self.grpc.stop()

    async def _turn_refunds(self) -> None:
        while True:
            self.payments.turn_refunds()
            await asyncio.sleep(TICK_S)

    def _pages(self) -> Sequence[BaseRoute]:
        return [
            Route("/sandbox/health", self._health, methods=["GET"]),
            Route("/sandbox/chaos", self._chaos, methods=["GET", "PUT"]),
            Route("/sandbox/clock", self._clock, methods=["GET", "PUT"]),
            Route("/sandbox/journal", self._journal_page, methods=["GET"]),
            Route("/sandbox/sums", self._sums, methods=["GET"]),
        ]

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"sandbox": True, "real_money": False})

    async def _chaos(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self.chaos.set(decode_chaos(await request.body()))
            except msgspec.DecodeError as exc:
                return JSONResponse({"error": str(exc)}, 422)
        return Response(msgspec.json.encode(self.chaos.config), media_type="application/json")

    async def _clock(self, request: Request) -> Response:
        if request.method == "PUT":
            try:
                self.clock.move(_decode_clock(await request.body()).offset_s)
            except msgspec.DecodeError as exc:
                return JSONResponse({"error": str(exc)}, 422)
        return JSONResponse({"offset_s": self.clock.offset_s, "now_ms": self.clock.now_ms()})

    async def _journal_page(self, request: Request) -> Response:
        order_id = request.query_params.get("order_id")
        try:
            limit = min(int(request.query_params.get("limit", JOURNAL_ROWS)), JOURNAL_ROWS)
        except ValueError:
            return JSONResponse({"error": "limit must be a number"}, 422)
        where, arguments = ("where order_id = ?", (order_id,)) if order_id else ("", ())
        tables = {
            table: self.journal.rows(f"select * from {table} {where} order by id desc limit ?", *arguments, limit)[::-1]  # noqa: S608
            for table in ("calls", "effects")
        }
        return JSONResponse(tables)

    async def _sums(self, request: Request) -> Response:
        rows = self.journal.rows(_SUMS)
        calls = self.journal.rows("select port, verb, fate, count(*) as count from calls group by port, verb, fate")
        return JSONResponse({"orders": {row.pop("order_id"): row for row in rows}, "calls": calls})


_SUMS = """
select order_id,
    sum(case kind when 'captured' then amount else 0 end) as captured_minor,
    sum(case kind when 'refunded' then amount when 'refund_failed' then -amount else 0 end) as refunded_minor,
    sum(case kind when 'reserved' then amount when 'released' then -amount else 0 end) as reserved_units
from effects where order_id <> '' group by order_id
"""


class _ClockBody(msgspec.Struct, forbid_unknown_fields=True):
    offset_s: int


_decode_clock = msgspec.json.Decoder(_ClockBody).decode


class _Label:
    """Adds the label to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def labelled(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"order-ledger-sandbox", b"no real money")]
            await send(message)

        await self._app(scope, receive, labelled)


def port_of(scope: Scope) -> str | None:
    """The port whose faults apply to a request; None for the customer's own requests and the pages."""
    path: str = scope["path"]
    if path.startswith("/v1/") and not path.endswith("/confirm"):
        return PAYMENTS
    parts = path.split("/")
    return parts[2] if path.startswith("/stock/") and "reservations" in parts else None


def serve_sandbox(sandbox: Sandbox, host: str, port: int, on_server: Callable[[uvicorn.Server], None]) -> int:
    """Serve until the server is stopped. Raises `ConfigError` for an address that other machines can reach."""
    if not ipaddress.ip_address(host).is_loopback:
        raise ConfigError("the sandbox listens only on the loopback interface")
    config = uvicorn.Config(
        sandbox.app, host=host, port=port, log_config=None, access_log=False, lifespan="on", proxy_headers=False
    )
    server = uvicorn.Server(config)
    on_server(server)
    with suppress(KeyboardInterrupt):
        server.run()
    sandbox.close()
    return 0 if server.started else 1
