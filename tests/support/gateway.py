"""The shop's gateway in miniature: one key per intent, sent again until the answer is final.

It records every final answer (`acknowledged`) and everything a gateway must never see (`never`): an accepted order that cannot
be read, two answers for one key, a 500.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any, NamedTuple

import httpx

from commands.sandbox.catalogue import order_body
from tests.support import loopback
from tests.support.patience import PATIENCE_S

# Methods and codes of a 503 that is an honest answer on a busy machine: Kafka has not acknowledged the command within three
# seconds, or decisions are far behind. Nothing happens to reads there.
BUSY = frozenset({"POST ledger-unavailable", "POST decisions-behind"})


class Acknowledged(NamedTuple):
    """A final 2xx: a promise of the order as of that version."""

    order_id: str
    customer: str
    version: int
    status: str
    total_minor: int


class Gateway:
    """`connections` requests at a time against one node. Use as an async context manager."""

    def __init__(self, url: str, token: str, connections: int = 32, give_up_s: float = PATIENCE_S) -> None:
        self._token, self._give_up_s = token, give_up_s
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = loopback.async_client(base_url=url, limits=limits, timeout=httpx.Timeout(PATIENCE_S, pool=None))
        # for reads on another connection than the write
        self._fresh = loopback.async_client(base_url=url, limits=httpx.Limits(max_keepalive_connections=0), timeout=PATIENCE_S)
        self._turn = asyncio.Semaphore(connections)
        self.acknowledged: list[Acknowledged] = []
        self.never: list[str] = []
        self.seen: Counter[str] = Counter()
        self.unavailable: Counter[str] = Counter()  # each 503: its method and code
        self.retries = 0
        self.latencies_s: list[float] = []

    async def __aenter__(self) -> Gateway:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()
        await self._fresh.aclose()

    def headers(self, customer: str, key: str | None = None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._token}", "Customer-Id": customer}
        return headers if key is None else headers | {"Idempotency-Key": key, "Prefer": "wait=2"}

    async def once(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> httpx.Response | None:
        """One try; None when no answer came."""
        began = time.perf_counter()
        try:
            client = self._fresh if method == "GET" else self._client
            answer = await client.request(method, path, headers=headers, json=body)
        except httpx.TransportError as exc:
            self.seen[type(exc).__name__] += 1
            return None
        self.seen[str(answer.status_code)] += 1
        if answer.status_code == 201:
            self.latencies_s.append(time.perf_counter() - began)
        if answer.status_code == 503:
            self.unavailable[f"{method} {answer.json()['code']}"] += 1
        elif answer.status_code >= 500:
            self.never.append(f"{method} {path}: {answer.status_code} {answer.text}")
        return answer

    def unexpected(self, *others: str) -> list[str]:
        """Answers that processes which nothing disturbs do not give, however slow the machine; `others` are expected too."""
        return sorted({*self.seen, *self.unavailable} - {"200", "201", "202", "503", *BUSY, *others})

    async def final(self, method: str, path: str, customer: str, key: str | None = None, body: Any = None) -> httpx.Response:
        """Repeat the request until its answer is final: not silence, 202, 429 or 503."""
        headers, deadline = self.headers(customer, key), time.monotonic() + self._give_up_s
        while True:
            answer = await self.once(method, path, headers, body)
            if answer is not None and answer.status_code not in (202, 429, 503):
                return answer
            if answer is not None and answer.status_code == 202:
                await self._follow(answer, customer)
            if time.monotonic() > deadline:
                raise AssertionError(f"no final answer to {method} {path} ({key}) in {self._give_up_s} s; {self.seen}")
            self.retries += 1
            await asyncio.sleep(random.uniform(0.02, 0.2))

    async def _follow(self, undecided: httpx.Response, customer: str) -> None:
        """GET the location that a 202 names: a durable command is pending, accepted or refused, never unknown."""
        answer = await self.once("GET", undecided.headers["Location"], self.headers(customer))
        if answer is not None and answer.status_code == 404:
            self.never.append(f"the command of a 202 is unknown: {undecided.headers['Location']}")

    async def place(self, number: int, customer: str, key: str | None = None) -> httpx.Response:
        """Place cart `number`, then read the order immediately, on another connection: it must be there, as answered."""
        key, body = key or f"cart-{number}", order_body(number)
        async with self._turn:
            answer = await self.final("POST", "/orders", customer, key, body)
            if answer.status_code != 201:
                self.never.append(f"cart {number}: {answer.status_code} {answer.text}")
                return answer
            self._note(answer, customer)
            read = await self.final("GET", f"/orders/{answer.json()['order_id']}", customer)
            if read.status_code != 200 or (read.json()["version"] == 1 and read.content != answer.content):
                self.never.append(f"{answer.json()['order_id']} was accepted and reads {read.status_code} {read.text}")
        return answer

    async def again(self, number: int, customer: str, first: httpx.Response) -> None:
        """The same key and body again: the first answer, byte for byte."""
        async with self._turn:
            answer = await self.final("POST", "/orders", customer, f"cart-{number}", order_body(number))
        if (answer.status_code, answer.content) != (first.status_code, first.content):
            self.never.append(f"cart {number}: first {first.status_code} {first.text}, then {answer.status_code} {answer.text}")

    async def other_body(self, number: int, customer: str) -> None:
        """The same key with another cart is refused."""
        async with self._turn:
            answer = await self.final("POST", "/orders", customer, f"cart-{number}", order_body(number + 1_000_000))
        if answer.status_code != 422 or answer.json()["code"] != "idempotency-key-reused":
            self.never.append(f"cart {number} with another body: {answer.status_code} {answer.text}")

    async def cancel(self, order_id: str, customer: str) -> None:
        """Cancel, twice with one key."""
        async with self._turn:
            first = await self.final("POST", f"/orders/{order_id}/cancel", customer, f"cancel-{order_id}", {})
            second = await self.final("POST", f"/orders/{order_id}/cancel", customer, f"cancel-{order_id}", {})
        if first.status_code != 200 or (first.status_code, first.content) != (second.status_code, second.content):
            self.never.append(f"cancel {order_id}: {first.status_code} {first.text}, then {second.status_code} {second.text}")
            return
        self._note(first, customer)

    def _note(self, answer: httpx.Response, customer: str) -> None:
        order = answer.json()
        self.acknowledged.append(
            Acknowledged(order["order_id"], customer, order["version"], order["status"], order["total_minor"])
        )

    async def session(self, number: int, customer: str) -> None:
        """One customer's session: place, perhaps retry too early, perhaps reuse the key by mistake, perhaps cancel."""
        choice = random.Random(number)
        placed = await self.place(number, customer)
        if placed.status_code != 201:
            return
        if choice.random() < 0.3:
            await self.again(number, customer, placed)
        if choice.random() < 0.1:
            await self.other_body(number, customer)
        if choice.random() < 0.3:
            await self.cancel(placed.json()["order_id"], customer)
