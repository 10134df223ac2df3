"""The payment provider and the stock services of a simulated world, and what really happened there (`world_checker.World`).

A request arrives even if its sender is killed meanwhile; it may be lost, late, or arrive twice, and its answer may be lost. The
provider forgets keys after a day. One key that comes with two meanings is noted in `problems`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Container, Sequence
from dataclasses import dataclass, field
from typing import Any

from commands.messages import RecordPayment, RecordRefund, RecordStock
from commands.reconciler.answers import Answer, Done, Fact, No, Unknown
from commands.reconciler.payment_port import PaymentView, Sighting, nothing_known
from commands.reconciler.performing import Ports
from ledger import events as e
from ledger.durations import DAY_MS
from ledger.events import Line, Units
from tests.simulator.scheduling import Scheduler
from tests.support.world_checker import Outside, World

MISHAPS = ("lost", "unanswered", "unanswered", "twice", "late", "no")
SERVICES = ("product", "merch")
FACT_OF = {
    "open": e.PAYMENT_OPENED,
    "declined": e.PAYMENT_DECLINED,
    "authorised": e.PAYMENT_AUTHORISED,
    "captured": e.PAYMENT_CAPTURED,
    "voided": e.PAYMENT_VOIDED,
}


@dataclass
class Payment:
    """A payment at the provider. `refunds`: amount by number, in order."""

    ref: str
    order_id: str
    attempt: int
    amount_minor: int
    state: str = "open"
    captured_minor: int = 0
    refunds: dict[int, int] = field(default_factory=dict)

    def fact(self) -> RecordPayment:
        amount = {"authorised": self.amount_minor, "captured": self.captured_minor}.get(self.state)
        code = {"declined": "card_declined", "voided": "expired"}.get(self.state)
        return RecordPayment(FACT_OF[self.state], self.attempt, amount, self.ref, code=code)

    def facts(self) -> tuple[Fact, ...]:
        return (self.fact(), *(self.refund_fact(no) for no in self.refunds))

    def refund_fact(self, no: int) -> RecordRefund:
        return RecordRefund(e.REFUND_SETTLED, no, f"re_{self.ref}_{no}", self.refunds[no])


class Universe:
    """Everything outside the ledger. `mishaps`: share of calls that something happens to. `units`: stock of each item."""

    def __init__(
        self, scheduler: Scheduler, chance: random.Random, wall_ms: Callable[[], int], units: int, note: Callable[[str], None]
    ) -> None:
        self.note = note
        self._scheduler, self._chance, self._wall_ms = scheduler, chance, wall_ms
        self.mishaps = 0.0
        self.payments: dict[str, Payment] = {}
        self.stock = {service: StockRoom(self, service, units) for service in SERVICES}
        self.orders: defaultdict[str, Outside] = defaultdict(Outside)
        self.reserved: Counter[tuple[str, str]] = Counter()
        self.units = units
        self.problems: list[str] = []
        self._keys: dict[str, tuple[int, Any, Answer]] = {}

    def world(self) -> World:
        return World(dict(self.orders), self.reserved, Counter())

    def ports(self) -> Ports:
        """Clients of one process."""
        return Ports(PaymentDoor(self), {service: StockDoor(self, service) for service in SERVICES})

    async def ask(self, call: str, act: Callable[[], Answer]) -> Answer:
        """A request and its answer, over a network."""
        chance, loop = self._chance, asyncio.get_running_loop()
        happens = (
            chance.choice(("lost", "unanswered", "unanswered", "twice", "late", "no")) if chance.random() < self.mishaps else ""
        )
        answered: asyncio.Future[Answer] = loop.create_future()

        def settle(answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        def arrive() -> None:
            answer = act() if happens != "lost" else Unknown("lost")
            self.note(f"{call}: {answer}{f', {happens}' if happens else ''}")
            if happens in ("lost", "unanswered"):
                answer = Unknown(happens)
            if happens == "twice":
                self._scheduler.after(chance.random() * 5, repeat)
            self._scheduler.after(0.001 + chance.random() * 0.01, lambda: reply(answer))

        def repeat() -> None:
            act()

        def reply(answer: Answer) -> None:
            if not loop.is_closed():  # its process is gone
                loop.call_soon_threadsafe(settle, answer)

        if happens == "no":
            return Unknown("unreachable", 1.0)
        self._scheduler.after(0.001 + chance.random() * (8 if happens == "late" else 0.02), arrive)
        return await answered

    def under(self, key: str, request: Any, act: Callable[[], Answer]) -> Answer:
        """The same key has its effect once, for a day."""
        known = self._keys.get(key)
        if known is not None and known[1] != request:
            self.problems.append(f"key {key} came with {known[1]}, then with {request}")
        if known is not None and self._wall_ms() - known[0] < DAY_MS:
            return known[2]
        answer = act()
        self._keys[key] = (self._wall_ms(), request, answer)
        return answer

    # ---- customers

    def pay(self, ref: str, works: bool) -> bool:
        """The customer pays this payment. Returns whether it could be paid."""
        payment = self.payments[ref]
        if payment.state not in ("open", "declined"):
            return False
        payment.state = "authorised" if works else "declined"
        self.note(f"the customer pays {ref} of {payment.order_id}: {payment.state}")
        if works:
            self.orders[payment.order_id].authorised[ref] = payment.amount_minor
        return True

    def facts(self, order_id: str) -> list[Fact]:
        """What webhooks may repeat at any time."""
        return [fact for p in self.payments.values() if p.order_id == order_id for fact in p.facts()]


class PaymentDoor:
    """`commands.reconciler.payment_port.PaymentProvider`."""

    name = "stripe"

    def __init__(self, universe: Universe) -> None:
        self._universe = universe

    async def create(self, order_id: str, attempt: int, amount_minor: int, currency: str, key: str) -> Answer:
        universe = self._universe

        def act() -> Answer:
            payment = Payment(f"pi_{len(universe.payments)}", order_id, attempt, amount_minor)
            universe.payments[payment.ref] = payment
            return Done((payment.fact(),))

        return await universe.ask("create", lambda: universe.under(key, (order_id, attempt, amount_minor), act))

    async def find(self, order_id: str, attempt: int, since_ms: int) -> Answer:
        def act() -> Answer:
            for p in self._universe.payments.values():
                if (p.order_id, p.attempt) == (order_id, attempt):
                    return Done((RecordPayment(e.PAYMENT_OPENED, attempt, provider_ref=p.ref), *p.facts()))
            return No("no_such_payment")

        return await self._universe.ask("find", act)

    async def fetch(self, provider_ref: str) -> Answer:
        return await self._universe.ask("fetch", lambda: Done(self._universe.payments[provider_ref].facts()))

    async def capture(self, provider_ref: str, amount_minor: int, currency: str, key: str) -> Answer:
        universe = self._universe

        def act() -> Answer:
            p = universe.payments[provider_ref]
            if p.state == "authorised":
                p.state, p.captured_minor = "captured", amount_minor
                universe.orders[p.order_id].captured[p.ref] += amount_minor
            return Done((p.fact(),)) if p.state in ("captured", "voided") else No("not_authorised")

        return await universe.ask("capture", lambda: universe.under(key, (provider_ref, amount_minor), act))

    async def cancel(self, provider_ref: str, key: str) -> Answer:
        universe = self._universe

        def act() -> Answer:
            p = universe.payments[provider_ref]
            if p.state not in ("captured", "voided"):
                p.state = "voided"
                universe.orders[p.order_id].voided.add(p.ref)
            return Done((p.fact(),))

        return await universe.ask("cancel", lambda: universe.under(key, provider_ref, act))

    async def refund(
        self, provider_ref: str, order_id: str, refund_no: int, amount_minor: int, currency: str, key: str
    ) -> Answer:
        universe = self._universe

        def act() -> Answer:
            p = universe.payments[provider_ref]
            if p.state != "captured" or sum(p.refunds.values()) + amount_minor > p.captured_minor:
                return No("refund_exceeds_charge")
            if refund_no in p.refunds:
                universe.problems.append(f"{order_id}: refund {refund_no} was made twice")
            p.refunds[refund_no] = amount_minor
            universe.orders[order_id].refunded_minor += amount_minor
            return Done((p.refund_fact(refund_no),))

        return await universe.ask("refund", lambda: universe.under(key, (provider_ref, refund_no, amount_minor), act))

    async def find_refund(self, provider_ref: str, refund_no: int) -> Answer:
        def act() -> Answer:
            p = self._universe.payments[provider_ref]
            return Done((p.refund_fact(refund_no),)) if refund_no in p.refunds else No("no_such_refund")

        return await self._universe.ask("find refund", act)

    async def fetch_refund(self, refund_ref: str) -> Answer:
        def act() -> Answer:
            for p in self._universe.payments.values():
                for no in p.refunds:
                    if p.refund_fact(no).provider_ref == refund_ref:
                        return Done((p.refund_fact(no),))
            return No("no_such_refund")

        return await self._universe.ask("fetch refund", act)

    async def view(self, provider_ref: str) -> PaymentView:
        raise KeyError(provider_ref)

    async def sighting(self, provider_ref: str, pause_s: float = 0.0) -> Sighting:
        raise KeyError(provider_ref)

    async def read_webhook(
        self, body: bytes, signature: str, now_s: float, known: Callable[..., Any] = nothing_known, followed: Container[str] = ()
    ) -> Sighting:
        return Sighting("", ())

    async def recent(self, since_ms: int) -> AsyncIterator[Sighting]:
        for payment in list(self._universe.payments.values()):
            yield Sighting(payment.order_id, payment.facts(), payment.ref)

    async def close(self) -> None:
        pass


class StockRoom:
    """The stock of one service. It keeps its keys for ever; of an order that was released it reserves nothing more."""

    def __init__(self, universe: Universe, service: str, units: int) -> None:
        self._universe, self._service = universe, service
        self._left: defaultdict[str, int] = defaultdict(lambda: units)
        self._barred: set[str] = set()
        self._keys: dict[str, tuple[Any, Answer]] = {}

    def _once(self, key: str, request: Any, act: Callable[[], Answer]) -> Answer:
        known = self._keys.setdefault(key, (request, act())) if key not in self._keys else self._keys[key]
        if known[0] != request:
            self._universe.problems.append(f"key {key} came with {known[0]}, then with {request}")
        return known[1]

    def reserve(self, order_id: str, lines: tuple[Line, ...], key: str) -> Answer:
        if order_id in self._barred:
            return Done((RecordStock(e.STOCK_RELEASED, self._service),))

        def act() -> Answer:
            if any(self._left[line.sku] < line.quantity for line in lines):
                items = tuple(e.StockItem(line.sku, self._left[line.sku]) for line in lines)
                return Done((RecordStock(e.STOCK_REJECTED, self._service, reason="out_of_stock", items=items),))
            for line in lines:
                self._move(order_id, line.sku, line.quantity)
            return Done((RecordStock(e.STOCK_RESERVED, self._service, f"res_{order_id}"),))

        return self._once(key, lines, act)

    def release(self, order_id: str) -> Answer:
        self._barred.add(order_id)
        for (service, sku), units in list(self._universe.orders[order_id].units.items()):
            if service == self._service:
                self._move(order_id, sku, -units)
        return Done((RecordStock(e.STOCK_RELEASED, self._service),))

    def release_part(self, order_id: str, lines: tuple[Units, ...], part: int, key: str) -> Answer:
        def act() -> Answer:
            held = self._universe.orders[order_id].units
            for line in lines:
                self._move(order_id, line.sku, -min(line.quantity, held[self._service, line.sku]))
            return Done((RecordStock(e.STOCK_RELEASED, self._service, part=part),))

        return self._once(key, (lines, part), act)

    def _move(self, order_id: str, sku: str, units: int) -> None:
        self._left[sku] -= units
        self._universe.orders[order_id].units[self._service, sku] += units
        self._universe.reserved[self._service, sku] += units


class StockDoor:
    """`commands.reconciler.stock_port.StockService`."""

    def __init__(self, universe: Universe, name: str) -> None:
        self._universe, self._room, self.name = universe, universe.stock[name], name

    async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
        return await self._universe.ask(self.name, lambda: self._room.reserve(order_id, tuple(lines), key))

    async def release(self, order_id: str, key: str) -> Answer:
        return await self._universe.ask(self.name, lambda: self._room.release(order_id))

    async def release_part(self, order_id: str, lines: Sequence[Units], part: int, key: str) -> Answer:
        return await self._universe.ask(self.name, lambda: self._room.release_part(order_id, tuple(lines), part, key))

    async def knows_parts(self) -> bool | None:
        return True

    async def close(self) -> None:
        pass
