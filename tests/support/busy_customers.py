"""Customers of several nodes at a steady pace, and a desk that ships some of their orders, until somebody says stop.

Each request goes to any node, a repeated one perhaps to another, with the `Ledger-Position` of the last answer about its order.
So each node must know what any other one has answered.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import httpx

from tests.support import loopback
from tests.support.chaotic_shop import LIVES, Customers
from tests.support.gateway import Acknowledged
from tests.support.harness import order_body
from tests.support.patience import PATIENCE_S
from tests.support.processes import TOKENS, LedgerNode
from tests.support.sandboxed import RunningSandbox

CUSTOMERS = 7
AT_ONCE = 12
SHIPPED = 0.4  # share of the paid orders
UNTIL_PAID_S = 60.0


@dataclass
class Visit:
    """One order's customer, and the position in the last answer about it."""

    customer: str = ""
    position: str | None = None


_VISIT: ContextVar[Visit] = ContextVar("visit")


class BusyCustomers(Customers):
    """`going()` is asked before each order. `buyers` is the contact of each order, `acknowledged` every promise of the API."""

    def __init__(
        self,
        node: LedgerNode,
        sandbox: RunningSandbox,
        urls: Sequence[str],
        going: Callable[[], bool],
        per_s: float,
        deadline_s: float,
        seed: int = 0,
    ) -> None:
        super().__init__(node, sandbox, 0, deadline_s)
        self.buyers: dict[str, dict[str, Any]] = {}
        self.acknowledged: list[Acknowledged] = []
        self._urls, self._going, self._pause_s, self._seed = urls, going, 1 / per_s, seed
        self._next_at = 0.0

    async def _run(self) -> None:
        browser = {"Authorization": self._sandbox.browser.headers["Authorization"]}
        async with AsyncExitStack() as open_clients:

            async def client(url: str, headers: dict[str, str], timeout_s: float = PATIENCE_S) -> httpx.AsyncClient:
                opened = loopback.async_client(base_url=url, headers=headers, timeout=timeout_s, limits=loopback.EACH_ALONE)
                return await open_clients.enter_async_context(opened)

            self._shops = [await client(url, {}, 15.0) for url in self._urls]
            self._browser = await client(self._sandbox.url, browser)
            numbers = itertools.count()
            await asyncio.gather(*(self._work(numbers) for _ in range(AT_ONCE)))

    async def _work(self, numbers: itertools.count[int]) -> None:
        while self._going():
            now = time.monotonic()
            self._next_at = max(now, self._next_at) + self._pause_s
            await asyncio.sleep(self._next_at - now)
            number = next(numbers)
            await self._buy(number, LIVES[number % len(LIVES)])

    def _body(self, number: int) -> dict[str, Any]:
        name = f"buyer-{number}"
        address = {"line1": f"{number} Mill Lane", "city": "Leeds", "postcode": "LS1 1AA", "country": "GB"}
        contact = {"name": name, "email": f"{name}@customers.example", "shipping_address": address}
        return order_body(contact=contact, reference=f"cart-{number}")

    async def _buy(self, number: int, life: str) -> None:
        _VISIT.set(Visit(f"c-{number % CUSTOMERS}"))
        await super()._buy(number, life)
        order_id = self.ids[number]
        self.buyers[order_id] = self._body(number)["contact"]
        if random.Random(f"{self._seed} {number}").random() < SHIPPED and await self._is_paid(order_id):
            for status in ("shipped", "delivered"):
                answer = await self._final("PUT", f"/orders/{order_id}/status", {"status": status}, f"{status}-{number}", "admin")
                assert answer.status_code == 200, answer.text

    async def _is_paid(self, order_id: str) -> bool:
        """Once it is paid or cancelled, or after a while: nobody waits for a page that was closed."""
        deadline = time.monotonic() + UNTIL_PAID_S
        while True:
            order = (await self._final("GET", f"/orders/{order_id}", None, None)).json()
            if order["status"] != "pending" or time.monotonic() > deadline:
                return bool(order["status"] == "paid")
            await asyncio.sleep(0.2)

    async def _final(
        self, method: str, path: str, body: dict[str, Any] | None, key: str | None, role: str = "gateway"
    ) -> httpx.Response:
        visit = _VISIT.get()
        headers = {"Prefer": "wait=5", "Authorization": f"Bearer {TOKENS[role]}"}
        headers |= {"Customer-Id": visit.customer} if role == "gateway" else {}
        headers |= {"Idempotency-Key": key} if key else {}
        while True:
            assert time.monotonic() < self._deadline, f"{method} {path} has no answer"
            position = {"Ledger-Position": visit.position} if visit.position else {}
            try:
                answer = await self._choice.choice(self._shops).request(method, path, json=body, headers=headers | position)
            except httpx.TransportError:
                await asyncio.sleep(0.2)
                continue
            self.answers[answer.status_code] += 1
            if answer.status_code in (202, 429, 503):
                await asyncio.sleep(0.1)
                continue
            visit.position = answer.headers.get("Ledger-Position", visit.position)
            if key is not None and answer.is_success:
                self._note(answer.json(), visit.customer)
            return answer

    def _note(self, shown: dict[str, Any], customer: str) -> None:
        if {"order_id", "version", "status", "total_minor"} <= shown.keys():
            self.acknowledged.append(
                Acknowledged(shown["order_id"], customer, shown["version"], shown["status"], shown["total_minor"])
            )
