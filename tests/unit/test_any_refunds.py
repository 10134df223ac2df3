"""Any refunds of units for less than they cost, and cancellations, of any order: what is due back adds up."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis
import hypothesis.strategies as st

from commands.decide import decide
from commands.messages import CancelLines, OrderCommand, RequestRefund
from ledger.events import Adjustment, Line, OrderEvent, Units
from ledger.evolve import evolve
from ledger.order import Order, due_back_minor
from ledger.shares import line_values
from tests.support.line_costs import cost_of_units
from tests.support.story import (
    OPENED,
    RESERVED,
    given,
    payment,
    place,
    request_payment,
    staff,
)

GIFT = Line("merch", "GIFT-1", "Card", 2, 0)  # costs nothing; one stays, so that the order is not cancelled as a whole
prices = st.integers(0, 1000)
carts = st.lists(st.tuples(st.integers(1, 12), prices, prices), min_size=1, max_size=3)
# A line or None for shipping, how many of its units, and how much of their price, in thousandths; None cancels.
doings = st.lists(
    st.tuples(st.one_of(st.none(), st.integers(0, 2)), st.integers(1, 12), st.one_of(st.none(), st.integers(0, 999))), max_size=14
)


@dataclass
class Desk:
    """An order, what was asked back for it, and what its cancelled units cost that were never refunded."""

    order: Order
    asked_minor: int = 0
    fresh_minor: int = 0
    costs: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, cart: list[tuple[int, int, int]], shipping: int, tax: int, captured: int | None = None) -> Desk:
        """Of lines of (units, price of one, discount of the line); `captured` thousandths of it are, or all."""
        lines = [Line("product", f"TEA-{i}", "Tea", units, price + 1) for i, (units, price, _) in enumerate(cart)]
        adjustments = [Adjustment("shipping", "Post", shipping), Adjustment("tax", "VAT", tax)]
        for line, (_, _, off) in zip(lines, cart, strict=True):
            minor = min(off, line.quantity * line.unit_price_minor - 1)
            adjustments.append(Adjustment("discount", "Sale", -minor, line.service, line.sku))
        total = sum(x.quantity * x.unit_price_minor for x in lines) + sum(a.amount_minor for a in adjustments)
        paid = total if captured is None else max(1, total * captured // 1000)
        story = given(place((*lines, GIFT), total, tuple(adjustments)), request_payment(total), OPENED, *RESERVED, pay(paid))
        order = story.order
        assert order is not None
        return cls(order, costs=line_values(order.lines, order.adjustments))

    def do(self, command: OrderCommand) -> bool:
        event = decide(command, self.order, self.order.updated_at)
        if isinstance(event, OrderEvent):
            self.order = evolve(self.order, event)
        return isinstance(event, OrderEvent)

    @property
    def shipping_minor(self) -> int:
        return self.order.placed_minor - sum(self.costs)

    def refund(self, line: int | None, units: int, thousandths: int) -> None:
        if line is None:
            gone = self.order.shipping_refunded or self.order.shipping_cancelled
            price, wanted = 0 if gone else self.shipping_minor, ()
        else:
            count, thing = self.order.counts[line], self.order.lines[line]
            price = cost_of_units(self.costs[line], thing.quantity, count.cancelled + count.refunded, units)
            wanted = (Units(thing.service, thing.sku, units),)
        amount = price * thousandths // 1000
        request = RequestRefund("damaged", wanted, amount, line is None, False)
        if price and self.do(staff("RequestRefund", request_refund=request)):
            self.asked_minor += amount

    def cancel(self, line: int, units: int, shipping: bool = False) -> None:
        count, thing, before = self.order.counts[line], self.order.lines[line], self.order
        if self.do(staff("CancelLines", cancel_lines=CancelLines((Units(thing.service, thing.sku, units),), "other", shipping))):
            fresh = min(units, thing.quantity - count.cancelled - count.refunded)
            self.fresh_minor += cost_of_units(self.costs[line], thing.quantity, count.cancelled + count.refunded, fresh)
            if shipping and not (before.shipping_cancelled or before.shipping_refunded):
                self.fresh_minor += self.shipping_minor

    def cancel_all(self) -> None:
        for line in range(len(self.order.lines) - 1):
            while self.order.counts[line].cancelled < self.order.lines[line].quantity:
                self.cancel(line, 1)
        self.cancel(len(self.order.lines) - 1, 1, shipping=True)

    def back_minor(self) -> int:
        """What went back for units that are not cancelled, and for the shipping."""
        rows = zip(self.order.lines, self.order.counts, self.costs, strict=True)
        lines = sum(cost_of_units(cost, x.quantity, n.cancelled, n.refunded) - n.withheld_minor for x, n, cost in rows)
        kept = self.order.shipping_refunded and not self.order.shipping_cancelled
        return lines + (self.shipping_minor - self.order.shipping_withheld_minor if kept else 0)

    def check_withheld(self) -> None:
        for line, count, cost in zip(self.order.lines, self.order.counts, self.costs, strict=True):
            assert 0 <= count.withheld_minor <= cost_of_units(cost, line.quantity, count.cancelled, count.refunded)
        assert 0 <= self.order.shipping_withheld_minor <= self.shipping_minor


def pay(minor: int) -> OrderCommand:
    return payment("PaymentCaptured", provider_ref="pi_1", amount_minor=minor)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(carts, prices, prices, doings)
def test_when_all_is_cancelled_all_that_was_captured_is_due(
    cart: list[tuple[int, int, int]], shipping: int, tax: int, day: list[tuple[int | None, int, int | None]]
) -> None:
    desk = Desk.of(cart, shipping, tax)
    for line, units, thousandths in day:
        at = None if line is None else line % len(cart)
        if thousandths is None:
            desk.cancel(at or 0, units, shipping=at is None)
        else:
            desk.refund(at, units, thousandths)
        back = due_back_minor(desk.order)
        assert desk.asked_minor + desk.fresh_minor <= back <= desk.order.captured_minor
        assert back == desk.back_minor() + desk.order.placed_minor - desk.order.total_minor
        desk.check_withheld()
    desk.cancel_all()
    assert desk.order.lifecycle == "open"
    assert desk.order.total_minor == 0
    assert due_back_minor(desk.order) == desk.order.captured_minor


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(carts, prices, prices, doings, st.integers(0, 999), st.integers(0, 14))
def test_when_all_was_paid_it_does_not_matter_that_part_of_it_was_paid_late(
    cart: list[tuple[int, int, int]],
    shipping: int,
    tax: int,
    day: list[tuple[int | None, int, int | None]],
    part: int,
    when: int,
) -> None:
    desk = Desk.of(cart, shipping, tax, part)
    for no, (line, units, thousandths) in enumerate(day):
        if no == when:
            desk.do(pay(desk.order.placed_minor))
        at = None if line is None else line % len(cart)
        if thousandths is None:
            desk.cancel(at or 0, units, shipping=at is None)
        else:
            desk.refund(at, units, thousandths)
        assert desk.asked_minor <= due_back_minor(desk.order) <= desk.order.captured_minor
        desk.check_withheld()
    desk.do(pay(desk.order.placed_minor))
    assert due_back_minor(desk.order) == desk.back_minor() + desk.order.placed_minor - desk.order.total_minor
    desk.cancel_all()
    assert due_back_minor(desk.order) == desk.order.captured_minor
