"""Currencies that are not paid in every amount: nothing is cancelled or refunded that would leave one that cannot be paid."""

from __future__ import annotations

import pytest

from commands.decisions import Refusal
from commands.messages import CancelLines, OrderCommand, PlaceOrder, RequestRefund
from commands.obligations import Kind, PaymentArgs, RefundArgs, obligations
from commands.reconciler.stripe_amounts import to_stripe
from ledger.events import Adjustment, Line, Units
from tests.support.story import (
    MINUTE,
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


def ordered(currency: str = "KWD", lines: tuple[Line, ...] = (A, B), discount: int = -100) -> Story:
    """An order of a cup and a pot, less a discount that the lines share by what they cost: 33 and 67 of 100."""
    total = sum(line.quantity * line.unit_price_minor for line in lines) + discount
    content = PlaceOrder(currency, total, lines, (Adjustment("discount", "Sale", discount),), bytes(32), 30 * MINUTE, "cart-7")
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
