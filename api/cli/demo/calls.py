"""The demo's calls: to the ledger as gateway, desk and reader, to the sandbox as the customer's browser. And how long it waits.

Nothing here races a clock. A wait ends when what is waited for is there; `Patience` only ends the demo when nothing at all has
happened for ten minutes, which is thirty times what the whole demo usually takes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

from api.cli.demo.inputs import Placed
from commands.sandbox import PUBLISHABLE_KEY
from commands.sandbox.cards import confirm_form
from ledger.http_client import HttpAnswer, HttpClient, NoAnswer, with_query

PATIENCE_S = 600.0
NOT_FINAL = (202, 429, 503)  # not decided, not now: the same request is sent again
FIRST_PAUSE_S, MOST_PAUSE_S = 0.03, 0.25  # between two looks at the same thing


class Patience:
    """Over when nothing has moved for `PATIENCE_S`, whoever waits and for whatever."""

    def __init__(self) -> None:
        self._moved_at = time.monotonic()

    def moved(self) -> None:
        """Something got further."""
        self._moved_at = time.monotonic()

    @property
    def over(self) -> bool:
        return time.monotonic() - self._moved_at > PATIENCE_S


class Calls:
    """Both ends of the demo over HTTP. `sent_again` counts commands whose first answer was not final."""

    def __init__(self, info: dict[str, Any], connections: int) -> None:
        self.patience = Patience()
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
        """The final answer: the request is sent again, as a gateway does, while the answer is none. `value` is sent as JSON.

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

    async def order(self, order: Placed, **params: str | int) -> dict[str, Any]:
        """The order as its gateway reads it, or the problem it gets."""
        headers = self.headers("gateway", order.customer)
        shown: dict[str, Any] = (await self.final("GET", f"/orders/{order.order_id}", headers, params=params)).json()
        return shown

    async def events(self, order: Placed) -> list[dict[str, Any]]:
        headers = self.headers("gateway", order.customer)
        answer = await self.final("GET", f"/orders/{order.order_id}/events", headers)
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    async def page(self, **params: str | int) -> dict[str, Any]:
        """A page of all orders, as a reader sees it."""
        page: dict[str, Any] = (await self.final("GET", "/orders", self.headers("reader"), params=params)).json()
        return page

    async def until(self, order: Placed, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The order once `holds` of it, or as it is when the patience is over."""
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

    async def until_events(self, order: Placed, holds: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Until `holds` of the order's events, or the patience is over."""
        pause_s, known = FIRST_PAUSE_S, 0
        while not holds(rows := await self.events(order)) and not self.patience.over:
            if len(rows) > known:
                known, pause_s = len(rows), FIRST_PAUSE_S
                self.patience.moved()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, MOST_PAUSE_S)

    # ---- the sandbox

    async def confirm(self, payment: dict[str, Any], card: str) -> str:
        """What Stripe's script does in the customer's browser; the payment's new status, or the code of a refusal."""
        form = confirm_form(payment["client_secret"], card)
        said = (await self._post(f"/v1/payment_intents/{payment['provider_ref']}/confirm", form)).json()
        return str(said["error"]["code"] if "error" in said else said["status"])

    async def authenticate(self, payment: dict[str, Any]) -> None:
        """3-D Secure: the customer types what the bank asks for."""
        await self._post(f"/sandbox/payments/{payment['provider_ref']}/authenticate", {"outcome": "success"})

    async def sums(self) -> dict[str, Any]:
        """What each order came to by the sandbox's journal."""
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
