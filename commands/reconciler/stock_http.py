"""The door to a stock service over HTTP and JSON. The service implements, below its URL:

    PUT /reservations/{order_id}      Idempotency-Key: res:...
        {"currency": "EUR", "lines": [{"sku": "mug-white", "name": "Mug, white", "quantity": 2, "unit_price_minor": 1200}]}
    200 {"status": "reserved", "reservation_ref": "r-17"}                the units of all lines are taken
    200 {"status": "rejected", "reason": "out_of_stock",                 nothing is taken; also unknown_item, price_changed
         "items": [{"sku": "mug-white", "available": 1}]}
    200 {"status": "released"}                                           this order was released before: nothing is taken

    DELETE /reservations/{order_id}   Idempotency-Key: rel:...
    200 {"status": "released"}        the units are returned; also for an order without a reservation, which bars a later one

A repeated PUT, even a concurrent one, takes nothing twice and gets the same answer. Any other status is retried.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from commands.reconciler.answers import Answer, Unknown
from commands.reconciler.stock_answers import answer_of, decode
from commands.reconciler.tries import TRIES, is_not_now, may_repeat, with_tries
from ledger.events import Line
from ledger.http_client import HttpAnswer, HttpClient, NoAnswer, retry_after_s

MAX_ANSWER_BYTES = 64 * 1024
MAX_CONNECTIONS = 32 * TRIES  # as many calls as the reconciler makes in parallel per port, each with all its tries


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

    async def close(self) -> None:
        await self._client.close()

    async def _call(self, method: str, order_id: str, key: str, body: bytes) -> Answer:
        path = f"/reservations/{quote(order_id, safe='')}"
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
        if said.status not in (200, 201):
            return Unknown(f"status {said.status}", again_after(said) or 0.0)
        try:
            return answer_of(self.name, decode(said.body), released_only=method == "DELETE")
        except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: bytes that are not UTF-8
            return Unknown("answer does not follow the contract")


def again_after(said: HttpAnswer | NoAnswer) -> float | None:
    """For `with_tries`: None for a definite answer."""
    if isinstance(said, NoAnswer):
        return 0.0 if said.broken else None
    return retry_after_s(said.headers, time.time()) if is_not_now(said.status) else None
