"""Faults over HTTP: an ASGI middleware in front of the stand-ins.

To close a connection without an answer, it starts a response and does not continue: the server then drops the connection, and
the client sees a broken answer, as after a reset in the middle of one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from commands.sandbox.chaos import Chaos, Fate

_STATUS = {Fate.ERROR: 500, Fate.TOO_MANY: 429, Fate.CONFLICT: 409}
_TYPE = {Fate.ERROR: "api_error", Fate.TOO_MANY: "rate_limit_error", Fate.CONFLICT: "idempotency_key_in_use"}


class ChaosMiddleware:
    """Draws the fate of each request that belongs to a port (`port_of(scope)`; None: no faults).

    The fate is stored in `scope["fate"]` for the journal; `on_refused(port, method, fate, status)` is called for requests that
    never reach the service.
    """

    def __init__(
        self,
        app: ASGIApp,
        chaos: Chaos,
        port_of: Callable[[Scope], str | None],
        on_refused: Callable[[str, str, Fate, int], None],
    ) -> None:
        self._app, self._chaos, self._port_of, self._on_refused = app, chaos, port_of, on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        port = self._port_of(scope) if scope["type"] == "http" else None
        if port is None:
            await self._app(scope, receive, send)
            return
        fate = self._chaos.draw(port)
        scope["fate"] = fate
        match fate:
            case Fate.ERROR | Fate.TOO_MANY | Fate.CONFLICT:
                self._on_refused(port, scope["method"], fate, _STATUS[fate])
                await _refuse(send, fate)
            case Fate.RESET:
                self._on_refused(port, scope["method"], fate, 0)
                await _break_off(send)
            case Fate.TIMEOUT:
                await self._app(scope, receive, _nowhere)
                await asyncio.sleep(self._chaos.config.hold_timeout_ms / 1000)
                await _break_off(send)
            case Fate.RESET_AFTER:
                await self._app(scope, receive, _nowhere)
                await _break_off(send)
            case Fate.SLOW:
                await asyncio.sleep(self._chaos.of(port).slow_ms / 2000)
                await self._app(scope, receive, _late(send, self._chaos.of(port).slow_ms / 2000))
            case Fate.NONE | Fate.ERROR_KEPT:
                await self._app(scope, receive, send)


async def _refuse(send: Send, fate: Fate) -> None:
    """Refuse in the shape of Stripe's errors; for a stock service any body will do."""
    body = json.dumps({"error": {"type": _TYPE[fate], "message": f"chaos: {fate}"}}).encode()
    await send({"type": "http.response.start", "status": _STATUS[fate], "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def _break_off(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})


async def _nowhere(message: Message) -> None:
    """Discard an answer."""


def _late(send: Send, pause_s: float) -> Send:
    async def late(message: Message) -> None:
        if message["type"] == "http.response.start":
            await asyncio.sleep(pause_s)
        await send(message)

    return late
