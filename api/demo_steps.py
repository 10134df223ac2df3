"""What the demo does and checks, step by step, as the people around the ledger would: gateway, customer's browser, shop desk.

Payment provider and stock services are the sandbox, reached by the ledger over HTTP as the real ones would be.

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

from api.demo_inputs import (
    BY_CUSTOMER,
    NEVER_PAID,
    NOT_THERE,
    REFUNDED,
    Placed,
    Wrong,
    cart_of,
    customer_of,
    key_of,
    wrong_requests,
)
from commands.sandbox import PUBLISHABLE_KEY
from commands.sandbox.cards import confirm_form
from ledger.transitions import Status

CONNECTIONS = 16
BATCH = 50  # orders that are placed before they are paid for: well within the time to pay
SETTLED_S = 20.0  # for what an order owes to be done and told
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

    def __init__(self, orders: int, info: dict[str, Any], window_s: int, advance: Callable[[str, int, int], None]) -> None:
        self.steps: list[Step] = []
        self.placed: list[Placed] = []
        self.latencies_s: list[float] = []
        self.paid_after_s: list[float] = []
        self.statuses: dict[str, int] = {}
        self.outside: dict[str, Any] = {}
        self.sent_again = 0
        self._orders, self._tokens, self._window_s, self._advance = orders, info["tokens"], window_s, advance
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._client = httpx.AsyncClient(base_url=info["url"], timeout=15.0, limits=limits)
        self._browser = httpx.AsyncClient(
            base_url=info["sandbox_url"], timeout=15.0, limits=limits, headers={"Authorization": f"Bearer {PUBLISHABLE_KEY}"}
        )

    async def run(self) -> None:
        async with self._client, self._browser:
            await self._start()
            await self._place_and_pay()
            if self.placed:
                self.placed.sort(key=lambda order: order.number)
                await self._retry()
                await self._fulfil()
                await self._cancel()
                await self._settle()
                await self._read_past()
            await self._list()
            self.outside = (await self._browser.get("/sandbox/sums")).json()

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
        return await self._command("POST", "/orders", headers, cart_of(number))

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

    async def _place_and_pay(self) -> None:
        placing = self._step("orders placed over HTTP", "201: decided, committed, there for the very next read")
        paying = self._step("orders paid in the sandbox", "cards, a declined one and another, 3-D Secure: captured once, paid")
        for start in range(1, self._orders, BATCH):
            known = 0 if start == 1 else len(self.placed)
            await self._each(placing, range(start, min(start + BATCH, self._orders)), lambda n: self._place_one(placing, n))
            if start == 1:
                await self._refuse()
            await self._each(paying, [o for o in self.placed[known:] if o.life.paid], lambda o: self._pay_one(paying, o))

    async def _pay_one(self, step: Step, order: Placed) -> None:
        path, headers = f"/orders/{order.order_id}/payment", self._as("gateway", order.customer, "pay-1")
        body = {"total_minor": order.body["total_minor"], "currency": order.body["currency"]}
        answer = await self._command("POST", path, headers, body)
        if answer.status_code != 201:
            step.problems.append(f"{order.order_id}: payment {answer.status_code} {answer.text}")
            return
        payment = answer.json()
        for card in order.life.cards:
            said = await self._confirm(payment, card)
            last = card is order.life.cards[-1]
            wanted = "requires_action" if order.life.authenticate else "requires_capture" if last else "card_declined"
            step.expect(said == wanted, f"{order.order_id}: the card is {said}, not {wanted}")
            if not last:  # the customer's page tells the shop that the first card was no good
                seen = await self._client.post(path, json={"action": "confirm"}, headers=self._as("gateway", order.customer))
                step.expect(seen.json().get("state") == "declined", f"{order.order_id}: {seen.text} after a declined card")
        if order.life.authenticate:
            await self._browser.post(f"/sandbox/payments/{payment['provider_ref']}/authenticate", data={"outcome": "success"})
        began = time.perf_counter()
        shown = await self._until(order, lambda o: o.get("status") != Status.PENDING)
        self.paid_after_s.append(time.perf_counter() - began)
        found = (shown.get("status"), shown.get("captured_minor"))
        step.expect(found == (Status.PAID, order.body["total_minor"]), f"{order.order_id} is {found}")

    async def _confirm(self, payment: dict[str, Any], card: str) -> str:
        """What Stripe's script does in the customer's browser; the payment's new status, or the code of a refusal."""
        form = confirm_form(payment["client_secret"], card)
        said = (await self._browser.post(f"/v1/payment_intents/{payment['provider_ref']}/confirm", data=form)).json()
        return str(said["error"]["code"] if "error" in said else said["status"])

    async def _until(
        self, order: Placed, holds: Callable[[dict[str, Any]], bool], timeout_s: float = SETTLED_S
    ) -> dict[str, Any]:
        """The order once `holds` of it, or as it is when the time is over."""
        deadline = time.monotonic() + timeout_s
        shown = await self._read(order)
        while not holds(shown) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
            shown = await self._read(order)
        return shown

    async def _place_one(self, step: Step, number: int) -> None:
        began = time.perf_counter()
        answer = await self._post(number)
        took_s = time.perf_counter() - began
        if answer.status_code != 201:
            step.problems.append(f"{key_of(number)}: {answer.status_code} {answer.text}")
            return
        self.latencies_s.append(took_s)
        order = Placed(number, cart_of(number), answer.json()["order_id"], answer.content)
        self.placed.append(order)
        # As placed: the reconciler may have reserved stock for it meanwhile.
        location, headers = answer.headers["Location"], self._as("gateway", order.customer)
        read = await self._client.get(location, params={"version": 1}, headers=headers)
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
        unpaid = [order for order in self.placed if order.life.name in (NEVER_PAID, BY_CUSTOMER)]

        async def refuse(wrong: Wrong) -> None:
            answer = await self._client.request(wrong.method, wrong.path, headers=wrong.headers, content=wrong.body)
            found = (answer.status_code, answer.json().get("code"))
            wanted = (wrong.status, wrong.code)
            step.expect(found == wanted, f"{wrong.method} {wrong.path}: wanted {wanted}, got {found}")

        mine = unpaid[0]
        foreign = next(order for order in unpaid if order.customer != mine.customer)  # they stand in the order of their answers
        await self._each(step, wrong_requests(mine, foreign, self._tokens), refuse)
        for order in (mine, foreign):
            types = {row["type"] for row in await self._rows(order)}
            step.expect(types <= {"OrderPlaced", "StockReserved"}, f"{order.order_id} was changed by a refused request: {types}")

    async def _rows(self, order: Placed) -> list[dict[str, Any]]:
        answer = await self._client.get(f"/orders/{order.order_id}/events", headers=self._as("gateway", order.customer))
        rows: list[dict[str, Any]] = answer.json()["data"]
        return rows

    async def _fulfil(self) -> None:
        step = self._step("orders moved along by the desk", "processing, shipped, delivered, one version each")
        way = ("processing", "shipped", "delivered")

        async def fulfil(order: Placed) -> None:
            for status in way[: way.index(order.life.status) + 1]:
                body = {"status": status}
                if status == "shipped":
                    body |= {"carrier": "DHL", "tracking": f"0034{order.number:08}"}
                headers = self._as("admin", key=f"desk-{status}")
                answer = await self._command("PUT", f"/orders/{order.order_id}/status", headers, body)
                found = (answer.status_code, answer.json().get("status"))
                step.expect(found == (200, status), f"{order.order_id}: {answer.status_code} {answer.text}")

        await self._each(step, [order for order in self.placed if order.life.status in way], fulfil)

    async def _cancel(self) -> None:
        step = self._step("orders cancelled, or tried to", "early by customers, later by the desk, after shipping by nobody")

        wanted = {BY_CUSTOMER: (200, "unpaid"), REFUNDED: (200, "refunding"), "paid and shipped": (409, "too-late-to-cancel")}

        async def cancel(order: Placed) -> None:
            desk = order.life.name == REFUNDED
            headers = self._as("admin", key="cancel") if desk else self._as("gateway", order.customer, "cancel")
            answer = await self._command("POST", f"/orders/{order.order_id}/cancel", headers, {})
            shown = answer.json()
            found = (answer.status_code, shown.get("code") or shown["axes"]["payment"])
            step.expect(found == wanted[order.life.name], f"{order.order_id} ({order.life.name}): got {found}")

        await self._each(step, [o for o in self.placed if o.life.name in wanted], cancel)

    async def _settle(self) -> None:
        step = self._step("orders that ended by themselves", "sold out or never paid: cancelled, stock back; refunds arrived")
        waiting = [o for o in self.placed if o.life.name in (REFUNDED, NEVER_PAID, NOT_THERE, BY_CUSTOMER)]

        async def settled(order: Placed) -> None:
            payment = "refunded" if order.life.name == REFUNDED else "unpaid"

            def at_its_end(o: dict[str, Any]) -> bool:
                # `rejected` stays what it is; what the other service had is given back before its event.
                return bool(o["status"] == "cancelled" and o["axes"]["payment"] == payment and o["axes"]["stock"] != "pending")

            shown = await self._until(order, at_its_end, self._window_s + SETTLED_S)
            found = (shown["status"], shown["cancel_reason"], shown["axes"]["payment"])
            wanted = ("cancelled", order.life.reason, payment)
            step.expect(found == wanted, f"{order.order_id} ({order.life.name}): {found}, not {wanted}")

        await self._each(step, waiting, settled)

    async def _read_past(self) -> None:
        step = self._step("histories and past states read", "every version and every moment as it was then")

        async def read(order: Placed) -> None:
            rows = await self._rows(order)
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
        wanted = Counter(order.life.status for order in self.placed)
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
