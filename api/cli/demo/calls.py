"""The demo's calls: to the ledger as gateway, desk and reader, to the sandbox as the customer's browser.

Nothing here races a clock. A wait ends when its condition holds; `StepPatience` ends the demo only if nothing at all has happened
for ten minutes, which is thirty times the usual length of the whole demo.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from api.cli.demo.inputs import PlacedOrder
from commands.sandbox import PUBLISHABLE_KEY
from commands.sandbox.cards import confirm_form
from ledger.http_client import HttpAnswer, HttpClient, NoAnswer, with_query

PATIENCE_S = 600.0
NOT_FINAL = (202, 429, 503)  # not decided, or not now: the same request is sent again
FIRST_PAUSE_S, MOST_PAUSE_S = 0.03, 0.25  # between two attempts


class StepPatience:
    """Runs out when there has been no progress anywhere for `PATIENCE_S`."""

    def __init__(self) -> None:
        self._moved_at = time.monotonic()

    def moved(self) -> None:
        """Record progress."""
        self._moved_at = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() - self._moved_at > PATIENCE_S


class Calls:
    """HTTP clients for the ledger and the sandbox. `sent_again` counts requests whose first answer was not final."""

    def __init__(self, info: dict[str, Any], connections: int) -> None:
        self.patience = StepPatience()
        self.sent_again = 0
        self._tokens = info["tokens"]
        self._client = HttpClient(info["url"], connections=connections)
        page = {"Authorization": f"Bearer {PUBLISHABLE_KEY}"}
        self._browser = HttpClient(info["sandbox_url"], connections=connections, headers=page)

    async def close(self) -> None:
        await self._client.close()
        await self._browser.close()

    def headers(self, role: str, customer: str | None = None, key: str | None = None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._tokens[role]}"}
        if customer is not None:
            headers["Customer-Id"] = customer
        if key is not None:
            headers["Idempotency-Key"] = key
        return headers

    async def final(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        value: Any = None,
        params: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
    ) -> HttpAnswer:
        """The final answer: like a gateway, repeats the request until the answer is final. `value` is sent as JSON.

        Raises `NoAnswer`.
        """
        if value is not None:
            body, headers = json.dumps(value).encode(), {"Content-Type": "application/json"} | headers
        pause_s = FIRST_PAUSE_S
        while True:
            answer = await _ask(self._client, method, with_query(path, params or {}), headers, body)
            if answer.status not in NOT_FINAL or self.patience.over:
                return answer
            self.sent_again += 1
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, MOST_PAUSE_S)

    async def order(self, order: PlacedOrder, **params: str | int) -> dict[str, Any]:
        """The order as its gateway reads it, or the problem."""
        headers = self.headers("gateway", order.customer)
        shown: dict[str, Any] = (await self.final("GET", f"/orders/{order.order_id}", headers, params=params)).json()
        return shown

    async def events(self, order: PlacedOrder) -> list[dict[str, Any]]:
        headers = self.headers("gateway", order.customer)
        answer = await self.final("GET", f"/orders/{order.order_id}/events", headers)
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    async def page(self, **params: str | int) -> dict[str, Any]:
        """A page of all orders, read as a reader."""
        page: dict[str, Any] = (await self.final("GET", "/orders", self.headers("reader"), params=params)).json()
        return page

    async def until(self, order: PlacedOrder, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `holds(order)`; returns the order, also if the patience runs out."""
        pause_s, version = FIRST_PAUSE_S, 0
        while True:
            shown = await self.order(order)
            if holds(shown) or self.patience.over:
                return shown
            if shown.get("version", 0) > version:
                version, pause_s = shown["version"], FIRST_PAUSE_S
                self.patience.moved()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, MOST_PAUSE_S)

    async def until_events(self, order: PlacedOrder, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until `holds(events of the order)`, or the patience runs out."""
        pause_s, known = FIRST_PAUSE_S, 0
        while not holds(rows := await self.events(order)) and not self.patience.over:
            if len(rows) > known:
                known, pause_s = len(rows), FIRST_PAUSE_S
                self.patience.moved()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, MOST_PAUSE_S)

    # ---- the sandbox

    async def confirm(self, payment: dict[str, Any], card: str) -> str:
        """Do what Stripe's script does in the customer's browser. Returns the payment's new status, or the code of a refusal."""
        form = confirm_form(payment["client_secret"], card)
        said = (await self._post(f"/v1/payment_intents/{payment['provider_ref']}/confirm", form)).json()
        return str(said["error"]["code"] if "error" in said else said["status"])

    async def authenticate(self, payment: dict[str, Any]) -> None:
        """3-D Secure: the customer answers the bank's question."""
        await self._post(f"/sandbox/payments/{payment['provider_ref']}/authenticate", {"outcome": "success"})

    async def sums(self) -> dict[str, Any]:
        """The sums of each order in the sandbox's journal."""
        sums: dict[str, Any] = (await _ask(self._browser, "GET", "/sandbox/sums")).json()
        return sums

    async def _post(self, path: str, form: Mapping[str, str]) -> HttpAnswer:
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return await _ask(self._browser, "POST", path, headers, urlencode(form).encode())


async def _ask(
    client: HttpClient, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> HttpAnswer:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await client.request(method, path, body=body, headers=headers)
    except TimeoutError:
        raise NoAnswer(f"no answer in {PATIENCE_S:g} s") from None
