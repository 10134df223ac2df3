"""What the demo does and checks, step by step, as the people around the ledger would: a gateway, a shop desk, the services.

A step notes how often it did something and every way in which an answer was not as promised; nothing stops at a problem.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import httpx
import msgspec
from msgspec import Struct

from api.catalogue import order_body
from api.demo_inputs import Placed, Wrong, customer_of, facts_of, key_of, wrong_requests
from commands.messages import OrderCommand, command_codec
from ledger.log import EventLog, NewRecord
from ledger.topics import Topics
from ledger.transitions import Status

CONNECTIONS = 16
FACTS_S = 20.0  # for facts to be decided and folded
FINAL_S = 20.0  # for a command to be decided, sent again as often as it takes

T = TypeVar("T")


class Step(Struct):
    """One line of the demo's table. `problems` is empty when everything was as promised."""

    name: str
    promise: str
    count: int = 0
    problems: list[str] = msgspec.field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.problems.append(otherwise)


class Steps:
    """All steps, in the order of `run`. `advance(name, done, total)` shows how far a step is."""

    def __init__(
        self, orders: int, info: dict[str, Any], log: EventLog, topics: Topics, advance: Callable[[str, int, int], None]
    ) -> None:
        self.steps: list[Step] = []
        self.placed: list[Placed] = []
        self.latencies_s: list[float] = []
        self.statuses: dict[str, int] = {}
        self.sent_again = 0
        self._orders, self._tokens = orders, info["tokens"]
        self._log, self._topics, self._advance = log, topics, advance
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._client = httpx.AsyncClient(base_url=info["url"], timeout=15.0, limits=limits)

    async def run(self) -> None:
        async with self._client:
            await self._start()
            await self._place()
            if self.placed:
                self.placed.sort(key=lambda order: order.number)
                await self._retry()
                await self._refuse()
                await self._pay()
                await self._fulfil()
                await self._cancel()
                await self._read_past()
            await self._list()

    def _step(self, name: str, promise: str) -> Step:
        self.steps.append(Step(name, promise))
        return self.steps[-1]

    async def _each(self, step: Step, items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
        """`work` on every item, `CONNECTIONS` at a time. An answer that never comes is a problem of the step."""
        left = iter(items)

        async def worker() -> None:
            for item in left:
                try:
                    await work(item)
                except httpx.HTTPError as exc:
                    step.problems.append(f"no answer: {exc!r}")
                step.count += 1
                self._advance(step.name, step.count, len(items))

        self._advance(step.name, 0, len(items))
        await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))

    def _as(self, role: str, customer: str | None = None, key: str | None = None) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self._tokens[role]}"}
        if customer is not None:
            headers["Customer-Id"] = customer
        if key is not None:
            headers["Idempotency-Key"] = key
        return headers

    async def _command(self, method: str, path: str, headers: dict[str, str], body: dict[str, Any]) -> httpx.Response:
        """Send a command as a gateway does: the same again until the answer is final, for 202 and 503 are not."""
        deadline = time.monotonic() + FINAL_S
        while True:
            answer = await self._client.request(method, path, json=body, headers=headers)
            if answer.status_code not in (202, 429, 503) or time.monotonic() > deadline:
                return answer
            self.sent_again += 1
            await asyncio.sleep(0.1)

    async def _post(self, number: int) -> httpx.Response:
        headers = self._as("gateway", customer_of(number), key_of(number))
        return await self._command("POST", "/orders", headers, order_body(number))

    async def _read(self, order: Placed, **params: str | int) -> dict[str, Any]:
        headers = self._as("gateway", order.customer)
        shown: dict[str, Any] = (await self._client.get(f"/orders/{order.order_id}", params=params, headers=headers)).json()
        return shown

    # ---- the steps

    async def _start(self) -> None:
        """The first order waits for the processor, which becomes ready a moment later than `serve`; it is not measured."""
        step = self._step("first order", "waits for the processor, and is decided")
        await self._each(step, [0], lambda number: self._place_one(step, number))
        self.latencies_s.clear()

    async def _place(self) -> None:
        step = self._step("orders placed over HTTP", "201: decided, committed, there for the very next read")
        await self._each(step, range(1, self._orders), lambda number: self._place_one(step, number))

    async def _place_one(self, step: Step, number: int) -> None:
        began = time.perf_counter()
        answer = await self._post(number)
        took_s = time.perf_counter() - began
        if answer.status_code != 201:
            step.problems.append(f"{key_of(number)}: {answer.status_code} {answer.text}")
            return
        self.latencies_s.append(took_s)
        order = Placed(number, order_body(number), answer.json()["order_id"], answer.content)
        self.placed.append(order)
        read = await self._client.get(answer.headers["Location"], headers=self._as("gateway", order.customer))
        step.expect(read.content == answer.content, f"{order.order_id} reads {read.status_code} {read.text}")

    async def _retry(self) -> None:
        step = self._step("orders posted again, twice at once", "the first answer to the byte, no second order")

        async def retry(order: Placed) -> None:
            for answer in await asyncio.gather(self._post(order.number), self._post(order.number)):
                same = (answer.status_code, answer.content) == (201, order.answer)
                step.expect(same, f"{order.key}: {answer.status_code} {answer.text}, first {order.answer.decode()}")
                step.expect("Idempotency-Replayed" in answer.headers, f"{order.key}: not marked as replayed")

        await self._each(step, self.placed[::5], retry)

    async def _refuse(self) -> None:
        step = self._step("wrong requests", "each refused with its own code, nothing changed")
        unpaid = [order for order in self.placed if order.life == "pending"]

        async def refuse(wrong: Wrong) -> None:
            answer = await self._client.request(wrong.method, wrong.path, headers=wrong.headers, content=wrong.body)
            found = (answer.status_code, answer.json().get("code"))
            wanted = (wrong.status, wrong.code)
            step.expect(found == wanted, f"{wrong.method} {wrong.path}: wanted {wanted}, got {found}")

        await self._each(step, wrong_requests(unpaid[0], unpaid[1], self._tokens), refuse)
        for order in unpaid[:2]:
            step.expect((await self._read(order)).get("version") == 1, f"{order.order_id} was changed by a refused request")

    async def _pay(self) -> None:
        step = self._step("payment and stock facts on the topic", "sent as commands by their services, decided in order")
        paid = [order for order in self.placed if order.life not in ("cancelled", "pending")]
        commands = [command for order in paid for command in facts_of(order)]
        await asyncio.to_thread(self._send, commands, step)

        async def until_paid(order: Placed) -> None:
            deadline = time.monotonic() + FACTS_S
            shown = await self._read(order)
            while shown.get("status") != Status.PAID and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
                shown = await self._read(order)
            found = (shown.get("status"), shown.get("captured_minor"))
            step.expect(found == (Status.PAID, order.body["total_minor"]), f"{order.order_id} is {found}")

        await self._each(step, paid, until_paid)
        step.count = len(commands)

    def _send(self, commands: list[OrderCommand], step: Step) -> None:
        codec, partitions = command_codec(), self._log.partitions(self._topics.commands)
        sender = self._log.sender("demo-services")
        try:
            for command in commands:
                key = command.order_id.encode()
                record = NewRecord(self._topics.commands, self._log.partition_for(key, partitions), key, codec.encode(command))
                sender.send(record, lambda acked, error: step.expect(error is None, f"not durable: {error}"))
        finally:
            sender.close()

    async def _fulfil(self) -> None:
        step = self._step("orders moved along by the desk", "processing, shipped, delivered, one version each")
        way = ("processing", "shipped", "delivered")

        async def fulfil(order: Placed) -> None:
            for status in way[: way.index(order.life) + 1]:
                body = {"status": status}
                if status == "shipped":
                    body |= {"carrier": "DHL", "tracking": f"0034{order.number:08}"}
                headers = self._as("admin", key=f"desk-{status}")
                answer = await self._command("PUT", f"/orders/{order.order_id}/status", headers, body)
                found = (answer.status_code, answer.json().get("status"))
                step.expect(found == (200, status), f"{order.order_id}: {answer.status_code} {answer.text}")

        await self._each(step, [order for order in self.placed if order.life in way], fulfil)

    async def _cancel(self) -> None:
        step = self._step("orders cancelled, or tried to", "early by customers, later by the desk, after shipping by nobody")

        async def cancel(order: Placed) -> None:
            desk = order.life == "refunding"
            headers = self._as("admin", key="cancel") if desk else self._as("gateway", order.customer, "cancel")
            answer = await self._command("POST", f"/orders/{order.order_id}/cancel", headers, {})
            shown = answer.json()
            found = (answer.status_code, shown.get("code") or shown["axes"]["payment"])
            wanted = {"cancelled": (200, "unpaid"), "refunding": (200, "refunding"), "shipped": (409, "too-late-to-cancel")}
            step.expect(found == wanted[order.life], f"{order.order_id} ({order.life}): got {found}")

        await self._each(step, [o for o in self.placed if o.life in ("cancelled", "refunding", "shipped")], cancel)

    async def _read_past(self) -> None:
        step = self._step("histories and past states read", "every version and every moment as it was then")

        async def read(order: Placed) -> None:
            headers = self._as("gateway", order.customer)
            rows = (await self._client.get(f"/orders/{order.order_id}/events", headers=headers)).json()["data"]
            versions = [row["version"] for row in rows]
            step.expect(versions == list(range(1, len(rows) + 1)), f"{order.order_id} has versions {versions}")
            for row in rows:
                then = await self._read(order, version=row["version"])
                step.expect(then.get("status") == row["status"], f"{order.order_id} v{row['version']}: {then}")
                last = max(r["version"] for r in rows if r["occurred_at"] <= row["occurred_at"])
                then = await self._read(order, at=row["occurred_at"])
                step.expect(then.get("version") == last, f"{order.order_id} at {row['occurred_at']}: {then}")

        await self._each(step, self.placed[: min(len(self.placed), 40)], read)

    async def _list(self) -> None:
        step = self._step("orders listed by status", "each once, under the status its life led to")
        wanted = Counter(order.status for order in self.placed)
        for status in map(str, Status):
            found = await self._pages(status)
            self.statuses[status] = len(found)
            step.count += len(found)
            step.expect(len(set(found)) == len(found), f"{status}: an order is listed twice")
            step.expect(len(found) == wanted[status], f"{status}: {len(found)} listed, {wanted[status]} expected")
            self._advance(step.name, step.count, len(self.placed))

    async def _pages(self, status: str) -> list[str]:
        found: list[str] = []
        params: dict[str, str | int] = {"status": status, "limit": 50}
        while True:
            page = (await self._client.get("/orders", params=params, headers=self._as("reader"))).json()
            found += [row["order_id"] for row in page["data"]]
            if page["next_cursor"] is None:
                return found
            params["cursor"] = page["next_cursor"]
