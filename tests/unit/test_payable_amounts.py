"""Currencies that are not paid in every amount: nothing is cancelled or refunded that would leave one that cannot be paid.

And the desk is offered whatever is left to do with such an order.
"""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest

from commands.decide import decide
from commands.decisions import Refusal
from commands.messages import CancelLines, OrderCommand, PlaceOrder, RequestRefund, ShipOrder
from commands.obligations import Kind, PaymentArgs, RefundArgs, obligations
from commands.outlook import Action, allowed
from commands.reconciler.stripe_amounts import to_stripe
from ledger.currencies import payable_step
from ledger.events import Adjustment, Line, OrderEvent, Units
from ledger.evolve import evolve
from ledger.order import Order, refund_room_minor
from ledger.transitions import Operation
from ledger.units import to_ship
from tests.support.story import (
    MINUTE,
    NOON,
    OPENED,
    Story,
    cancel,
    customer,
    given,
    order_of,
    payment,
    refund,
    request_payment,
    staff,
    stock,
)

A, B = Line("merch", "A", "Cup", 1, 1010), Line("merch", "B", "Pot", 1, 2020)
AUTHORISED = payment("PaymentAuthorised", provider_ref="pi_1", amount_minor=2930, capture_before=1)
CAPTURED = payment("PaymentCaptured", provider_ref="pi_1", amount_minor=2930)
RESERVED = stock("StockReserved", "merch", reservation_ref="r1")


def ordered(
    currency: str = "KWD", lines: tuple[Line, ...] = (A, B), discount: int = -100, more: tuple[Adjustment, ...] = ()
) -> Story:
    """An order of a cup and a pot, less a discount that the lines share by what they cost: 33 and 67 of 100."""
    adjustments = (Adjustment("discount", "Sale", discount), *more) if discount else more
    total = sum(line.quantity * line.unit_price_minor for line in lines) + sum(a.amount_minor for a in adjustments)
    content = PlaceOrder(currency, total, lines, adjustments, bytes(32), 30 * MINUTE, "cart-7")
    return given(customer("PlaceOrder", place=content)).given(request_payment(total, currency), OPENED)


def without(line: Line, quantity: int = 1) -> OrderCommand:
    return staff("CancelLines", cancel_lines=CancelLines((Units(line.service, line.sku, quantity),), "other"))


def back(amount: int | None = None, *lines: Line) -> OrderCommand:
    units = tuple(Units(line.service, line.sku, 1) for line in lines)
    return staff("RequestRefund", request_refund=RequestRefund("damaged", units, amount))


def test_a_unit_whose_share_of_a_discount_is_no_whole_step_cannot_be_cancelled() -> None:
    """Without the cup the order would cost 1953, of which Stripe could neither capture the rest nor refund the difference."""
    story = ordered()
    for paid in ((), (AUTHORISED,), (RESERVED,), (CAPTURED,)):
        story.given(*paid)
        then = story.when(without(A))
        then.refused("amount_not_payable")
        assert isinstance(then.decision, Refusal)
        assert then.decision.detail == "KWD is paid and refunded in multiples of 10 minor units, not 1953"
        story.when(cancel()).then("OrderCancelled")


def test_the_whole_order_can_be_cancelled_and_everything_is_refunded() -> None:
    story = ordered().given(AUTHORISED, RESERVED, CAPTURED)
    both = staff("CancelLines", cancel_lines=CancelLines((Units("merch", "A", 1), Units("merch", "B", 1)), "other"))
    story.when(both).then("OrderCancelled")
    story.given(both)
    (args,) = [o.args for o in obligations(order_of(story)) if o.kind is Kind.REFUND]
    assert args == RefundArgs(1, 2930, "pi_1")


@pytest.mark.parametrize(("currency", "discount"), [("KWD", -30), ("EUR", -100), ("MGA", -300)])
def test_units_whose_shares_are_whole_steps_are_cancelled_and_what_is_left_can_be_captured(currency: str, discount: int) -> None:
    lines = (A, B) if currency != "MGA" else (Line("merch", "A", "Cup", 1, 10_100), Line("merch", "B", "Pot", 1, 20_200))
    story = ordered(currency, lines, discount).given(
        payment("PaymentAuthorised", provider_ref="pi_1", capture_before=1), RESERVED
    )
    story.given(without(lines[0]))
    (args,) = [o.args for o in obligations(order_of(story)) if o.kind is Kind.CAPTURE]
    assert isinstance(args, PaymentArgs)
    assert to_stripe(args.amount_minor, currency)


def test_a_refund_of_units_or_of_an_amount_that_cannot_be_paid_is_refused_and_staff_may_round_it() -> None:
    story = ordered().given(AUTHORISED, RESERVED, CAPTURED)
    story.when(back(None, A)).refused("amount_not_payable")
    story.when(back(977)).refused("amount_not_payable")
    story.when(back(970, A)).then("RefundRequested", amount_minor=970)


def test_what_a_rounded_refund_lacked_is_not_owed_in_an_amount_that_cannot_be_paid() -> None:
    """Of two cups for 2010 one was refunded with 1000; cancelled, the one that was not refunded would cost 1005."""
    cups = Line("merch", "A", "Cup", 2, 1010)
    story = ordered(lines=(cups,), discount=-10).given(
        RESERVED, payment("PaymentCaptured", provider_ref="pi_1", amount_minor=2010)
    )
    story.given(back(1000, cups), refund("RefundSettled", amount=1000))
    story.when(without(cups)).refused("amount_not_payable")
    story.when(without(cups, 2)).then("OrderCancelled")


# ---- what the desk is offered -------------------------------------------------------------------------------------------


def paid(story: Story) -> Story:
    return story.given(RESERVED, payment("PaymentCaptured", provider_ref="pi_1", amount_minor=order_of(story).total_minor))


def shipped(*lines: Line) -> OrderCommand:
    return staff("ShipParcel", ship=ShipOrder(lines=tuple(Units(line.service, line.sku, 1) for line in lines)))


def actions(order: Order) -> dict[Operation, Action]:
    return {action.operation: action for action in allowed(order, NOON)}


@pytest.mark.parametrize(("currency", "minor"), [("KWD", 12_340), ("MGA", 123_400), ("EUR", 12_345)])
def test_a_refund_is_offered_up_to_the_largest_amount_that_can_be_paid(currency: str, minor: int) -> None:
    story = paid(ordered(currency, (Line("merch", "B", "Pot", 1, minor),), 0))
    assert actions(order_of(story))[Operation.REQUEST_REFUND].amount_minor == minor
    story.given(back(1000))
    assert actions(order_of(story))[Operation.REQUEST_REFUND].amount_minor == minor - 1000


def test_what_is_left_and_cannot_be_paid_is_not_offered_as_a_refund() -> None:
    """More was captured than it cost, as another program may do it."""
    story = ordered(lines=(B,), discount=0).given(RESERVED, payment("PaymentCaptured", provider_ref="pi_1", amount_minor=2025))
    assert actions(order_of(story))[Operation.REQUEST_REFUND].amount_minor == 2020
    story.given(back(2020))
    assert refund_room_minor(order_of(story)) == 5
    assert Operation.REQUEST_REFUND not in actions(order_of(story))


def test_units_can_be_cancelled_after_a_parcel_if_some_of_them_cost_an_amount_that_can_be_paid() -> None:
    """Of a cup for 1007 and a pot for 2020 the pot can be."""
    cup, can = Line("merch", "A", "Cup", 1, 1007), Line("merch", "C", "Can", 1, 1003)
    story = paid(ordered(lines=(cup, B, can), discount=0)).given(shipped(can))
    both = staff("CancelLines", cancel_lines=CancelLines(to_ship(order_of(story)), "other"))
    story.when(both).refused("amount_not_payable")
    story.when(without(cup)).refused("amount_not_payable")
    story.when(without(B)).then("LinesCancelled")
    assert Operation.CANCEL_LINES in actions(order_of(story))


def test_units_can_be_cancelled_after_a_parcel_if_one_of_a_line_costs_an_amount_that_can_be_paid() -> None:
    """Two cups cost 2021: the first one 1010."""
    cups, can = Line("merch", "A", "Cup", 2, 1010), Line("merch", "C", "Can", 1, 1009)
    story = paid(ordered(lines=(cups, can), discount=0, more=(Adjustment("tax", "VAT", 1, "merch", "A"),))).given(shipped(can))
    story.when(without(cups, 2)).refused("amount_not_payable")
    story.when(without(cups)).then("LinesCancelled")
    assert Operation.CANCEL_LINES in actions(order_of(story))


def test_units_are_not_offered_for_cancelling_if_none_of_them_cost_an_amount_that_can_be_paid() -> None:
    cup, can = Line("merch", "A", "Cup", 1, 1007), Line("merch", "C", "Can", 1, 1003)
    story = paid(ordered(lines=(cup, can), discount=0)).given(shipped(can))
    story.when(without(cup)).refused("amount_not_payable")
    assert Operation.CANCEL_LINES not in actions(order_of(story))


currencies = st.sampled_from(["EUR", "JPY", "KWD", "TND", "MGA"])
carts = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 70)), min_size=1, max_size=3)
# A line, how many of its units, and what happens to them.
doings = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.sampled_from(["ship", "cancel", "refund"])), max_size=5)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(currencies, carts, st.integers(0, 120), doings)
def test_whatever_would_be_accepted_of_a_refund_or_of_a_line_is_offered(
    currency: str, cart: list[tuple[int, int]], odd: int, day: list[tuple[int, int, str]]
) -> None:
    lines = tuple(Line("merch", f"L-{i}", "Thing", units, price) for i, (units, price) in enumerate(cart))
    step = payable_step(currency)
    tax = odd + (-(odd + sum(units * price for units, price in cart))) % step or step  # the total can be paid
    order = order_of(paid(ordered(currency, lines, 0, (Adjustment("tax", "VAT", tax),))))
    for at, quantity, doing in day:
        line = lines[at % len(lines)]
        units = (Units(line.service, line.sku, quantity),)
        command = {
            "ship": staff("ShipParcel", ship=ShipOrder(lines=units)),
            "cancel": staff("CancelLines", cancel_lines=CancelLines(units, "other")),
            "refund": staff("RequestRefund", request_refund=RequestRefund("damaged", units)),
        }[doing]
        event = decide(command, order, NOON)
        order = evolve(order, event) if isinstance(event, OrderEvent) else order
    offered = actions(order)

    def is_accepted(command: OrderCommand) -> bool:
        return isinstance(decide(command, order, NOON), OrderEvent)

    refunds = [minor for minor in range(1, refund_room_minor(order) + 1) if is_accepted(back(minor))]
    most = offered[Operation.REQUEST_REFUND].amount_minor if Operation.REQUEST_REFUND in offered else None
    assert most == (refunds[-1] if refunds else None)
    if any(is_accepted(without(line, quantity)) for line in lines for quantity in (1, line.quantity)):
        assert Operation.CANCEL_LINES in offered
