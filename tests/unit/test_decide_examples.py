"""What happens to an order, by example: given these events, when this command comes, then that.

Read them as documentation; that the rules hold in every state is `test_decide_exhaustive.py`.
"""

from __future__ import annotations

import pytest

from commands.decisions import MalformedCommand
from commands.messages import (
    CancelOrder,
    OrderCommand,
    RecordStock,
)
from commands.obligations import Kind, obligations
from ledger.events import Adjustment, Line
from ledger.order import display, dispute_state, owed_back_minor, payment_state
from tests.support.story import (
    AUTHORISED,
    CAPTURED,
    DELIVER,
    EXPIRE,
    MINUTE,
    NOON,
    OPENED,
    PAID,
    RESERVED,
    SHIP,
    START,
    VOIDED,
    Story,
    cancel,
    command,
    customer,
    dispute,
    given,
    payment,
    place,
    raise_attention,
    refund,
    request_payment,
    resolve,
    staff,
    stock,
    units,
)

# ---- from cart to door ----------------------------------------------------------------------------------------------


def test_a_placed_order_owes_stock_of_each_service_and_awaits_payment_for_half_an_hour() -> None:
    order = given().when(place()).then("OrderPlaced", expires_at=NOON + 30 * MINUTE, reference="cart-7")
    assert (display(order), payment_state(order)) == ("pending", "unpaid")
    assert [(s.service, s.state) for s in order.stock] == [("product", "owed"), ("merch", "owed")]


@pytest.mark.parametrize("window_ms", [1, 2_000, 24 * 60 * MINUTE - 1000])
def test_the_time_to_pay_is_the_one_that_the_order_was_placed_with(window_ms: int) -> None:
    story = given(place(window_ms=window_ms))
    assert story.order is not None
    assert story.order.expires_at == NOON + window_ms
    story.when(EXPIRE, at=NOON + window_ms - 1).refused("not_due")
    story.when(EXPIRE, at=NOON + window_ms).then("OrderCancelled", reason="unpaid")
    story.when(request_payment(), at=NOON + window_ms).refused("order_expired")


@pytest.mark.parametrize("window_ms", [0, -1, -(2**63), 24 * 60 * MINUTE - 999, 24 * 60 * MINUTE, 2**63 - 1])
def test_a_time_to_pay_of_nothing_or_of_a_day_is_refused(window_ms: int) -> None:
    given().when(place(window_ms=window_ms)).refused("payment_window_not_allowed")


def test_lines_and_adjustments_that_do_not_add_up_are_refused() -> None:
    given().when(place(total_minor=2199)).refused("amount_differs")


def test_money_and_all_stock_together_make_an_order_paid() -> None:
    story = given(place(), request_payment(), OPENED, RESERVED[0], CAPTURED)
    assert display(story.order) == "pending"
    assert display(story.when(RESERVED[1]).then("StockReserved", service="merch")) == "paid"


def test_an_order_that_costs_nothing_is_paid_as_soon_as_its_stock_is_reserved() -> None:
    free = place(lines=(Line("merch", "STICKER", "Sticker", 1, 0),), total_minor=0, adjustments=())
    story = given(free)
    assert payment_state(story.order) == "not_required"
    story.when(request_payment(0)).refused("nothing_to_pay")
    assert display(story.when(RESERVED[1]).then("StockReserved")) == "paid"


def test_staff_may_ship_immediately_or_start_first_and_delivery_ends_it() -> None:
    everything = units(TEA=2, MUG=1)
    order = given(*PAID).when(SHIP).then("OrderShipped", carrier="DHL", tracking="JD01", lines=everything, parcel=1)
    assert display(order) == "shipped"
    story = given(*PAID, START, SHIP)
    assert display(story.when(DELIVER).then("OrderDelivered")) == "delivered"


def test_a_parcel_may_leave_without_a_carrier_or_number() -> None:
    given(*PAID).when(staff("ShipOrder")).then("OrderShipped", carrier=None, tracking=None)


def test_an_order_is_not_worked_on_before_it_is_paid_and_reserved() -> None:
    given(place(), *RESERVED).when(START).refused("not_paid")
    given(place(), request_payment(), OPENED, CAPTURED).when(START).refused("stock_not_reserved")
    given(*PAID).when(DELIVER).refused("not_shipped")


def test_the_same_step_again_changes_nothing_and_says_so() -> None:
    given(*PAID, START).when(START).refused("nothing_to_change")
    given(*PAID, SHIP).when(SHIP).refused("nothing_to_change")
    given(place(), cancel()).when(cancel()).refused("nothing_to_change")


# ---- paying ---------------------------------------------------------------------------------------------------------


def test_two_tabs_cannot_open_two_payments() -> None:
    given(place(), request_payment()).when(request_payment()).refused("payment_open")


def test_a_customer_pays_what_they_saw_or_nothing() -> None:
    given(place()).when(request_payment(2100)).refused("amount_differs")
    given(place()).when(request_payment(2200, "USD")).refused("amount_differs")


def test_after_a_decline_the_same_attempt_can_still_succeed() -> None:
    story = given(place(), request_payment(), OPENED, payment("PaymentDeclined", code="card_declined", charge_ref="ch_1"))
    assert payment_state(story.order) == "declined"
    assert payment_state(story.when(AUTHORISED).then("PaymentAuthorised", attempt=1)) == "authorised"


def test_after_a_void_the_customer_may_pay_again_until_the_time_is_over() -> None:
    story = given(place(), request_payment(), OPENED, VOIDED)
    story.when(request_payment()).then("PaymentRequested", attempt=2, amount_minor=2200)
    story.when(request_payment(), at=NOON + 30 * MINUTE).refused("order_expired")


def test_ten_attempts_are_enough() -> None:
    story = given(place())
    for no in range(1, 11):
        opened = payment("PaymentOpened", no, provider_ref=f"pi_{no}")
        story.given(request_payment(), opened, payment("PaymentVoided", no))
    story.when(request_payment()).refused("too_many_attempts")


def test_a_webhook_that_overtakes_the_ledgers_own_call_does_not_lose_the_providers_reference() -> None:
    story = given(place(), request_payment(), payment("PaymentPending", waiting_for="customer_action"))
    order = story.when(OPENED).then("PaymentOpened", provider_ref="pi_1")
    assert (order.attempts[0].state, order.attempts[0].provider_ref) == ("pending", "pi_1")
    assert order.attempts[0].waiting_for == "customer_action"
    story.given(OPENED).when(OPENED).refused("already_known")


def test_a_payment_of_an_attempt_that_was_never_made_is_an_alarm_not_an_event() -> None:
    given(place()).when(payment("PaymentCaptured", 1, amount_minor=2200)).refused("unknown_attempt")


# ---- ending it ------------------------------------------------------------------------------------------------------


def test_a_customer_cancels_until_work_starts_staff_until_it_is_shipped() -> None:
    given(*PAID).when(cancel()).then("OrderCancelled", reason="customer_request", by="customer")
    given(*PAID, START).when(cancel()).refused("too_late_to_cancel")
    given(*PAID, START).when(staff("CancelOrder", cancel=CancelOrder("fraud"))).then("OrderCancelled", by="admin")
    given(*PAID, SHIP).when(staff("CancelOrder", cancel=CancelOrder("fraud"))).refused("too_late_to_cancel")


def test_an_unpaid_order_expires_and_an_unstocked_one_names_the_stock() -> None:
    late = NOON + 30 * MINUTE
    given(place()).when(EXPIRE, at=late - 1).refused("not_due")
    given(place()).when(EXPIRE, at=late).then("OrderCancelled", reason="unpaid", by="reconciler")
    given(place(), request_payment(), AUTHORISED).when(EXPIRE, at=late).then("OrderCancelled", reason="stock_timeout")


def test_an_order_whose_capture_is_in_progress_does_not_expire() -> None:
    given(place(), request_payment(), AUTHORISED, *RESERVED).when(EXPIRE, at=NOON + 30 * MINUTE).refused("not_due")


def test_a_late_success_is_recorded_but_revives_no_cancelled_order() -> None:
    order = given(place(), request_payment(), OPENED, cancel()).when(CAPTURED).then("PaymentCaptured", amount_minor=2200)
    assert (display(order), payment_state(order), owed_back_minor(order)) == ("cancelled", "refunding", 2200)


def test_stock_reserved_too_late_is_recorded_so_that_it_can_be_released() -> None:
    story = given(place(), cancel(), stock("StockReleased", "product"))
    order = story.when(RESERVED[0]).then("StockReserved")
    assert (order.stock[0].state, order.stock[0].times_reserved) == ("reserved", 1)


def test_another_customers_order_looks_exactly_like_none() -> None:
    given(place()).when(cancel(customer_id="eve")).refused("order_not_found")
    given().when(cancel()).refused("order_not_found")


def test_a_stale_version_is_refused_before_anything_else_but_never_a_fact() -> None:
    story = given(place(), request_payment())
    story.when(cancel(expected_version=1)).refused("version_conflict")
    story.when(cancel(expected_version=2)).then("OrderCancelled")
    stale_fact = command(
        "RecordStock", "product-service", expected_version=1, record_stock=RecordStock("StockReserved", "product")
    )
    story.when(stale_fact).then("StockReserved")


# ---- giving money back ----------------------------------------------------------------------------------------------

CANCELLED_PAID = (*PAID, cancel())


def test_a_refund_may_fail_even_after_it_settled_and_is_then_owed_again() -> None:
    story = given(*CANCELLED_PAID, refund("RefundSubmitted"), refund("RefundSettled"))
    assert payment_state(story.order) == "refunded"
    order = story.when(refund("RefundFailed", code="lost_or_stolen_card")).then("RefundFailed")
    assert (owed_back_minor(order), order.refunded_minor, order.refund_failures) == (2200, 0, 1)


def test_a_refund_known_by_the_provider_is_not_counted_again_under_the_ledgers_number() -> None:
    story = given(*CANCELLED_PAID, refund("RefundFailed", ref=None, amount=None), refund("RefundSettled", no=0, ref="re_9"))
    story.when(refund("RefundSettled", no=1, ref="re_9")).refused("already_known")


def test_a_lost_dispute_counts_as_given_back_and_a_won_one_is_owed_again() -> None:
    story = given(*CANCELLED_PAID, dispute("DisputeOpened", amount_minor=2200, reason="fraudulent"))
    lost = story.when(dispute("DisputeClosed", outcome="lost")).then("DisputeClosed")
    won = story.when(dispute("DisputeClosed", outcome="won")).then("DisputeClosed")
    assert (owed_back_minor(lost), owed_back_minor(won)) == (0, 2200)


def test_a_dispute_that_was_won_and_is_opened_again_is_open_and_a_person_is_called_again() -> None:
    story = given(*PAID, dispute("DisputeOpened", amount_minor=2200), dispute("DisputeClosed", outcome="won"))
    story.when(dispute("DisputeOpened", amount_minor=2200, outcome="won")).refused("already_known")
    order = story.when(dispute("DisputeOpened", amount_minor=2200)).then("DisputeOpened")
    assert (dispute_state(order), order.lost_minor) == ("open", 0)
    story.given(dispute("DisputeOpened", amount_minor=2200)).when(SHIP).refused("dispute_open")
    keys = [x.key for x in obligations(order) if x.kind is Kind.CALL_PERSON]
    assert keys == [f"att:{order.order_id}:dispute:dp_1:2"]
    lost = given(*PAID, dispute("DisputeOpened", amount_minor=2200), dispute("DisputeClosed", outcome="lost"))
    assert lost.when(dispute("DisputeOpened", amount_minor=2200)).then("DisputeOpened").lost_minor == 0


def test_an_order_of_which_a_part_was_captured_is_not_paid_and_a_person_is_called() -> None:
    part = payment("PaymentCaptured", amount_minor=1000, provider_ref="pi_1")
    story = given(place(), request_payment(), OPENED, AUTHORISED, *RESERVED, part)
    order = story.order
    assert order is not None
    assert (display(order), payment_state(order)) == ("pending", "partly_captured")
    story.when(SHIP).refused("not_paid")
    story.when(START).refused("not_paid")
    story.when(request_payment()).refused("already_paid")
    story.when(EXPIRE, at=NOON + 31 * MINUTE).refused("not_due")
    assert [(x.kind, x.key) for x in obligations(order)] == [(Kind.CALL_PERSON, f"att:{order.order_id}:captured:1000")]
    paid_in_full = story.when(CAPTURED).then("PaymentCaptured")
    assert (display(paid_in_full), payment_state(paid_in_full)) == ("paid", "captured")
    cancelled = story.when(cancel()).then("OrderCancelled")
    assert [x.kind for x in obligations(cancelled)].count(Kind.REFUND) == 1


@pytest.mark.parametrize("wish", [cancel(), staff("CancelOrder", cancel=CancelOrder("fraud")), START, SHIP])
def test_a_full_order_can_still_be_cancelled_and_shipped(wish: OrderCommand) -> None:
    story = full_order().given(AUTHORISED, *RESERVED, CAPTURED)
    assert story.order is not None
    assert story.order.version > 1000
    order = story.when(wish).then(EVENT_OF[wish.operation])
    if order.fulfilment == "shipped":
        story.given(SHIP).when(DELIVER).then("OrderDelivered")


EVENT_OF = {"CancelOrder": "OrderCancelled", "StartFulfilment": "FulfilmentStarted", "ShipOrder": "OrderShipped"}


def test_an_open_dispute_holds_up_the_parcel() -> None:
    story = given(*PAID, dispute("DisputeOpened", amount_minor=2200))
    story.when(START).refused("dispute_open")
    story.given(dispute("DisputeClosed", outcome="withdrawn")).when(SHIP).then("OrderShipped")


def test_retry_opens_three_more_tries_and_never_reuses_a_number() -> None:
    failed = [refund("RefundFailed", no, f"re_{no}", code="declined") for no in (1, 2, 3)]
    order = given(*CANCELLED_PAID, *failed, raise_attention()).when(resolve("retry")).then("AttentionResolved", ticket="T-9")
    assert (order.refund_failures, order.refund_failures_recent, order.attention) == (3, 0, ())


def test_settled_elsewhere_without_an_amount_means_everything_not_given_back_yet() -> None:
    order = (
        given(*CANCELLED_PAID, raise_attention()).when(resolve("settled_elsewhere")).then("AttentionResolved", amount_minor=2200)
    )
    assert (order.refunded_minor, payment_state(order)) == (2200, "refunded")


def test_a_person_who_settles_a_flag_of_an_open_order_gives_no_money_back_unless_they_say_so() -> None:
    story = given(*PAID, raise_attention())
    story.when(resolve("settled_elsewhere")).then("AttentionResolved", amount_minor=0)
    story.when(resolve("settled_elsewhere", 500)).then("AttentionResolved", amount_minor=500)
    given(*PAID).when(resolve("retry")).refused("no_such_attention")


# ---- limits and nonsense --------------------------------------------------------------------------------------------


def full_order() -> Story:
    """Two readings that disagree, until the order has a thousand events."""
    story = given(place(), request_payment(), OPENED)
    while story.order is not None and story.order.version < 1000:
        waits = payment("PaymentPending", waiting_for="provider")
        story.given(waits if story.order.version % 2 else payment("PaymentDeclined", code="card_declined"))
    return story


def test_a_payment_that_the_provider_refuses_to_open_is_no_attempt_of_the_customer_and_calls_a_person() -> None:
    story = given(place(), *RESERVED)
    for number in range(1, 12):
        refused = payment("PaymentVoided", attempt=number, code="amount_too_small")
        story.given(request_payment(), refused)
    order = story.order
    assert order is not None
    keys = [x.key for x in obligations(order) if x.kind is Kind.CALL_PERSON]
    assert keys == [f"att:{order.order_id}:payment_refused:amount_too_small"]
    opened = story.when(request_payment()).then("PaymentRequested")
    assert len(opened.attempts) == 12
    abandoned = given(place(), *RESERVED, request_payment(), payment("PaymentVoided", code="never_opened"))
    assert abandoned.order is not None
    assert not [x for x in obligations(abandoned.order) if x.kind is Kind.CALL_PERSON]


def test_a_full_order_takes_no_further_payment_but_every_fact_and_its_own_end() -> None:
    story = full_order()
    story.when(AUTHORISED).then("PaymentAuthorised")
    expired = story.when(EXPIRE, at=NOON + 30 * MINUTE).then("OrderCancelled", reason="unpaid")
    assert expired.version == 1001
    story.given(VOIDED).when(request_payment()).refused("order_full")


@pytest.mark.parametrize(
    "nonsense",
    [
        command("MakeTea", "admin:desk"),
        staff("CancelOrder"),
        command("RecordPayment", "stripe"),
        payment("RefundSettled"),
        stock("PaymentCaptured", "product"),
        refund("RefundSettled", 0, None),
        dispute("DisputeOpenedAgain"),
        dispute("DisputeClosed", outcome="draw"),
        dispute("DisputeReopened", outcome="won"),
        resolve("ignore"),
        resolve("settled_elsewhere", -1),
    ],
    ids=lambda c: c.operation,
)
def test_a_command_that_no_door_sends_is_an_error_not_an_answer(nonsense: OrderCommand) -> None:
    story = given(place(), raise_attention())
    with pytest.raises(MalformedCommand):
        story.when(nonsense)


@pytest.mark.parametrize(
    "nonsense",
    [
        command("PlaceOrder", "admin:desk", place=place().place),
        place(lines=(), total_minor=0, adjustments=()),
        place(total_minor=-100, adjustments=(Adjustment("discount", "Gift", -1900),)),
        customer("PlaceOrder"),
    ],
    ids=["no customer", "no lines", "below zero", "no payload"],
)
def test_an_order_that_no_door_places_is_an_error_not_an_answer(nonsense: OrderCommand) -> None:
    with pytest.raises(MalformedCommand):
        given().when(nonsense)
