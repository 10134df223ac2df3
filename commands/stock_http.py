"""The door to a stock service over HTTP and JSON. What its owner implements, below the service's URL:

    PUT /reservations/{order_id}      Idempotency-Key: res:...
        {"currency": "EUR", "lines": [{"sku": "mug-white", "name": "Mug, white", "quantity": 2, "unit_price_minor": 1200}]}
    200 {"status": "reserved", "reservation_ref": "r-17"}                the units of all lines are taken
    200 {"status": "rejected", "reason": "out_of_stock",                 nothing is taken; also unknown_item, price_changed
         "items": [{"sku": "mug-white", "available": 1}]}
    200 {"status": "released"}                                           a release of this order came first: nothing is taken

    DELETE /reservations/{order_id}   Idempotency-Key: rel:...
    200 {"status": "released"}        the units are back; also for an order that reserved nothing, which bars a later reserve

The same PUT again, also at the same time, takes nothing twice and gets the same answer. Any other status is tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from urllib.parse import quote

import httpx
import msgspec

from commands.answers import Answer, Unknown
from commands.stock_answers import answer_of, decode
from ledger.events import Line

MAX_ANSWER_BYTES = 64 * 1024
MAX_CONNECTIONS = 32  # as many calls as the reconciler has under way per port


class HttpStock:
    """One service. `base_url` without a slash at the end; no call takes longer than `timeout_ms`."""

    def __init__(self, name: str, base_url: str, timeout_ms: int = 10_000) -> None:
        self.name = name
        self._base_url, self._timeout_s = base_url.rstrip("/"), timeout_ms / 1000
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        local = (httpx.URL(base_url).host or "") in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.AsyncClient(timeout=self._timeout_s, limits=limits, trust_env=not local, follow_redirects=False)

    async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
        wanted = [{"sku": x.sku, "name": x.name, "quantity": x.quantity, "unit_price_minor": x.unit_price_minor} for x in lines]
        return await self._call("PUT", order_id, key, msgspec.json.encode({"currency": currency, "lines": wanted}))

    async def release(self, order_id: str, key: str) -> Answer:
        return await self._call("DELETE", order_id, key, b"")

    async def close(self) -> None:
        await self._client.aclose()

    async def _call(self, method: str, order_id: str, key: str, body: bytes) -> Answer:
        url = f"{self._base_url}/reservations/{quote(order_id, safe='')}"
        headers = {"Idempotency-Key": key, "Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        try:
            async with (
                asyncio.timeout(self._timeout_s),  # as a whole: httpx's own is per read
                self._client.stream(method, url, content=body, headers=headers) as response,
            ):
                raw = b""
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > MAX_ANSWER_BYTES:
                        return Unknown("an answer of more than 64 KiB")
        except TimeoutError:
            return Unknown("time-out")
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            return Unknown(type(exc).__name__)
        if response.status_code not in (200, 201):
            return Unknown(f"status {response.status_code}")
        try:
            return answer_of(self.name, decode(raw), released_only=method == "DELETE")
        except msgspec.DecodeError:
            return Unknown("an answer that is not of the contract")
