"""Money and stock that go back: cancelled orders, refunds, disputes, and facts without a message. With the sandbox."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from commands.sandbox.cards import DISPUTED, REFUND_FAILS, REFUND_PENDS, THREE_D_SECURE, VISA
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.support.harness import Clock, key, running_ledger
from tests.support.patience import PATIENCE_S
from tests.support.paying_shop import Shop
from tests.support.sandboxed import running_sandbox

pytestmark = pytest.mark.usefixtures("calm")


def test_a_cancelled_order_gives_back_what_was_captured_and_reserved(shop: Shop) -> None:
    order = shop.place()
    shop.sandbox.pay(shop.open_payment(order))
    shop.until_status(order, "paid")
    assert shop.cancel(order).status_code == 200
    now = shop.until_axes(order, payment="refunded", stock="released")
    assert (now["captured_minor"], now["refunded_minor"]) == (order["total_minor"], order["total_minor"])
    effects = shop.sandbox.effects(order["order_id"])
    assert [e for e in effects if e[0] == "refunded"] == [("refunded", order["total_minor"])]
    assert sum(n for kind, n in effects if kind == "released") == 3


def test_an_authorised_payment_of_a_cancelled_order_is_voided_and_no_money_moves(shop: Shop) -> None:
    shop.sandbox.chaos(webhook_lost=1.0)
    order = shop.place()
    payment = shop.open_payment(order)
    shop.cancel(order)
    shop.until_axes(order, payment="voided", stock="released")
    assert shop.sandbox.pay(payment, VISA) == "payment_intent_unexpected_state"
    assert "captured" not in dict(shop.sandbox.effects(order["order_id"]))


def test_an_item_out_of_stock_cancels_the_order_and_the_other_items_are_released(shop: Shop) -> None:
    shop.sandbox.sandbox.rooms.put("merch", "mug", 0, 900)
    try:
        order = shop.place()
        now = shop.until_status(order, "cancelled")
        assert now["cancel_reason"] == "out_of_stock"
        shop.until(order, lambda o: "StockReleased" in shop.types(o))
    finally:
        shop.sandbox.sandbox.rooms.put("merch", "mug", 1_000_000, 900)
    effects = shop.sandbox.effects(order["order_id"])
    assert sum(n if kind == "reserved" else -n for kind, n in effects if kind in ("reserved", "released")) == 0


def test_another_price_than_the_services_cancels_the_order(shop: Shop) -> None:
    shop.sandbox.sandbox.rooms.put("merch", "mug", 1_000_000, 901)
    try:
        order = shop.place()
        shop.until_status(order, "cancelled")
    finally:
        shop.sandbox.sandbox.rooms.put("merch", "mug", 1_000_000, 900)
    rows = shop.admin.get(f"/orders/{order['order_id']}/events").json()["data"]
    rejected = next(row for row in rows if row["type"] == "StockRejected")
    assert rejected["detail"]["reason"] == "price_changed"


def test_a_reserve_that_timed_out_after_it_succeeded_leaves_nothing_reserved_for_a_cancelled_order(shop: Shop) -> None:
    shop.sandbox.chaos(ports={"product": {"timeout": 1.0}, "merch": {"timeout": 1.0}}, hold_timeout_ms=5_000)
    order = shop.place()
    deadline = time.monotonic() + PATIENCE_S
    while len(shop.sandbox.effects(order["order_id"])) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shop.cancel(order)
    shop.sandbox.chaos()
    shop.until_axes(order, stock="released")
    effects = shop.sandbox.effects(order["order_id"])
    assert sum(n if kind == "reserved" else -n for kind, n in effects) == 0


def test_a_refund_that_fails_three_times_calls_a_person_whose_retry_makes_three_more_tries(shop: Shop) -> None:
    order = shop.place()
    shop.sandbox.pay(shop.open_payment(order), REFUND_FAILS)
    shop.until_status(order, "paid")
    shop.cancel(order)

    def flagged(o: dict[str, Any]) -> bool:
        return any(f["code"] == "refund_failed" for f in o["attention"])

    now = shop.until(order, flagged, timeout_s=PATIENCE_S)
    assert shop.types(order).count("RefundFailed") == 3
    flag = next(f for f in now["attention"] if f["code"] == "refund_failed")
    path = f"/orders/{order['order_id']}/attention"
    wrong = {"code": "refund_failed", "obligation_key": "att:other", "action": "retry"}
    assert shop.admin.post(path, json=wrong, headers=key()).json()["code"] == "no-such-attention"
    body = {"code": flag["code"], "obligation_key": flag["obligation_key"], "action": "retry", "ticket": "SHOP-17"}
    answer = shop.admin.post(path, json=body, headers=key())
    assert (answer.status_code, flagged(answer.json())) == (200, False)
    now = shop.until(order, flagged, timeout_s=PATIENCE_S)
    assert shop.types(order).count("RefundFailed") == 6
    flag = next(f for f in now["attention"] if f["code"] == "refund_failed")
    body = {"code": flag["code"], "obligation_key": flag["obligation_key"], "action": "settled_elsewhere", "ticket": "SHOP-17"}
    answer = shop.ledger.client("operator").post(path, json=body, headers=key())
    assert answer.json()["refunded_minor"] == order["total_minor"]
    assert answer.json()["axes"]["payment"] == "refunded"
    assert answer.json()["attention"] == []


def test_a_refund_that_pends_is_settled_by_the_providers_message(shop: Shop) -> None:
    order = shop.place()
    shop.sandbox.pay(shop.open_payment(order), REFUND_PENDS)
    shop.until_status(order, "paid")
    shop.cancel(order)
    shop.until_axes(order, payment="refunded")
    types = shop.types(order)
    assert types.index("RefundSubmitted") < types.index("RefundSettled")


def test_nothing_is_refunded_while_a_dispute_is_open_and_all_of_it_once_it_is_won(shop: Shop) -> None:
    order = shop.place()
    shop.sandbox.pay(shop.open_payment(order), DISPUTED)
    shop.until(order, lambda o: any(f["code"] == "dispute" for f in o["attention"]))
    shop.until_status(order, "paid")
    shop.cancel(order)
    shop.until_axes(order, stock="released")
    assert shop.read(order)["axes"]["payment"] == "refunding"
    assert "refunded" not in dict(shop.sandbox.effects(order["order_id"]))
    dispute = shop.sandbox.dashboard.get("/v1/disputes", params={"limit": 1}).json()["data"][0]
    shop.sandbox.by_staff(f"/sandbox/disputes/{dispute['id']}/close", outcome="won")
    shop.until_axes(order, payment="refunded")


def test_a_lost_dispute_counts_as_given_back(shop: Shop) -> None:
    order = shop.place()
    shop.sandbox.pay(shop.open_payment(order), DISPUTED)
    shop.until_status(order, "paid")
    shop.until(order, lambda o: any(f["code"] == "dispute" for f in o["attention"]))
    shop.cancel(order)
    dispute = shop.sandbox.dashboard.get("/v1/disputes", params={"limit": 1}).json()["data"][0]
    shop.sandbox.by_staff(f"/sandbox/disputes/{dispute['id']}/close", outcome="lost")
    shop.until_axes(order, payment="refunded", stock="released")
    assert "refunded" not in dict(shop.sandbox.effects(order["order_id"]))


def test_refunds_in_the_dashboard_are_followed(shop: Shop) -> None:
    order = shop.place()
    payment = shop.open_payment(order)
    shop.sandbox.pay(payment)
    shop.until_status(order, "paid")
    shop.sandbox.by_staff("/v1/refunds", payment_intent=payment["provider_ref"])
    now = shop.until(order, lambda o: o["refunded_minor"] == order["total_minor"])
    assert now["status"] == "paid"
    shop.until(order, lambda o: any(f["code"] == "refunded_open_order" for f in o["attention"]))


def test_a_refund_in_the_dashboard_without_a_message_leaves_the_rest_to_be_refunded_under_the_next_number(shop: Shop) -> None:
    """The first refund is refused, because it is for everything; the provider keeps that answer under its key for a day."""
    order = shop.place()
    payment = shop.open_payment(order)
    shop.sandbox.pay(payment)
    shop.until_status(order, "paid")
    shop.until_messages_delivered()
    shop.sandbox.chaos(webhook_lost=1.0)
    before = len(shop.sandbox.calls("payments"))
    shop.sandbox.by_staff("/v1/refunds", payment_intent=payment["provider_ref"], amount="1000")
    shop.cancel(order)
    shop.until_axes(order, payment="refunded")
    refunds = [n for kind, n in shop.sandbox.effects(order["order_id"]) if kind == "refunded"]
    assert refunds == [1000, order["total_minor"] - 1000]
    types = shop.types(order)
    assert (types.count("RefundSettled"), types.count("RefundFailed")) == (2, 1)
    answers = [json.loads(call["response"]) or {} for call in shop.sandbox.calls("payments")[before:]]
    codes = {answer.get("code") for answer in answers}
    assert "amount_too_large" in codes
    assert "idempotency_error" not in codes


def test_the_daily_sweep_finds_refunds_and_disputes_without_a_message(shop: Shop) -> None:
    orders = []
    for _ in range(2):
        order = shop.place()
        payment = shop.open_payment(order)
        shop.sandbox.pay(payment)
        shop.until_status(order, "paid")
        orders.append((order, payment["provider_ref"]))
    shop.until_messages_delivered()  # those about these orders
    shop.sandbox.chaos(webhook_lost=1.0)
    (refunded, refunded_ref), (disputed, disputed_ref) = orders
    shop.sandbox.by_staff("/v1/refunds", payment_intent=refunded_ref)
    shop.sandbox.by_staff(f"/sandbox/payments/{disputed_ref}/dispute", reason="fraudulent")
    shop.sandbox.by_staff("/v1/payment_intents", amount="100", currency="eur")  # a dispute of another shop
    assert shop.read(refunded)["refunded_minor"] == 0
    reconciler = shop.reconciler
    asyncio.run_coroutine_threadsafe(reconciler.sweep(), reconciler._loop).result(PATIENCE_S)
    shop.until(refunded, lambda o: o["refunded_minor"] == refunded["total_minor"])
    shop.until(disputed, lambda o: any(f["code"] == "dispute" for f in o["attention"]))
    assert reconciler.done["sweep found"] >= 2


def test_an_order_that_nobody_pays_expires_and_gives_back_its_stock(tmp_path: Path) -> None:
    clock = Clock()
    with (
        running_sandbox(tmp_path) as sandbox,
        running_ledger(MemoryLog(clock), Topics("expiring."), sandbox=sandbox, payment_window_s=600, clock=clock) as ledger,
    ):
        shop = Shop(ledger, sandbox)
        unpaid, abandoned = shop.place(), shop.place()
        payment = shop.open_payment(abandoned)
        sandbox.pay(payment, THREE_D_SECURE)  # and the customer goes away
        for order in (unpaid, abandoned):
            shop.until_axes(order, stock="reserved")
        shop.later(600_000)
        for order, state in ((unpaid, "unpaid"), (abandoned, "voided")):
            now = shop.until_axes(order, payment=state, stock="released")
            assert (now["status"], now["cancel_reason"]) == ("cancelled", "unpaid")
        late = sandbox.browser.post(f"/sandbox/payments/{payment['provider_ref']}/authenticate")
        assert late.json()["error"]["code"] == "payment_intent_unexpected_state"
        assert "captured" not in dict(sandbox.effects(abandoned["order_id"]))


def test_an_order_expires_after_its_own_time_to_pay_and_takes_no_other_with_it(tmp_path: Path) -> None:
    clock = Clock()
    with (
        running_sandbox(tmp_path) as sandbox,
        running_ledger(MemoryLog(clock), Topics("own-window."), sandbox=sandbox, clock=clock) as ledger,
    ):
        shop = Shop(ledger, sandbox)
        short, usual = shop.place(payment_window_seconds=600), shop.place()
        for order in (short, usual):
            shop.until_axes(order, payment="unpaid", stock="reserved")
        shop.later(600_000)
        now = shop.until_axes(short, payment="unpaid", stock="released")
        assert (now["status"], now["cancel_reason"]) == ("cancelled", "unpaid")
        assert shop.read(usual)["status"] == "pending"
        payment = shop.open_payment(usual)  # and it can still be paid
        sandbox.pay(payment)
        shop.until(usual, lambda o: o["status"] == "paid")
