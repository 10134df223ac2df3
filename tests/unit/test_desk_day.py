"""What the desk of a shop does after an order was placed, by example: cancel lines, ship parcels, refund, change metadata."""

from __future__ import annotations

import pytest

from commands.decisions import MalformedCommand
from commands.obligations import Kind, Obligation, PartArgs, PaymentArgs, RefundArgs, obligations
from ledger.events import Line
from ledger.order import display, next_refund_minor, owed_back_minor, payment_state, refund_room_minor, stock_state
from tests.support.story import (
    AUTHORISED,
    CAPTURED,
    DELIVER,
    LINES,
    MINUTE,
    NOON,
    OPENED,
    PAID,
    RESERVED,
    SHIP,
    START,
    Story,
    cancel,
    cancel_lines,
    change_metadata,
    delivered,
    dispute,
    given,
    order_of,
    payment,
    place,
    refund,
    request_payment,
    request_refund,
    ship_parcel,
    staff,
    stock,
    units,
)


def owed(story: Story, kind: Kind) -> list[Obligation]:
    return [o for o in obligations(order_of(story)) if o.kind is kind]


# ---- parcels --------------------------------------------------------------------------------------------------------


def test_an_order_is_shipped_when_the_last_parcel_leaves_and_delivered_when_the_last_one_arrives() -> None:
    story = given(*PAID, START)
    order = story.when(ship_parcel("DHL", "A1", TEA=1)).then("ParcelShipped", parcel=1, lines=units(TEA=1), carrier="DHL")
    assert display(order) == "processing"
    assert order.shipped_at is None
    story.given(ship_parcel("DHL", "A1", TEA=1))
    order = story.when(ship_parcel(TEA=1, MUG=1)).then("OrderShipped", parcel=2, lines=units(TEA=1, MUG=1))
    assert display(order) == "shipped"
    assert [(p.no, p.tracking) for p in order.parcels] == [(1, "A1"), (2, None)]
    story.given(ship_parcel(TEA=1, MUG=1))
    order = story.when(delivered(2)).then("ParcelDelivered", parcel=2)
    assert display(order) == "shipped"
    story.given(delivered(2))
    order = story.when(delivered(1), at=NOON + MINUTE).then("OrderDelivered", parcel=1)
    assert (display(order), order.delivered_at) == ("delivered", NOON + MINUTE)


def test_a_parcel_needs_no_start_and_shipped_means_all_that_remains() -> None:
    story = given(*PAID, ship_parcel(MUG=1))
    assert display(order_of(story)) == "processing"
    order = story.when(SHIP).then("OrderShipped", lines=units(TEA=2), parcel=2, tracking="JD01")
    assert display(order) == "shipped"
    story.given(SHIP)
    story.when(SHIP).refused("nothing_to_change")
    story.when(ship_parcel(MUG=1)).refused("already_shipped")
    order = story.when(DELIVER).then("OrderDelivered", parcel=None)
    assert all(p.delivered_at == NOON for p in order.parcels)


def test_a_parcel_may_be_delivered_before_the_last_one_left() -> None:
    story = given(*PAID, ship_parcel(TEA=2), delivered(1))
    assert display(order_of(story)) == "processing"
    story.when(delivered(1)).refused("nothing_to_change")
    story.when(delivered(2)).refused("unknown_parcel")
    story.when(DELIVER).refused("not_shipped")
    story.given(ship_parcel(MUG=1))
    assert display(order_of(story)) == "shipped"
    story.when(delivered(2)).then("OrderDelivered", parcel=2)


def test_a_parcel_holds_only_what_remains_of_a_paid_order() -> None:
    given(*PAID).when(ship_parcel(TEA=3)).refused("quantity_exceeded")
    given(*PAID, ship_parcel(TEA=1)).when(ship_parcel(TEA=2)).refused("quantity_exceeded")
    given(*PAID, cancel_lines(TEA=1)).when(ship_parcel(TEA=2)).refused("quantity_exceeded")
    given(place(), *RESERVED).when(ship_parcel(TEA=1)).refused("not_paid")
    given(*PAID, dispute("DisputeOpened", amount_minor=2200)).when(ship_parcel(TEA=1)).refused("dispute_open")
    with pytest.raises(MalformedCommand):
        given(*PAID).when(ship_parcel())


def test_an_order_with_a_shipped_parcel_cannot_be_cancelled_as_a_whole() -> None:
    story = given(*PAID, ship_parcel(TEA=1))
    story.when(staff("CancelOrder", cancel=cancel("fraud").cancel)).refused("too_late_to_cancel")


# ---- cancelled lines ------------------------------------------------------------------------------------------------


def test_a_line_cancelled_before_paying_lowers_the_total_and_goes_back_to_the_stock_once_reserved() -> None:
    story = given(place(), cancel_lines(by="customer", TEA=1))
    order = order_of(story)
    assert (order.total_minor, order.placed_minor) == (1750, 2200)
    story.when(request_payment(2200)).refused("amount_differs")
    story.given(request_payment(1750))
    assert owed(story, Kind.RELEASE_PART) == []
    assert [o.key for o in owed(story, Kind.RESERVE)] == ["res:ord_1:product", "res:ord_1:merch"]
    story.given(*RESERVED)
    (part,) = owed(story, Kind.RELEASE_PART)
    assert part.key == "rel:ord_1:product:part:1"
    assert part.args == PartArgs("product", 1, units(TEA=1))
    story.given(stock("StockReleased", "product", part=1))
    assert owed(story, Kind.RELEASE_PART) == []
    story.when(stock("StockReleased", "product", part=1)).refused("already_known")
    assert stock_state(order_of(story)) == "reserved"


def test_less_is_captured_than_was_authorised_under_a_key_of_its_own() -> None:
    story = given(place(), request_payment(), OPENED, AUTHORISED, *RESERVED)
    assert [(o.key, o.args) for o in owed(story, Kind.CAPTURE)] == [("cap:ord_1:1", PaymentArgs(1, 2200, "pi_1", NOON))]
    story.given(cancel_lines(MUG=1))
    (capture,) = owed(story, Kind.CAPTURE)
    assert capture.key == "cap:ord_1:1:1300"
    assert isinstance(capture.args, PaymentArgs)
    assert capture.args.amount_minor == 1300
    story.given(payment("PaymentCaptured", provider_ref="pi_1", amount_minor=1300))
    assert (display(order_of(story)), payment_state(order_of(story))) == ("paid", "captured")
    assert owed_back_minor(order_of(story)) == 0


def test_a_capture_that_was_quicker_than_the_cancelled_line_is_given_back_in_part() -> None:
    story = given(place(), request_payment(), OPENED, AUTHORISED, *RESERVED, cancel_lines(MUG=1), CAPTURED)
    order = order_of(story)
    assert (order.captured_minor, order.total_minor, owed_back_minor(order)) == (2200, 1300, 900)
    assert [(o.key, o.args) for o in owed(story, Kind.REFUND)] == [("ref:ord_1:1", RefundArgs(1, 900, "pi_1"))]
    assert not owed(story, Kind.CALL_PERSON)
    assert (display(order), payment_state(order)) == ("paid", "refunding")


def test_a_paid_order_owes_the_price_of_the_cancelled_units_and_keeps_its_status() -> None:
    story = given(*PAID)
    order = story.when(cancel_lines(TEA=1)).then("LinesCancelled", amount_minor=450, reason="other", by="admin", shipping=False)
    assert (display(order), order.total_minor, owed_back_minor(order)) == ("paid", 1750, 450)
    story.given(cancel_lines(TEA=1), refund("RefundSettled", amount=450))
    assert (payment_state(order_of(story)), owed_back_minor(order_of(story))) == ("captured", 0)
    story.given(cancel_lines(TEA=1, shipping=True))
    assert owed_back_minor(order_of(story)) == 850
    assert owed(story, Kind.REFUND)[0].key == "ref:ord_1:2"


def test_cancelling_the_last_unit_cancels_the_order() -> None:
    story = given(*PAID, cancel_lines(TEA=2))
    order = story.when(cancel_lines(MUG=1)).then("OrderCancelled", reason="other", by="admin")
    assert display(order) == "cancelled"
    assert owed_back_minor(order) == 2200, "the shipping, too"


def test_what_is_left_when_the_remainder_is_cancelled_counts_as_shipped_or_delivered() -> None:
    story = given(*PAID, ship_parcel(TEA=2))
    order = story.when(cancel_lines(MUG=1)).then("LinesCancelled", amount_minor=900)
    assert (display(order), order.shipped_at) == ("shipped", NOON)
    order = story.given(delivered(1)).when(cancel_lines(MUG=1)).then("LinesCancelled")
    assert (display(order), order.delivered_at) == ("delivered", NOON)


def test_customers_cancel_lines_until_processing_and_nobody_cancels_what_is_gone() -> None:
    given(*PAID, START).when(cancel_lines(by="customer", TEA=1)).refused("too_late_to_cancel")
    given(*PAID, START).when(cancel_lines(TEA=1)).then("LinesCancelled")
    given(*PAID, SHIP).when(cancel_lines(TEA=1)).refused("too_late_to_cancel")
    given(*PAID, cancel()).when(cancel_lines(TEA=1)).refused("order_cancelled")
    given(*PAID).when(cancel_lines(TEA=3)).refused("quantity_exceeded")
    given(*PAID, ship_parcel(TEA=1)).when(cancel_lines(TEA=2)).refused("quantity_exceeded")
    given(place(lines=LINES[:1], total_minor=1300)).when(cancel_lines(MUG=1)).refused("unknown_line")


def test_a_service_of_which_every_unit_is_cancelled_is_released_and_does_not_hold_the_order_up() -> None:
    story = given(place(), stock("StockReserved", "product"), cancel_lines(MUG=1))
    assert stock_state(order_of(story)) == "reserved"
    assert owed(story, Kind.RESERVE) == []
    assert [o.key for o in owed(story, Kind.RELEASE)] == ["rel:ord_1:merch:0"]
    story.given(stock("StockReserved", "merch"))  # its answer was on the way
    assert [o.key for o in owed(story, Kind.RELEASE)] == ["rel:ord_1:merch:1"]
    assert owed(story, Kind.RELEASE_PART) == []


def test_an_order_that_costs_nothing_any_more_needs_no_payment() -> None:
    lines = (LINES[0], Line("merch", "MUG-1", "Mug", 1, 0))
    story = given(place(lines=lines, total_minor=900, adjustments=()), request_payment(900), OPENED, AUTHORISED, *RESERVED)
    story.given(cancel_lines(TEA=2))
    assert (display(order_of(story)), payment_state(order_of(story))) == ("paid", "not_required")
    assert [o.key for o in owed(story, Kind.VOID)] == ["void:ord_1:1"]


# ---- refunds by request ---------------------------------------------------------------------------------------------


def test_a_goodwill_refund_is_paid_and_the_order_continues() -> None:
    story = given(*PAID, SHIP)
    wanted = request_refund(300, reason="goodwill")
    order = story.when(wanted).then("RefundRequested", amount_minor=300, reason="goodwill", lines=())
    assert (display(order), payment_state(order), owed_back_minor(order)) == ("shipped", "refunding", 300)
    story.given(wanted)
    assert [(o.key, o.args) for o in owed(story, Kind.REFUND)] == [("ref:ord_1:1", RefundArgs(1, 300, "pi_1"))]
    story.given(refund("RefundSettled", amount=300))
    assert (payment_state(order_of(story)), order_of(story).refunded_minor) == ("captured", 300)
    assert obligations(order_of(story)) == ()


def test_a_second_request_does_not_change_the_amount_of_a_refund_that_may_be_under_way() -> None:
    story = given(*PAID, SHIP, request_refund(300), request_refund(500))
    assert (owed_back_minor(order_of(story)), next_refund_minor(order_of(story))) == (800, 300)
    story.given(refund("RefundSubmitted", amount=300))
    assert owed(story, Kind.REFUND)[0].args == RefundArgs(2, 500, "pi_1")
    story.given(refund("RefundFailed", amount=300, code="account_closed"))
    assert owed(story, Kind.REFUND)[0].args == RefundArgs(2, 300, "pi_1"), "first what is missing of the first request"


def test_units_are_refunded_at_what_they_cost_and_each_only_once() -> None:
    story = given(*PAID, SHIP)
    order = story.when(request_refund(TEA=1)).then("RefundRequested", amount_minor=450, lines=units(TEA=1))
    assert order.counts[0].refunded == 1
    story.given(request_refund(TEA=1, shipping=True))
    assert owed_back_minor(order_of(story)) == 850
    story.when(request_refund(TEA=2)).refused("quantity_exceeded")
    story.when(request_refund(shipping=True)).refused("nothing_to_refund")
    story.given(request_refund(TEA=1, MUG=1))
    assert owed_back_minor(order_of(story)) == 2200
    story.when(request_refund(1)).refused("nothing_to_refund")


def test_a_refund_is_capped_by_what_was_paid_and_is_not_owed_returned_or_lost() -> None:
    story = given(*PAID, SHIP, request_refund(1000), refund("RefundSettled", amount=1000))
    story.given(refund("RefundSettled", 0, "re_x", 200))
    assert refund_room_minor(order_of(story)) == 1000
    story.when(request_refund(1001)).refused("refund_exceeds_payment")
    story.given(request_refund(400))
    assert owed_back_minor(order_of(story)) == 400, "on top of what was given back by hand before"
    story.when(request_refund(601)).refused("refund_exceeds_payment")
    story.given(dispute("DisputeOpened", amount_minor=500))
    story.when(request_refund(1)).refused("dispute_open")
    assert owed(story, Kind.REFUND) == []
    story.given(dispute("DisputeClosed", outcome="lost"))
    assert (owed_back_minor(order_of(story)), refund_room_minor(order_of(story))) == (400, 100)


def test_a_refund_by_hand_after_the_request_counts_for_it() -> None:
    story = given(*PAID, SHIP, request_refund(400), refund("RefundSettled", 0, "re_x", 400))
    assert owed_back_minor(order_of(story)) == 0
    assert owed(story, Kind.REFUND) == []


def test_three_failed_tries_call_a_person() -> None:
    story = given(*PAID, SHIP, request_refund(400))
    for no in (1, 2, 3):
        story.given(refund("RefundFailed", no, f"re_{no}", 400, code="account_closed"))
    assert owed(story, Kind.REFUND) == []
    (call,) = owed(story, Kind.CALL_PERSON)
    assert call.key == "att:ord_1:refund:3"
    assert payment_state(order_of(story)) == "refund_failed"


def test_an_unpaid_or_cancelled_order_has_nothing_to_refund_by_request() -> None:
    given(place()).when(request_refund(100)).refused("nothing_to_refund")
    given(*PAID, cancel()).when(request_refund(100)).refused("order_cancelled")
    given(*PAID).when(request_refund(0)).refused("nothing_to_refund")
    with pytest.raises(MalformedCommand):
        given(*PAID).when(request_refund(-1))
    with pytest.raises(MalformedCommand):
        given(*PAID).when(request_refund())


def test_everything_may_be_refunded_of_an_open_order_and_nobody_is_called() -> None:
    story = given(*PAID, request_refund(TEA=2, MUG=1, shipping=True), refund("RefundSettled", amount=2200))
    assert (display(order_of(story)), payment_state(order_of(story))) == ("paid", "refunded")
    assert owed(story, Kind.CALL_PERSON) == []
    story.given(cancel())
    assert owed_back_minor(order_of(story)) == 0


def test_a_cancel_after_a_requested_refund_gives_back_the_remainder_only() -> None:
    story = given(*PAID, request_refund(300), refund("RefundSubmitted", amount=300), cancel())
    assert owed(story, Kind.REFUND)[0].args == RefundArgs(2, 1900, "pi_1")


def test_a_unit_that_was_refunded_and_is_cancelled_then_is_not_paid_back_twice() -> None:
    story = given(*PAID, request_refund(TEA=1), cancel_lines(TEA=2))
    order = order_of(story)
    assert (order.total_minor, owed_back_minor(order)) == (1300, 900)
    assert (order.counts[0].cancelled, order.counts[0].refunded) == (2, 0)


def test_units_that_came_back_go_to_the_stock_but_only_shipped_ones() -> None:
    given(*PAID).when(request_refund(TEA=1, restock=True)).refused("not_shipped")
    story = given(*PAID, SHIP, request_refund(TEA=1, restock=True, reason="returned"))
    assert [(o.key, o.args) for o in owed(story, Kind.RELEASE_PART)] == [
        ("rel:ord_1:product:part:1", PartArgs("product", 1, units(TEA=1)))
    ]
    story.when(request_refund(100, restock=True, TEA=2)).refused("quantity_exceeded")
    with pytest.raises(MalformedCommand):
        story.when(request_refund(100, restock=True))


# ---- metadata -------------------------------------------------------------------------------------------------------


def test_metadata_is_merged_sorted_and_bounded() -> None:
    story = given(place(), change_metadata(till="7", campaign="winter"))
    order = story.when(change_metadata(till=None, affiliate="a-1")).then("MetadataChanged")
    assert [(entry.name, entry.text) for entry in order.metadata] == [("affiliate", "a-1"), ("campaign", "winter")]
    story.when(change_metadata(till="7", shelf=None)).refused("nothing_to_change")
    story.given(change_metadata(**{f"k{i}": "v" for i in range(18)}))
    story.when(change_metadata(one="1")).refused("too_much_metadata")
    story.when(change_metadata(one="1", till=None)).then("MetadataChanged")
    story.given(cancel()).when(change_metadata(till="8")).then("MetadataChanged")
