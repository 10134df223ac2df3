"""The outside of an absurd shop: a payment provider and stock services that answer anything, and a door for text messages."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Container, Sequence
from typing import Any

import msgspec

from commands.messages import RecordDispute, RecordPayment, RecordRefund, RecordStock
from commands.notifier.message_port import NotSent, OutMessage
from commands.notifier.notices import SMS
from commands.reconciler.answers import Answer, Done, Fact, Hint, No, Unknown
from commands.reconciler.payment_port import PaymentView, ProviderUnavailable, Sighting, nothing_known
from ledger import events as e
from ledger.events import Line

VALUES: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        2**31,
        2**63,
        10**30,
        1.5,
        b"\xff",
        [],
        {},
        "",
        "x" * 300,
        "x" * 300_000,
        "\ud800",
        "\0",
        "PaymentVoided",
    ),
    *("won", "EUR", "a/b"),
]


class World:
    """The payment provider and the stock services: mostly the right answer, at times anything else, or none."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self._chance = name, chance
        self.asked: Counter[str] = Counter()

    def _say(self, *facts: Fact) -> Answer:
        self.asked["all"] += 1
        odd = self._chance.random()
        if odd < 0.6:
            return Done(facts)
        if odd < 0.8:
            self.asked["odd facts"] += 1
            return Done(tuple(self._odd(fact) for fact in facts))
        if odd < 0.9:
            self.asked["nothing known"] += 1
            return Unknown("time-out", self._chance.choice((0.0, 1.0, 1e9)), self._chance.random() < 0.5)
        if odd < 0.96:
            self.asked["a no"] += 1
            return No(self._chance.choice(("card_declined", "", "x" * 300)))
        self.asked["raised"] += 1
        raise self._chance.choice((KeyError, RuntimeError, UnicodeError))("an unexpected answer")

    def _odd(self, fact: Fact) -> Fact:
        fields = [f.name for f in msgspec.structs.fields(fact)]
        changed = {name: self._chance.choice(VALUES) for name in self._chance.sample(fields, self._chance.randint(1, 2))}
        return msgspec.structs.replace(fact, **changed)

    def _amount(self, wanted: int) -> int:
        return wanted if self._chance.random() < 0.8 else self._chance.choice((0, 1, wanted - 1, wanted + 1, -wanted, 10**12))

    # ---- payments

    async def create(self, order_id: str, attempt: int, amount_minor: int, currency: str, key: str) -> Answer:
        return self._say(RecordPayment(e.PAYMENT_OPENED, attempt, provider_ref=f"pi_{order_id}_{attempt}_{amount_minor}"))

    async def find(self, order_id: str, attempt: int, since_ms: int) -> Answer:
        return self._say(RecordPayment(e.PAYMENT_OPENED, attempt, provider_ref=f"pi_{order_id}_{attempt}_1000"))

    async def fetch(self, provider_ref: str) -> Answer:
        return self._say(*self._facts_of(provider_ref))

    def _facts_of(self, ref: str) -> list[Fact]:
        parts = ref.split("_")
        number = int(parts[-2]) if len(parts) > 3 and parts[-2].isdecimal() else 1
        amount = int(parts[-1]) if len(parts) > 3 and parts[-1].isdecimal() else 1000
        kind = self._chance.choice((e.PAYMENT_AUTHORISED, e.PAYMENT_CAPTURED, e.PAYMENT_DECLINED, e.PAYMENT_VOIDED))
        facts: list[Fact] = [RecordPayment(kind, number, amount_minor=self._amount(amount), provider_ref=ref, code="declined")]
        if self._chance.random() < 0.1:
            facts.append(RecordRefund(e.REFUND_SETTLED, 0, f"re_{ref}", self._amount(amount)))
        if self._chance.random() < 0.1:
            outcome = self._chance.choice((None, "won", "lost", "withdrawn"))
            facts.append(RecordDispute(e.DISPUTE_OPENED, f"dp_{ref}", self._amount(amount), "fraudulent", None, outcome))
        return facts

    async def capture(self, provider_ref: str, amount_minor: int, currency: str, key: str) -> Answer:
        number = self._facts_of(provider_ref)[0]
        assert isinstance(number, RecordPayment)
        captured = self._amount(amount_minor)
        return self._say(RecordPayment(e.PAYMENT_CAPTURED, number.attempt, amount_minor=captured, provider_ref=provider_ref))

    async def cancel(self, provider_ref: str, key: str) -> Answer:
        return self._say(*self._facts_of(provider_ref))

    async def refund(
        self, provider_ref: str, order_id: str, refund_no: int, amount_minor: int, currency: str, key: str
    ) -> Answer:
        kind = self._chance.choice((e.REFUND_SUBMITTED, e.REFUND_SETTLED, e.REFUND_FAILED))
        return self._say(RecordRefund(kind, refund_no, f"re_{order_id}_{refund_no}", self._amount(amount_minor)))

    async def find_refund(self, provider_ref: str, refund_no: int) -> Answer:
        return (
            No("no_such_refund")
            if self._chance.random() < 0.7
            else self._say(RecordRefund(e.REFUND_SETTLED, refund_no, "re_1", 1))
        )

    async def fetch_refund(self, refund_ref: str) -> Answer:
        kind = self._chance.choice((e.REFUND_SUBMITTED, e.REFUND_SETTLED, e.REFUND_FAILED))
        return self._say(RecordRefund(kind, 1, refund_ref, self._amount(1000)))

    async def view(self, provider_ref: str) -> PaymentView:
        match self._chance.randint(0, 3):
            case 0:
                raise ProviderUnavailable("time-out")
            case 1:
                raise KeyError("resource_missing")
        return PaymentView(self.name, provider_ref, "open", 1000, "EUR", "pi_secret")

    async def sighting(self, provider_ref: str, pause_s: float = 0.0) -> Sighting:
        return Sighting("", (), provider_ref)

    async def read_webhook(
        self,
        body: bytes,
        signature: str,
        now_s: float,
        known: Callable[[Hint], Any] = nothing_known,
        followed: Container[str] = (),
    ) -> Sighting:
        return Sighting("", ())

    async def recent(self, since_ms: int) -> AsyncIterator[Sighting]:
        yield Sighting("", ())

    # ---- stock

    async def reserve(self, order_id: str, currency: str, lines: Sequence[Line], key: str) -> Answer:
        kind = self._chance.choice((e.STOCK_RESERVED, e.STOCK_RESERVED, e.STOCK_REJECTED, e.STOCK_RELEASED))
        items = (e.StockItem("mug", self._chance.choice((0, 1, 2**31 - 1))),) if kind == e.STOCK_REJECTED else ()
        return self._say(RecordStock(kind, self.name, "r-1", "out_of_stock" if items else None, items))

    async def release(self, order_id: str, key: str) -> Answer:
        return self._say(RecordStock(e.STOCK_RELEASED, self.name))

    async def release_part(self, order_id: str, lines: Sequence[e.Units], part: int, key: str) -> Answer:
        return self._say(RecordStock(e.STOCK_RELEASED, self.name, part=part))

    async def knows_parts(self) -> bool | None:
        return True

    async def close(self) -> None:
        pass


class TextMessages:
    """Accepts messages to phone numbers, and keeps nothing."""

    channel = SMS

    def send(self, message: OutMessage) -> None:
        if not message.to.startswith("+"):
            raise NotSent("not a phone number", again=False)

    def kept(self) -> Collection[str]:
        return ()

    def forget(self, order_ids: Collection[str]) -> None:
        """Does nothing: no message is kept."""
