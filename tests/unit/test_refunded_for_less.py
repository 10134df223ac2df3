"""Units that are refunded for less than they cost: what is due back when they are cancelled later."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from commands.obligations import Kind, RefundArgs, obligations
from ledger.events import Adjustment, Line
from ledger.memory.store import MemoryStore
from ledger.order import display, due_back_minor, owed_back_minor, payment_state, refund_room_minor
from ledger.shares import line_values
from projections.databases import Databases, OtherReadModels
from tests.support.desk_line import PAY, PLACE, TOPICS, a_line, assert_same_rows
from tests.support.order_commands import P1, ask_back, payments_of
from tests.support.story import (
    CAPTURED,
    LINES,
    OPENED,
    PAID,
    RESERVED,
    Story,
    cancel_lines,
    given,
    order_of,
    payment,
    place,
    raise_attention,
    refund,
    request_payment,
    request_refund,
    resolve,
)


def due(story: Story) -> int:
    return due_back_minor(order_of(story))


def withheld(story: Story) -> tuple[int, ...]:
    """By line, and last of the shipping."""
    order = order_of(story)
    return (*(count.withheld_minor for count in order.counts), order.shipping_withheld_minor)


# ---- by example -----------------------------------------------------------------------------------------------------


def test_what_a_refund_lacked_of_the_price_of_its_units_is_due_when_they_are_cancelled() -> None:
    story = given(*PAID, request_refund(50, TEA=2))
    assert (due(story), withheld(story)) == (50, (850, 0, 0))
    story.given(cancel_lines(TEA=2))
    order = order_of(story)
    assert (order.captured_minor, order.total_minor, due(story)) == (2200, 1300, 900)
    assert (order.return_marks, withheld(story)) == ((50, 900), (0, 0, 0))
    story.given(refund("RefundSettled", amount=50))
    (owed,) = [o for o in obligations(order_of(story)) if o.kind is Kind.REFUND]
    assert (owed.key, owed.args) == ("ref:ord_1:2", RefundArgs(2, 850, "pi_1"))


def test_the_shortage_is_shared_by_lines_and_shipping_and_due_with_each_of_them() -> None:
    story = given(*PAID, request_refund(500, MUG=1, TEA=2, shipping=True))
    assert withheld(story) == (696, 695, 309), "1700 by 900, 900 and 400: the first of the equal remainders is rounded up"
    story.given(cancel_lines(TEA=1))
    assert (due(story), withheld(story)) == (500 + 348, (348, 695, 309))
    story.given(cancel_lines(TEA=1, shipping=True))
    assert (due(story), withheld(story)) == (500 + 348 + 348 + 309, (0, 695, 0))
    assert order_of(story).total_minor - (2200 - due(story)) == 205, "what went back for the mug, which is not cancelled"


def test_units_that_are_cancelled_one_by_one_add_up_exactly() -> None:
    lines = (Line("product", "TEA-1", "Green tea", 7, 143), LINES[1])
    cart = place(lines, 2410, (Adjustment("shipping", "Post", 400), Adjustment("tax", "VAT", 109)))
    captured = payment("PaymentCaptured", provider_ref="pi_1", amount_minor=2410)
    story = given(cart, request_payment(2410), OPENED, captured, *RESERVED)
    value = line_values(lines, order_of(story).adjustments)[0]
    assert value == 1058
    story.given(request_refund(100, TEA=3), request_refund(1, TEA=2))
    dues = [due(story)]
    for _ in range(7):
        story.given(cancel_lines(TEA=1))
        dues.append(due(story))
        order = order_of(story)
        assert dues[-1] <= order.captured_minor
        assert 0 <= order.counts[0].withheld_minor <= value
    assert dues == [101, 252, 404, 534, 665, 796, 927, 1058], "151 and 152 for the units that were not refunded, then 654 in all"
    assert withheld(story) == (0, 0, 0)


def test_no_more_is_withheld_of_the_units_that_are_left_than_they_cost() -> None:
    """Of 30 units for 11 in all, the last three cost 2, and the last two of them 1."""
    lines = (Line("product", "TEA-1", "Green tea", 30, 1), LINES[1])
    cart = place(lines, 911, (Adjustment("discount", "Sale", -19, "product", "TEA-1"),))
    captured = payment("PaymentCaptured", provider_ref="pi_1", amount_minor=911)
    story = given(cart, request_payment(911), OPENED, captured, *RESERVED, cancel_lines(TEA=27))
    story.given(request_refund(1, TEA=3, MUG=1))
    assert (due(story), withheld(story)) == (9 + 1, (2, 899, 0))
    story.given(cancel_lines(TEA=1))
    assert (due(story), withheld(story)) == (11, (1, 899, 0))
    story.given(cancel_lines(TEA=2))
    assert (due(story), withheld(story)) == (12, (0, 899, 0))


def test_no_more_of_it_is_due_with_some_units_than_they_were_refunded_for() -> None:
    """Of 40 units for 29 in all, the first four cost 2. The last two cost 2 too, so the two that are cancelled cost nothing."""
    lines = (Line("product", "TEA-1", "Green tea", 40, 1), LINES[1])
    cart = place(lines, 929, (Adjustment("discount", "Sale", -11, "product", "TEA-1"),))
    captured = payment("PaymentCaptured", provider_ref="pi_1", amount_minor=929)
    story = given(cart, request_payment(929), OPENED, captured, *RESERVED, request_refund(1, TEA=4, MUG=1))
    assert (due(story), withheld(story)) == (1, (2, 899, 0))
    story.given(cancel_lines(TEA=38))
    assert (due(story), withheld(story)) == (1 + 27, (2, 899, 0)), "36 units that were not refunded cost 27"
    story.given(cancel_lines(TEA=2))
    assert (due(story), withheld(story)) == (30, (0, 899, 0))


def test_a_refund_of_the_price_or_more_or_without_lines_withholds_nothing() -> None:
    for asked in (request_refund(TEA=2), request_refund(1000, TEA=2), request_refund(50)):
        assert withheld(given(*PAID, asked)) == (0, 0, 0)
    assert due(given(*PAID, request_refund(1000, TEA=2), cancel_lines(TEA=2))) == 1000, "100 of them are goodwill"
    assert due(given(*PAID, request_refund(50), cancel_lines(TEA=2))) == 950, "for no units: on top of them"


def test_the_shipping_alone_may_be_refunded_for_less_too() -> None:
    story = given(*PAID, request_refund(150, shipping=True))
    assert (due(story), withheld(story)) == (150, (0, 0, 250))
    story.given(cancel_lines(TEA=1, shipping=True))
    assert (due(story), withheld(story)) == (450 + 400, (0, 0, 0))


def test_units_that_are_not_refunded_are_cancelled_first_and_withhold_nothing() -> None:
    story = given(*PAID, request_refund(50, TEA=1), cancel_lines(TEA=1))
    assert (due(story), withheld(story)) == (500, (400, 0, 0))
    story.given(cancel_lines(TEA=1))
    assert (due(story), withheld(story)) == (900, (0, 0, 0))


def test_a_refund_that_failed_for_good_is_still_due_whoever_settles_it() -> None:
    story = given(*PAID, request_refund(50, TEA=2))
    for no in (1, 2, 3):
        story.given(refund("RefundFailed", no, f"re_{no}", 50, code="account_closed"))
    assert (due(story), owed_back_minor(order_of(story)), withheld(story)) == (50, 50, (850, 0, 0))
    story.given(raise_attention(), resolve("settled_elsewhere"))
    assert (order_of(story).refunded_minor, owed_back_minor(order_of(story))) == (50, 0)
    story.given(cancel_lines(TEA=2))
    assert (due(story), owed_back_minor(order_of(story))) == (900, 850)
    assert refund_room_minor(order_of(story)) == 1300, "what the rest of the order costs"


# ---- an order that is paid in part ----------------------------------------------------------------------------------

PART_PAID = (place(), request_payment(), OPENED, *RESERVED, payment("PaymentCaptured", provider_ref="pi_1", amount_minor=1000))


@pytest.mark.parametrize(("asked", "later"), [(450, 0), (50, 400)])
def test_a_later_payment_does_not_return_again_what_was_refunded_for_cancelled_units(asked: int, later: int) -> None:
    story = given(*PART_PAID, request_refund(asked, TEA=1), cancel_lines(TEA=2))
    order = order_of(story)
    assert (order.total_minor, due(story), order.refunded_ahead_minor) == (1300, asked, asked)
    story.given(CAPTURED)
    order = order_of(story)
    assert (order.captured_minor - due(story), order.refunded_ahead_minor) == (order.total_minor, 0)
    assert due(story) == asked + later + 450


def test_a_later_cancellation_does_not_return_again_what_was_refunded_before_it_was_paid() -> None:
    story = given(*PART_PAID, request_refund(TEA=2), cancel_lines(TEA=1), cancel_lines(TEA=1, shipping=True))
    order = order_of(story)
    assert (order.total_minor, due(story), order.refunded_ahead_minor) == (900, 900, 800)
    story.given(CAPTURED)
    assert (due(story), order_of(story).refunded_ahead_minor) == (1300, 0)


def test_what_was_refunded_for_units_that_were_never_paid_for_is_still_to_be_paid() -> None:
    """1000 captured, 900 of it refunded: 100 is left for an order that costs 900."""
    story = given(*PART_PAID, request_refund(TEA=2), cancel_lines(TEA=2, shipping=True))
    order = order_of(story)
    assert order.captured_minor > order.total_minor == 900
    assert (display(order), payment_state(order)) == ("pending", "refunding")
    story.given(refund("RefundSubmitted", amount=900), refund("RefundSettled", amount=900))
    assert (display(order_of(story)), payment_state(order_of(story))) == ("pending", "partly_captured")
    story.given(CAPTURED)
    assert display(order_of(story)) == "paid"


# ---- what was folded without it -------------------------------------------------------------------------------------


def test_a_store_of_a_desk_that_withheld_nothing_is_folded_again() -> None:
    line = a_line(PLACE | {"cart": "two and one"}, PAY, payments_of(1)[9], ask_back(P1, amount=50))
    before = line.desk.order("ord_1")
    assert before is not None
    assert before.counts[0].withheld_minor == 32
    forgotten = replace(before, counts=(replace(before.counts[0], withheld_minor=0), *before.counts[1:]))
    line.store.write({b"0/version": b"2", b"0/o/ord_1": msgspec.msgpack.encode(forgotten)})
    line.take_over()
    assert line.desk.order("ord_1") == before
    assert_same_rows(line)


def test_read_models_that_withheld_nothing_are_refused() -> None:
    store = MemoryStore()
    store.write({b"\0version": b"6"})
    with pytest.raises(OtherReadModels, match="version 6"):
        Databases(lambda name: store, TOPICS, [0], None)
