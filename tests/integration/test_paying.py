"""Orders through the sandbox, whole: API, processor, reconciler, Stripe's client over HTTP, stock over HTTP, signed webhooks.

The scenarios are those of commands/README.md. At the end of each, the sandbox's journal is held against the topic by a checker
that knows no rule of the product.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from commands.reconciler.pauses import WAITED_PAUSES_MS
from commands.reconciler.stripe_webhook import sign
from commands.sandbox.cards import DECLINED, DISPUTED, NO_FUNDS, REFUND_FAILS, REFUND_PENDS, THREE_D_SECURE, VISA
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import refusal_codec
from ledger.topics import Topics
from tests.support.harness import Clock, free_order_body, key, running_ledger
from tests.support.patience import PATIENCE_S
from tests.support.paying_shop import Shop
from tests.support.sandboxed import WEBHOOK_SECRET, running_sandbox
from tests.support.serving import AdjustableStatus

pytestmark = pytest.mark.usefixtures("calm")
MINUTE_MS, HOUR_MS = 60_000, 3_600_000


def test_an_order_is_paid_once_its_payment_is_captured_and_its_stock_reserved(shop: Shop) -> None:
    order = shop.place()
    payment = shop.open_payment(order)
    assert payment["state"] == "open"
    assert payment["client_secret"].startswith(payment["provider_ref"])
    assert shop.sandbox.pay(payment) == "requires_capture"
    paid = shop.until_status(order, "paid")
    assert paid["captured_minor"] == order["total_minor"]
    assert paid["axes"] == {"order": "open", "payment": "captured", "stock": "reserved", "fulfilment": "none"}
    assert sorted(shop.types(order)) == sorted(
        [
            "OrderPlaced",
            "StockReserved",
            "StockReserved",
            "PaymentRequested",
            "PaymentOpened",
            "PaymentAuthorised",
            "PaymentCaptured",
        ]
    )
    assert sorted(shop.sandbox.effects(order["order_id"])) == sorted(
        [("reserved", 2), ("reserved", 1), ("authorised", order["total_minor"]), ("captured", order["total_minor"])]
    )


def test_a_free_order_is_paid_by_its_stock_alone_and_cannot_be_paid_for(shop: Shop) -> None:
    order = shop.customer.post("/orders", json=free_order_body(), headers=key()).json()
    shop.until_status(order, "paid")
    assert shop.initiate(order).json()["code"] == "nothing-to-pay"


def test_the_same_key_answers_with_the_same_attempt_and_another_key_finds_it_open(shop: Shop) -> None:
    order = shop.place()
    headers = key()
    body = {"total_minor": order["total_minor"], "currency": order["currency"]}
    first = shop.customer.post(f"/orders/{order['order_id']}/payment", json=body, headers=headers)
    again = shop.customer.post(f"/orders/{order['order_id']}/payment", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    other_tab = shop.initiate(order)
    assert (other_tab.status_code, other_tab.json()["code"]) == (409, "payment-open")


def test_another_total_than_the_orders_is_refused(shop: Shop) -> None:
    order = shop.place()
    answer = shop.initiate(order | {"total_minor": order["total_minor"] - 1})
    assert (answer.status_code, answer.json()["code"]) == (422, "total-mismatch")
    missing = shop.customer.post(f"/orders/{order['order_id']}/payment", json={}, headers=key())
    assert (missing.status_code, missing.json()["code"]) == (422, "invalid-field")
    assert [e["pointer"] for e in missing.json()["errors"]] == ["/total_minor", "/currency"]


def test_after_a_decline_the_same_payment_takes_another_card(shop: Shop) -> None:
    order = shop.place()
    payment = shop.open_payment(order)
    assert shop.sandbox.pay(payment, NO_FUNDS) == "insufficient_funds"
    shop.until_axes(order, payment="declined")
    seen = shop.customer.get(f"/orders/{order['order_id']}/payment").json()
    assert (seen["state"], seen["client_secret"]) == ("declined", payment["client_secret"])
    assert shop.sandbox.pay(payment) == "requires_capture"
    shop.until_status(order, "paid")


def test_three_d_secure_waits_for_the_customer_and_then_goes_on(shop: Shop) -> None:
    order = shop.place()
    payment = shop.open_payment(order)
    assert shop.sandbox.pay(payment, THREE_D_SECURE) == "requires_action"
    shop.until_axes(order, payment="pending")
    shop.sandbox.authenticate(payment)
    shop.until_status(order, "paid")


def test_confirm_asks_the_provider_when_no_message_comes(shop: Shop) -> None:
    shop.sandbox.chaos(webhook_lost=1.0)
    order = shop.place()
    payment = shop.open_payment(order)
    shop.sandbox.pay(payment, DECLINED)
    answer = shop.customer.post(f"/orders/{order['order_id']}/payment", json={"action": "confirm"})
    assert (answer.status_code, answer.json()["state"]) == (200, "declined")
    shop.sandbox.pay(payment)
    answer = shop.customer.post(f"/orders/{order['order_id']}/payment", json={"action": "confirm"})
    assert answer.json()["state"] in ("authorised", "captured")
    assert answer.json()["client_secret"] is None
    shop.until_status(order, "paid")


def test_a_look_finds_what_no_message_told(shop: Shop) -> None:
    shop.sandbox.chaos(webhook_lost=1.0)
    order = shop.place()
    shop.sandbox.pay(shop.open_payment(order))
    assert shop.read(order)["axes"]["payment"] == "open"
    shop.later(2 * MINUTE_MS)
    shop.until_status(order, "paid")


def test_thirty_confirms_are_two_looks_and_a_message_is_followed_once(shop: Shop) -> None:
    """However often a page asks or a message is repeated, the provider is asked once in two seconds, and once a message."""
    shop.sandbox.chaos(webhook_lost=1.0)
    order = shop.place()
    payment = shop.open_payment(order)
    path = f"/orders/{order['order_id']}/payment"
    before = len(shop.sandbox.calls("payments"))
    with ThreadPoolExecutor(30) as customers:
        answers = list(customers.map(lambda _: shop.customer.post(path, json={"action": "confirm"}), range(30)))
    assert {(a.status_code, a.json()["state"]) for a in answers} == {(200, "open")}
    began = len(shop.sandbox.calls("payments")) - before
    assert 1 <= began <= 6  # the first look, the one that the others share, and those of a machine that takes seconds for it all
    charge = {"object": "charge", "id": "ch_1", "payment_intent": payment["provider_ref"]}
    body = json.dumps({"id": "evt_repeated", "type": "charge.updated", "livemode": False, "data": {"object": charge}}).encode()
    before = len(shop.sandbox.calls("payments"))
    counted = shop.ledger.context.metrics.webhooks["repeated"]
    for _ in range(20):
        headers = {"Stripe-Signature": sign(body, WEBHOOK_SECRET, int(time.time())), "Content-Type": "application/json"}
        assert shop.customer.post("/webhooks/stripe", content=body, headers=headers).status_code == 200
    assert len(shop.sandbox.calls("payments")) - before == 1
    assert shop.ledger.context.metrics.webhooks["repeated"] == counted + 19


def test_while_the_log_is_away_news_of_payments_is_asked_for_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.sandbox.chaos(webhook_lost=1.0)
    order = shop.place()
    payment = shop.open_payment(order)
    shop.sandbox.pay(payment)
    thing = {"object": "payment_intent", "id": payment["provider_ref"], "status": "requires_capture"}
    thing |= {"metadata": {"order": order["order_id"], "attempt": "1"}, "currency": "eur", "amount": order["total_minor"]}
    event = {"id": "evt_1", "type": "payment_intent.amount_capturable_updated", "livemode": False, "data": {"object": thing}}
    body = json.dumps(event).encode()

    def webhook() -> httpx.Response:
        headers = {"Stripe-Signature": sign(body, WEBHOOK_SECRET, int(time.time())), "Content-Type": "application/json"}
        return shop.customer.post("/webhooks/stripe", content=body, headers=headers)

    def confirm(order_id: str) -> httpx.Response:
        return shop.customer.post(f"/orders/{order_id}/payment", json={"action": "confirm"})

    unknown = "ord_" + "a" * 26
    assert confirm(unknown).json()["code"] == "order-not-found"
    with monkeypatch.context() as away:
        away.setattr(shop.ledger.context, "status", AdjustableStatus(connected=False, staleness_ms=60_000))
        for answer in (confirm(order["order_id"]), confirm(unknown), webhook()):
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")
    assert shop.read(order)["axes"]["payment"] == "open"
    assert webhook().status_code == 200
    shop.until_status(order, "paid")


def test_a_message_that_tells_what_the_ledger_shows_asks_the_provider_nothing(shop: Shop) -> None:
    order = shop.place()
    payment = shop.open_payment(order)
    shop.sandbox.pay(payment)
    shop.until_status(order, "paid")
    total, ref = order["total_minor"], payment["provider_ref"]
    deadline = time.monotonic() + 60
    while shop.sandbox.sandbox.journal.rows("select id from messages"):  # those of the sandbox itself are through
        assert time.monotonic() < deadline
        time.sleep(0.02)

    numbers = itertools.count(1)

    def looks(kind: str, **about: Any) -> int:
        """How many calls the provider gets because of a message about this payment."""
        before = len(shop.sandbox.calls("payments"))
        metadata = {"order": order["order_id"], "attempt": "1"}
        thing = {"metadata": metadata, "currency": "eur", "amount": total, "status": "succeeded"} | about
        body = json.dumps({"id": f"evt_{next(numbers)}", "type": kind, "livemode": False, "data": {"object": thing}}).encode()
        headers = {"Stripe-Signature": sign(body, WEBHOOK_SECRET, int(time.time())), "Content-Type": "application/json"}
        assert shop.customer.post("/webhooks/stripe", content=body, headers=headers).status_code == 200
        return len(shop.sandbox.calls("payments")) - before

    intent: dict[str, Any] = {"object": "payment_intent", "id": ref}
    charge: dict[str, Any] = {"object": "charge", "id": "ch_1", "payment_intent": ref, "captured": True}
    charge |= {"amount_captured": total, "amount_refunded": 0, "disputed": False}
    assert looks("payment_intent.succeeded", **intent, amount_received=total) == 0
    assert looks("payment_intent.amount_capturable_updated", **intent | {"status": "requires_capture"}) == 0
    assert looks("charge.captured", **charge) == 0
    # More was captured than is known, of an attempt that is not known, money went back, a dispute, or it does not say: a look.
    assert looks("payment_intent.succeeded", **intent, amount_received=total + 1) > 0
    assert looks("payment_intent.canceled", **intent, metadata={"order": order["order_id"], "attempt": "2"}) > 0
    assert looks("charge.refunded", **charge | {"amount_refunded": 1}) > 0
    assert looks("charge.dispute.created", object="dispute", id="du_1", payment_intent=ref, amount=1) > 0
    assert looks("charge.updated", **charge | {"metadata": {}}) > 0
    assert looks("refund.created", object="refund", id="re_1", payment_intent=ref, amount=1) > 0
    assert shop.types(order).count("PaymentCaptured") == 1


def test_only_the_customer_sees_the_secret(shop: Shop) -> None:
    order = shop.place()
    path = f"/orders/{order['order_id']}/payment"
    assert shop.customer.get(path).json()["code"] == "not-found"
    shop.open_payment(order)
    assert shop.customer.get(path).json()["client_secret"]
    assert shop.admin.get(path).json()["client_secret"] is None
    assert shop.ledger.client("reader").get(path).json()["client_secret"] is None
    stranger = shop.ledger.client(customer="c-2")
    assert stranger.get(path).json()["code"] == "order-not-found"
    assert stranger.post(path, json={"action": "confirm"}).json()["code"] == "order-not-found"


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


def test_what_is_out_of_stock_cancels_the_order_and_gives_back_the_rest(shop: Shop) -> None:
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


def test_what_staff_do_in_the_dashboard_is_followed(shop: Shop) -> None:
    order = shop.place()
    payment = shop.open_payment(order)
    shop.sandbox.pay(payment)
    shop.until_status(order, "paid")
    shop.sandbox.by_staff("/v1/refunds", payment_intent=payment["provider_ref"])
    now = shop.until(order, lambda o: o["refunded_minor"] == order["total_minor"])
    assert now["status"] == "paid"
    shop.until(order, lambda o: any(f["code"] == "refunded_open_order" for f in o["attention"]))


def test_an_authorisation_that_lapses_can_be_paid_again(shop: Shop) -> None:
    shop.sandbox.sandbox.rooms.put("merch", "mug", 1_000_000, 900)
    shop.sandbox.chaos(ports={"merch": {"error": 1.0}})  # stock is not reserved, so nothing is captured
    order = shop.place()
    payment = shop.open_payment(order)
    shop.sandbox.pay(payment)
    shop.until_axes(order, payment="authorised")
    shop.sandbox.by_staff(f"/sandbox/payments/{payment['provider_ref']}/expire")
    shop.until_axes(order, payment="unpaid")
    second = shop.open_payment(order)
    assert second["attempt"] == 2
    shop.sandbox.pay(second)
    shop.sandbox.chaos()
    shop.until_status(order, "paid")


def test_a_provider_that_is_away_keeps_the_order_waiting_and_says_so(shop: Shop) -> None:
    shop.sandbox.chaos(ports={"payments": {"reset": 1.0}})
    order = shop.place()
    answer = shop.initiate(order, Prefer="wait=1")
    assert answer.status_code == 202
    assert answer.json()["state"] == "accepted"
    assert answer.headers["Location"] == f"/orders/{order['order_id']}/payment"
    assert shop.customer.get(answer.headers["Location"]).json()["state"] == "requested"
    shop.sandbox.chaos()
    shop.until_axes(order, payment="open")
    shop.sandbox.chaos(ports={"payments": {"error": 1.0}})
    away = shop.customer.get(answer.headers["Location"])
    assert (away.status_code, away.json()["code"]) == (503, "provider-unavailable")


@pytest.mark.parametrize("way", ["the same key", "another key", "confirm"])
def test_a_customer_who_asks_again_need_not_wait_for_a_pause_that_grew_to_minutes(shop: Shop, way: str) -> None:
    """By the clock of the reconciler, which stands still while the customer asks: nothing but the asking makes it try."""
    shop.sandbox.chaos(ports={"payments": {"error": 1.0}})
    order, headers = shop.place(), key()
    path = f"/orders/{order['order_id']}/payment"
    body = {"total_minor": order["total_minor"], "currency": order["currency"]}
    assert shop.customer.post(path, json=body, headers=headers | {"Prefer": "respond-async"}).status_code == 202
    with shop.ledger.clock.standing_still():
        enough = shop.failed("create_payment") + 9  # after 0.2, 0.5, 1, 2, 4, ... s: the next is after about a minute
        shop.until(order, lambda o: shop.failed("create_payment") >= enough, step_ms=5_000)
        shop.sandbox.chaos()
        assert shop.customer.get(path).json()["state"] == "requested"
        shop.later(WAITED_PAUSES_MS[0])  # so often may anybody ask
        if way == "the same key":
            answer = shop.customer.post(path, json=body, headers=headers | {"Prefer": "wait=30"})
            assert (answer.status_code, answer.json()["state"]) == (201, "open")
            assert answer.headers["Idempotency-Replayed"] == "true"
        elif way == "confirm":
            answer = shop.customer.post(path, json={"action": "confirm"}, headers={"Prefer": "wait=30"})
            assert (answer.status_code, answer.json()["state"]) == (200, "open")
        else:
            assert shop.initiate(order).json()["code"] == "payment-open"
            shop.until_axes(order, payment="open")
    # What only reminds leaves no record; what is refused leaves the one of its refusal.
    refusals = [refusal_codec().decode(r.value) for r in shop.ledger.records(shop.ledger.topics.refusals)]
    by_customers = [r.code for r in refusals if r.order_id == order["order_id"] and r.actor != "reconciler"]
    assert by_customers == (["payment_open"] if way == "another key" else [])
    assert shop.types(order).count("PaymentRequested") == 1


def test_a_call_that_fails_for_an_hour_calls_a_person_once_and_goes_on(shop: Shop) -> None:
    shop.sandbox.chaos(ports={"merch": {"error": 1.0}})
    order = shop.place()
    shop.until(order, lambda o: len(shop.sandbox.calls("merch")) > 0)

    def stuck(o: dict[str, Any]) -> list[str]:
        return [f["obligation_key"] for f in o["attention"] if f["code"] == "stuck"]

    deadline = time.monotonic() + PATIENCE_S
    while not stuck(shop.read(order)):
        assert time.monotonic() < deadline
        shop.later(20 * MINUTE_MS)  # its pauses grow to minutes
        time.sleep(0.1)
    shop.later(HOUR_MS)
    time.sleep(0.3)
    assert stuck(shop.read(order)) == [f"att:{order['order_id']}:res:{order['order_id']}:merch"]
    shop.sandbox.chaos()
    shop.later(HOUR_MS)
    shop.until_axes(order, MINUTE_MS, stock="reserved")
    flag = {"code": "stuck", "obligation_key": stuck(shop.read(order))[0], "action": "retry"}
    answer = shop.admin.post(f"/orders/{order['order_id']}/attention", json=flag, headers=key())
    assert answer.json()["attention"] == []


def test_the_daily_sweep_finds_refunds_and_disputes_that_no_message_told(shop: Shop) -> None:
    orders = []
    for _ in range(2):
        order = shop.place()
        payment = shop.open_payment(order)
        shop.sandbox.pay(payment)
        shop.until_status(order, "paid")
        orders.append((order, payment["provider_ref"]))
    time.sleep(0.5)  # for the messages about these to be through
    shop.sandbox.chaos(webhook_lost=1.0)
    (refunded, refunded_ref), (disputed, disputed_ref) = orders
    shop.sandbox.by_staff("/v1/refunds", payment_intent=refunded_ref)
    shop.sandbox.by_staff(f"/sandbox/payments/{disputed_ref}/dispute", reason="fraudulent")
    shop.sandbox.by_staff("/v1/payment_intents", amount="100", currency="eur")  # of somebody else's shop
    assert shop.read(refunded)["refunded_minor"] == 0
    assert shop.ledger.companions is not None
    reconciler = shop.ledger.companions.reconciler
    assert reconciler is not None
    asyncio.run_coroutine_threadsafe(reconciler.sweep(), reconciler._loop).result(PATIENCE_S)
    shop.until(refunded, lambda o: o["refunded_minor"] == refunded["total_minor"])
    shop.until(disputed, lambda o: any(f["code"] == "dispute" for f in o["attention"]))
    assert reconciler.done["sweep found"] >= 2


def test_an_order_that_nobody_pays_expires_and_gives_back_its_stock(tmp_path: Path) -> None:
    with (
        running_sandbox(tmp_path) as sandbox,
        running_ledger(MemoryLog(), Topics("expiring."), sandbox=sandbox, payment_window_s=2) as ledger,
    ):
        shop = Shop(ledger, sandbox)
        unpaid, abandoned = shop.place(), shop.place()
        payment = shop.open_payment(abandoned)
        sandbox.pay(payment, THREE_D_SECURE)  # and the customer goes away
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
        running_ledger(MemoryLog(clock), Topics("own-window."), sandbox=sandbox) as ledger,
    ):
        shop = Shop(ledger, sandbox)
        short, usual = shop.place(payment_window_seconds=600), shop.place()
        for order in (short, usual):
            shop.until_axes(order, payment="unpaid", stock="reserved")
        clock.ahead_ms = 600_000  # for the log, by whose time is decided
        shop.later(600_000)  # and for the reconciler, which asks
        now = shop.until_axes(short, payment="unpaid", stock="released")
        assert (now["status"], now["cancel_reason"]) == ("cancelled", "unpaid")
        assert shop.read(usual)["status"] == "pending"
        payment = shop.open_payment(usual)  # and it can still be paid for
        sandbox.pay(payment)
        shop.until(usual, lambda o: o["status"] == "paid")


# ---- races, lost messages, restarts ---------------------------------------------------------------------------------


def race(shop: Shop, count: int) -> None:
    """Customers who pay and cancel at once: each order ends captured and open, or cancelled with all of it given back.

    One in eight cancels first, and one in eight when the order is paid: no chance decides whether both ends are seen.
    """
    choice = random.Random(count)
    done: list[dict[str, Any]] = []
    failures: list[BaseException] = []
    numbers = iter(range(count))

    def run() -> None:
        try:
            for number in numbers:
                order = shop.place()
                payment = shop.open_payment(order)
                pay = threading.Thread(target=shop.sandbox.pay, args=(payment,))
                if number % 8 == 0:
                    answer = shop.cancel(order)
                    pay.start()
                else:
                    pay.start()
                    if number % 8 == 1:
                        shop.until_status(order, "paid")
                    time.sleep(choice.uniform(0, 0.5))
                    answer = shop.cancel(order)
                assert answer.status_code in (200, 409), answer.text
                pay.join()
                done.append(order)
        except BaseException as exc:
            failures.append(exc)

    customers = [threading.Thread(target=run) for _ in range(6)]
    for thread in customers:
        thread.start()
    for thread in customers:
        thread.join()
    assert failures == []
    ends: Counter[str] = Counter()
    for order in done:

        def settled(o: dict[str, Any]) -> bool:
            axes = o["axes"]
            return axes["stock"] in ("reserved", "released") and axes["payment"] in ("captured", "voided", "refunded")

        now = shop.until(order, settled, timeout_s=PATIENCE_S)
        effects = shop.sandbox.effects(order["order_id"])
        sums = {kind: sum(n for k, n in effects if k == kind) for kind in ("captured", "refunded", "reserved", "released")}
        assert (now["captured_minor"], now["refunded_minor"]) == (sums["captured"], sums["refunded"])
        if now["status"] == "cancelled":
            assert sums["captured"] == sums["refunded"]
            assert sums["reserved"] == sums["released"]
        else:
            assert (now["status"], sums["captured"], sums["refunded"]) == ("paid", order["total_minor"], 0)
        ends[f"{now['status']} {now['axes']['payment']}"] += 1
    print(f"\n{count} races of pay and cancel: {dict(ends)}")
    assert ends["cancelled voided"]
    assert ends["cancelled refunded"]


def test_pay_and_cancel_at_the_same_time_end_with_nothing_kept(shop: Shop) -> None:
    race(shop, 24)


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_pay_and_cancel_raced_five_hundred_times_end_with_nothing_kept(shop: Shop) -> None:
    race(shop, 500)


def test_lost_repeated_and_shuffled_messages_lead_to_the_same_events(shop: Shop) -> None:
    """The same shopping twice: with every message once and in order, and with one in ten lost and the others up to five times."""

    def bought(card: str, cancelled: bool) -> dict[str, Any]:
        order = shop.place()
        payment = shop.open_payment(order)
        shop.sandbox.pay(payment, card)
        if card == THREE_D_SECURE:
            confirmed(order, "pending")
            shop.sandbox.authenticate(payment)
        if card == NO_FUNDS:
            confirmed(order, "declined")
            shop.sandbox.pay(payment)
        confirmed(order, "captured")
        shop.until_status(order, "paid")
        if cancelled:
            shop.cancel(order)
        return order

    def shopping() -> list[list[str]]:
        carts = [(VISA, False), (NO_FUNDS, False), (THREE_D_SECURE, False), (VISA, True), (REFUND_PENDS, True)] * 2
        with ThreadPoolExecutor(len(carts)) as customers:
            orders = [
                (order, cancelled)
                for order, (_, cancelled) in zip(customers.map(lambda c: bought(*c), carts), carts, strict=True)
            ]
        shop.later(3 * HOUR_MS)  # what no message told is found by looking
        found = []
        for order, cancelled in orders:
            payment, stock = ("refunded", "released") if cancelled else ("captured", "reserved")
            shop.until_axes(order, MINUTE_MS, payment=payment, stock=stock)
            found.append(sorted(shop.types(order)))
        return found

    def confirmed(order: dict[str, Any], state: str) -> None:
        """The customer's page tells the shop after each step, as often as it takes: then no step is passed over."""
        path, deadline = f"/orders/{order['order_id']}/payment", time.monotonic() + PATIENCE_S
        while shop.customer.post(path, json={"action": "confirm"}).json()["state"] != state:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    orderly = shopping()
    shop.sandbox.chaos(seed=5, webhook_copies=5, webhook_delay_ms=300, webhook_lost=0.1)
    assert shopping() == orderly


def test_a_reconciler_that_starts_with_an_empty_store_calls_nobody_about_what_is_settled(tmp_path: Path) -> None:
    log, topics = MemoryLog(), Topics("settled.")
    with running_sandbox(tmp_path) as sandbox:
        with running_ledger(log, topics, sandbox=sandbox) as ledger:
            shop = Shop(ledger, sandbox)
            paid, refunded, sold_out = shop.place(), shop.place(), None
            for order in (paid, refunded):
                sandbox.pay(shop.open_payment(order))
                shop.until_status(order, "paid")
            shop.cancel(refunded)
            shop.until_axes(refunded, payment="refunded", stock="released")
            sandbox.sandbox.rooms.put("merch", "mug", 0, 900)
            sold_out = shop.place()
            shop.until_status(sold_out, "cancelled")
            warm_up = next(o for o in shop.admin.get("/orders").json()["data"] if o["customer_id"] == "warm-up")
            shop.until(warm_up, lambda o: o["axes"]["stock"] == "reserved")
            time.sleep(1)
            calls = {port: len(sandbox.calls(port)) for port in ("payments", "product", "merch")}
            outbox = tmp_path / "outbox"
            mails = {path.name: path.stat().st_mtime_ns for path in outbox.iterdir()}
            assert len(mails) >= 8
        sandbox.sandbox.rooms.put("merch", "mug", 1_000, 900)
        with running_ledger(log, topics, sandbox=sandbox) as ledger:  # stores in memory: everything is folded from the log anew
            assert ledger.companions is not None
            assert ledger.companions.reconciler is not None
            Shop(ledger, sandbox).until(paid, lambda o: o["status"] == "paid")
            time.sleep(2)
            known = {order["order_id"] for order in (paid, refunded, sold_out)}
            again = [c for port in calls for c in sandbox.calls(port)[calls[port] :] if c["order_id"] in known]
            assert again == []
            assert {p.name: p.stat().st_mtime_ns for p in outbox.iterdir() if p.name in mails} == mails
