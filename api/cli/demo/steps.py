"""The demo's steps: what the gateway, the customer's browser and the shop's desk do, and what is checked.

The sandbox plays the payment provider and the stock services. The ledger calls it over HTTP, like the real ones.

A step records how often it did something, how long that took, and every answer that was not as promised; a problem does not
stop the demo. No step depends on the speed of another one: orders that must expire have a short time to pay and are not used
otherwise, all others have a day.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from api.cli.demo import desk
from api.cli.demo.calls import Calls
from api.cli.demo.inputs import (
    BY_CUSTOMER,
    GOODWILL,
    IN_PARCELS,
    NEVER_PAID,
    NOT_THERE,
    REFUNDED,
    UNIT_CANCELLED,
    PlacedOrder,
    Wrong,
    cart_of,
    customer_of,
    key_of,
    life_of,
    wrong_requests,
)
from ledger.http_client import HttpAnswer, NoAnswer
from ledger.transitions import Status

CONNECTIONS = 16
BATCH = 50  # orders that are placed before they are paid for
FINISHED = frozenset({"StockRejected", "StockReleased"})  # the service holds nothing for the order, and never will again

T = TypeVar("T")


class Step(Struct):
    """One line of the demo's table. `problems` is empty if everything was as promised."""

    name: str
    promise: str
    count: int = 0
    seconds: float = 0.0
    problems: list[str] = msgspec.field(default_factory=list)

    def expect(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.problems.append(otherwise)


class Steps:
    """All steps, in the order of `run`. `advance(name, done, total)` shows the progress of a step."""

    def __init__(self, orders: int, info: dict[str, Any], advance: Callable[[str, int, int], None]) -> None:
        self.steps: list[Step] = []
        self.placed: list[PlacedOrder] = []
        self.latencies_s: list[float] = []
        self.paid_after_s: list[float] = []
        self.statuses: dict[str, int] = {}
        self.outside: dict[str, Any] = {}
        self._orders, self._tokens, self._advance = orders, info["tokens"], advance
        self._calls = Calls(info, CONNECTIONS)

    @property
    def sent_again(self) -> int:
        return self._calls.sent_again

    async def run(self) -> None:
        try:
            await self._start()
            await self._place_and_pay()
            if self.placed:
                self.placed.sort(key=lambda order: order.number)
                await self._retry()
                await self._cut()
                await self._fulfil()
                await self._give_back()
                await self._cancel()
                await self._settle()
                await self._read_past()
                await self._find()
            await self._list()
            self.outside = await self._calls.sums()
        finally:
            await self._calls.close()

    def _step(self, name: str, promise: str) -> Step:
        self.steps.append(Step(name, promise))
        return self.steps[-1]

    async def _each(self, step: Step, items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
        """Run `work` on every item, `CONNECTIONS` at a time. A missing answer is a problem of the step."""
        began, left = time.monotonic(), iter(items)

        async def worker() -> None:
            for item in left:
                try:
                    await work(item)
                except NoAnswer as exc:
                    step.problems.append(f"no answer: {exc!r}")
                step.count += 1
                self._calls.patience.moved()
                self._advance(step.name, step.count, len(items))

        self._advance(step.name, 0, len(items))
        await asyncio.gather(*(worker() for _ in range(CONNECTIONS)))
        step.seconds += time.monotonic() - began

    async def _post(self, number: int) -> HttpAnswer:
        headers = self._calls.headers("gateway", customer_of(number), key_of(number))
        return await self._calls.final("POST", "/orders", headers, cart_of(number))

    # ---- the steps

    async def _start(self) -> None:
        """Not measured: the first order waits for the processor, which becomes ready a moment after `serve`."""
        step = self._step("first order", "decided as soon as the processor is ready")
        await self._each(step, [0], lambda number: self._place_one(step, number))
        self.latencies_s.clear()

    async def _place_and_pay(self) -> None:
        """Place the orders that nobody pays first: their time to pay runs out during the other steps."""
        placing = self._step("orders placed over HTTP", "201: decided, committed, visible to the next read")
        paying = self._step("orders paid in the sandbox", "first and second card, 3-D Secure: captured once, paid")
        expiring = [n for n in range(1, self._orders) if life_of(n).name == NEVER_PAID]
        others = [n for n in range(1, self._orders) if life_of(n).name != NEVER_PAID]
        await self._each(placing, expiring, lambda n: self._place_one(placing, n))
        for start in range(0, len(others), BATCH):
            known = len(self.placed)
            await self._each(placing, others[start : start + BATCH], lambda n: self._place_one(placing, n))
            if start == 0:
                await self._refuse()
            await self._each(paying, [o for o in self.placed[known:] if o.life.paid], lambda o: self._pay_one(paying, o))

    async def _pay_one(self, step: Step, order: PlacedOrder) -> None:
        path, headers = f"/orders/{order.order_id}/payment", self._calls.headers("gateway", order.customer, "pay-1")
        body = {"total_minor": order.body["total_minor"], "currency": order.body["currency"]}
        answer = await self._calls.final("POST", path, headers, body)
        if answer.status != 201:
            step.problems.append(f"{order.order_id}: payment {answer.status} {answer.text}")
            return
        payment = answer.json()
        for card in order.life.cards:
            said = await self._calls.confirm(payment, card)
            last = card is order.life.cards[-1]
            wanted = "requires_action" if order.life.authenticate else "requires_capture" if last else "card_declined"
            step.expect(said == wanted, f"{order.order_id}: the card is {said}, not {wanted}")
            if not last:  # the customer's page reports the declined card to the shop
                headers = self._calls.headers("gateway", order.customer)
                seen = await self._calls.final("POST", path, headers, {"action": "confirm"})
                step.expect(seen.json().get("state") == "declined", f"{order.order_id}: {seen.text} after a declined card")
        if order.life.authenticate:
            await self._calls.authenticate(payment)
        began = time.perf_counter()
        shown = await self._calls.until(order, lambda o: o.get("status") not in (None, Status.PENDING))
        self.paid_after_s.append(time.perf_counter() - began)
        actual = (shown.get("status"), shown.get("captured_minor"))
        step.expect(actual == (Status.PAID, order.body["total_minor"]), f"{order.order_id} is {actual}")

    async def _place_one(self, step: Step, number: int) -> None:
        began = time.perf_counter()
        answer = await self._post(number)
        took_s = time.perf_counter() - began
        if answer.status != 201:
            step.problems.append(f"{key_of(number)}: {answer.status} {answer.text}")
            return
        self.latencies_s.append(took_s)
        cart = cart_of(number)
        order = PlacedOrder(number, cart, answer.json()["order_id"], answer.body, cart["total_minor"])
        self.placed.append(order)
        # As placed: the reconciler may have reserved stock for it meanwhile.
        location, headers = answer.headers["Location"], self._calls.headers("gateway", order.customer)
        read = await self._calls.final("GET", location, headers, params={"version": 1})
        step.expect(read.body == answer.body, f"{order.order_id} reads {read.status} {read.text}")

    async def _retry(self) -> None:
        step = self._step("orders posted again, twice in parallel", "same answer byte for byte, no second order")

        async def retry(order: PlacedOrder) -> None:
            for answer in await asyncio.gather(self._post(order.number), self._post(order.number)):
                same = (answer.status, answer.body) == (201, order.answer)
                step.expect(same, f"{order.key}: {answer.status} {answer.text}, first {order.answer.decode()}")
                step.expect("Idempotency-Replayed" in answer.headers, f"{order.key}: not marked as replayed")

        await self._each(step, self.placed[::5], retry)

    async def _refuse(self) -> None:
        """Send wrong requests about two idle orders of two customers: no refusal may change them."""
        step = self._step("wrong requests", "each refused with the right code, nothing changed")
        still = [o for o in self.placed if o.life.name == BY_CUSTOMER or o.life.paid]  # nothing is paid before this step is over
        still.sort(key=lambda order: order.number)
        pair = [*still[:1], *[o for o in still if o.customer != still[0].customer][:1]]
        if len(pair) < 2:
            step.problems.append("there are no two orders of different customers to test with")
            return

        async def refuse(wrong: Wrong) -> None:
            answer = await self._calls.final(wrong.method, wrong.path, wrong.headers, body=wrong.body)
            actual = (answer.status, answer.json().get("code"))
            wanted = (wrong.status, wrong.code)
            step.expect(actual == wanted, f"{wrong.method} {wrong.path}: wanted {wanted}, got {actual}")

        await self._each(step, wrong_requests(pair[0], pair[1], self._tokens), refuse)
        for order in pair:
            types = {row["type"] for row in await self._calls.events(order)}
            step.expect(types <= {"OrderPlaced", "StockReserved"}, f"{order.order_id} was changed by a refused request: {types}")

    async def _cut(self) -> None:
        step = self._step("units cancelled before they were sent", "the total falls, the difference is refunded, stock goes back")

        async def cut(order: PlacedOrder) -> None:
            step.problems += await desk.cancel_a_unit(self._calls, order)

        await self._each(step, [o for o in self.placed if o.life.name == UNIT_CANCELLED], cut)

    async def _give_back(self) -> None:
        step = self._step("goodwill refunds", "refunded once, the order continues")

        async def give(order: PlacedOrder) -> None:
            step.problems += await desk.give_goodwill(self._calls, order)

        await self._each(step, [o for o in self.placed if o.life.name == GOODWILL], give)

    async def _find(self) -> None:
        step = self._step("orders found by number", "as people type it: the very order")

        async def find(order: PlacedOrder) -> None:
            step.problems += await desk.find_by_number(self._calls, order)

        await self._each(step, self.placed[:40], find)

    async def _fulfil(self) -> None:
        step = self._step("orders fulfilled by the desk", "processing, shipped, delivered; a parcel from each service")
        statuses = ("processing", "shipped", "delivered")

        async def fulfil(order: PlacedOrder) -> None:
            if order.life.name == IN_PARCELS:
                step.problems += await desk.send_parcels(self._calls, order)
                return
            for status in statuses[: statuses.index(order.life.status) + 1]:
                body = {"status": status}
                if status == "shipped":
                    body |= {"carrier": "DHL", "tracking": f"0034{order.number:08}"}
                headers = self._calls.headers("admin", key=f"desk-{status}")
                answer = await self._calls.final("PUT", f"/orders/{order.order_id}/status", headers, body)
                actual = (answer.status, answer.json().get("status"))
                step.expect(actual == (200, status), f"{order.order_id}: {answer.status} {answer.text}")

        await self._each(step, [order for order in self.placed if order.life.status in statuses], fulfil)

    async def _cancel(self) -> None:
        step = self._step("orders cancelled, or attempted", "by the customer early, by the desk later, by nobody after shipping")

        wanted = {BY_CUSTOMER: (200, "unpaid"), REFUNDED: (200, "refunding"), "paid and shipped": (409, "too-late-to-cancel")}

        async def cancel(order: PlacedOrder) -> None:
            role, customer = ("admin", None) if order.life.name == REFUNDED else ("gateway", order.customer)
            headers = self._calls.headers(role, customer, "cancel")
            answer = await self._calls.final("POST", f"/orders/{order.order_id}/cancel", headers, {})
            shown = answer.json()
            actual = (answer.status, shown.get("code") or shown.get("axes", {}).get("payment"))
            step.expect(actual == wanted[order.life.name], f"{order.order_id} ({order.life.name}): got {actual}")

        await self._each(step, [o for o in self.placed if o.life.name in wanted], cancel)

    async def _settle(self) -> None:
        step = self._step(
            "orders that ended by themselves", "sold out or never paid: cancelled, stock released; refunds complete"
        )
        waiting = [o for o in self.placed if o.life.name in (REFUNDED, NEVER_PAID, NOT_THERE, BY_CUSTOMER)]

        async def settled(order: PlacedOrder) -> None:
            payment = "refunded" if order.life.name == REFUNDED else "unpaid"

            def cancelled(o: dict[str, Any]) -> bool:
                return bool(o.get("status") == "cancelled" and o["axes"]["payment"] == payment)

            shown = await self._calls.until(order, cancelled)
            # An order shows `rejected` as soon as one service rejects it; the stock of the other one is still to be released.
            services = {line["service"] for line in order.body["lines"]}
            await self._calls.until_events(order, lambda rows: services <= _finished_with(rows))
            actual = (shown.get("status"), shown.get("cancel_reason"), shown.get("axes", {}).get("payment"))
            wanted = ("cancelled", order.life.reason, payment)
            step.expect(actual == wanted, f"{order.order_id} ({order.life.name}): {actual}, not {wanted}")

        await self._each(step, waiting, settled)

    async def _read_past(self) -> None:
        step = self._step("histories and past states read", "every version and every point in time as it was")

        async def read(order: PlacedOrder) -> None:
            rows = await self._calls.events(order)
            versions = [row["version"] for row in rows]
            step.expect(versions == list(range(1, len(rows) + 1)), f"{order.order_id} has versions {versions}")
            for row in rows:
                then = await self._calls.order(order, version=row["version"])
                step.expect(then.get("status") == row["status"], f"{order.order_id} v{row['version']}: {then}")
                last = max(r["version"] for r in rows if r["occurred_at"] <= row["occurred_at"])
                then = await self._calls.order(order, at=row["occurred_at"])
                step.expect(then.get("version") == last, f"{order.order_id} at {row['occurred_at']}: {then}")

        await self._each(step, self.placed[: min(len(self.placed), 40)], read)

    async def _list(self) -> None:
        step = self._step("orders listed by status", "each once, under its final status")
        began = time.monotonic()
        wanted = Counter(order.life.status for order in self.placed)
        for status in map(str, Status):
            order_ids = await self._pages(status)
            self.statuses[status] = len(order_ids)
            step.count += len(order_ids)
            step.expect(len(set(order_ids)) == len(order_ids), f"{status}: an order is listed twice")
            step.expect(len(order_ids) == wanted[status], f"{status}: {len(order_ids)} listed, {wanted[status]} expected")
            self._calls.patience.moved()
            self._advance(step.name, step.count, len(self.placed))
        step.seconds = time.monotonic() - began

    async def _pages(self, status: str) -> list[str]:
        order_ids: list[str] = []
        params: dict[str, str | int] = {"status": status, "limit": 50}
        while True:
            page = await self._calls.page(**params)
            order_ids += [row["order_id"] for row in page["data"]]
            if page["next_cursor"] is None:
                return order_ids
            params["cursor"] = page["next_cursor"]


def _finished_with(rows: list[dict[str, Any]]) -> set[str]:
    """The services that hold nothing for the cancelled order with these events, and never will again."""
    last = {row["detail"]["service"]: row["type"] for row in rows if row["type"].startswith("Stock")}
    return {service for service, kind in last.items() if kind in FINISHED}
