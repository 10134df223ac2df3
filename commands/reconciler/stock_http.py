"""The door to a stock service over HTTP and JSON. The service implements, below its URL:

    PUT /reservations/{order_id}      Idempotency-Key: res:...
        {"currency": "EUR", "lines": [{"sku": "mug-white", "name": "Mug, white", "quantity": 2, "unit_price_minor": 1200}]}
    200 {"status": "reserved", "reservation_ref": "r-17"}                the units of all lines are taken
    200 {"status": "rejected", "reason": "out_of_stock",                 nothing is taken; also unknown_item, price_changed
         "items": [{"sku": "mug-white", "available": 1}]}
    200 {"status": "released"}                                           this order was released before: nothing is taken

    DELETE /reservations/{order_id}   Idempotency-Key: rel:...
    200 {"status": "released"}        the units are returned; also for an order without a reservation, which bars a later one

    POST /reservations/{order_id}/release   Idempotency-Key: rel:...:part:1
        {"lines": [{"sku": "mug-white", "quantity": 1}]}
    200 {"status": "released"}        these units are returned, at most those still held; nothing more is barred
    404, 405, 501                     the service cannot release parts

    GET /capabilities
    200 {"release_parts": true}       asked once at start; any other answer means that it cannot

A repeated PUT or POST, even a concurrent one, takes or returns nothing twice and gets the same answer. Any other status is
retried.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from commands.reconciler.answers import Answer, No, Unknown
from commands.reconciler.stock_answers import answer_of, decode
from commands.reconciler.stock_port import NO_PARTS
from commands.reconciler.tries import TRIES, is_not_now, may_repeat, with_tries
from ledger.events import Line, Units
from ledger.http_client import HttpAnswer, HttpClient, NoAnswer, retry_after_s

MAX_ANSWER_BYTES = 64 * 1024
MAX_CONNECTIONS = 32 * TRIES  # as many calls as the reconciler makes in parallel per port, each with all its tries


class _Capabilities(msgspec.Struct):
    release_parts: bool = False


_decode_capabilities = msgspec.json.Decoder(_Capabilities).decode


class HttpStock:
    """One service. `base_url` has no trailing slash. A call with its retries takes at most `timeout_ms`."""

    def __init__(self, name: str, base_url: str, timeout_ms: int = 10_000) -> None:
        self.name = name
        self._timeout_s = timeout_ms / 1000
        self._client = HttpClient(base_url, connections=MAX_CONNECTIONS, max_bytes=MAX_ANSWER_BYTES)

    async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
        wanted = [{"sku": x.sku, "name": x.name, "quantity": x.quantity, "unit_price_minor": x.unit_price_minor} for x in lines]
        return await self._call("PUT", order_id, key, msgspec.json.encode({"currency": currency, "lines": wanted}))

    async def release(self, order_id: str, key: str) -> Answer:
        return await self._call("DELETE", order_id, key, b"")

    async def release_part(self, order_id: str, lines: Sequence[Units], part: int, key: str) -> Answer:
        body = msgspec.json.encode({"lines": [{"sku": x.sku, "quantity": x.quantity} for x in lines]})
        return await self._call("POST", order_id, key, body, part)

    async def knows_parts(self) -> bool | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                said = await self._client.request("GET", "/capabilities", body=None, headers={"Accept": "application/json"})
            return said.status == 200 and _decode_capabilities(said.body).release_parts
        except (NoAnswer, TimeoutError):
            return None
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False

    async def close(self) -> None:
        await self._client.close()

    async def _call(self, method: str, order_id: str, key: str, body: bytes, part: int | None = None) -> Answer:
        path = f"/reservations/{quote(order_id, safe='')}{'' if part is None else '/release'}"
        headers = {"Idempotency-Key": key, "Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})

        async def once() -> HttpAnswer | NoAnswer:
            try:
                return await self._client.request(method, path, body=body or None, headers=headers)
            except NoAnswer as exc:
                return exc

        tries = TRIES if may_repeat(method, headers) else 1
        try:
            said = await with_tries(once, again_after, self._timeout_s, tries)
        except TimeoutError:
            return Unknown("time-out")
        if isinstance(said, NoAnswer):
            return Unknown(str(said))
        if part is not None and said.status in (404, 405, 501):
            return No(NO_PARTS)
        if said.status not in (200, 201):
            return Unknown(f"status {said.status}", again_after(said) or 0.0)
        try:
            return answer_of(self.name, decode(said.body), released_only=method != "PUT", part=part)
        except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: bytes that are not UTF-8
            return Unknown("answer does not follow the contract")


def again_after(said: HttpAnswer | NoAnswer) -> float | None:
    """For `with_tries`: None for a definite answer."""
    if isinstance(said, NoAnswer):
        return 0.0 if said.broken else None
    return retry_after_s(said.headers, time.time()) if is_not_now(said.status) else None
