"""Paying under disturbances: an unreachable provider, pay against cancel, lost and shuffled messages, a restart."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from commands.reconciler.pauses import WAITED_PAUSES_MS
from commands.sandbox.cards import NO_FUNDS, REFUND_PENDS, THREE_D_SECURE, VISA
from ledger.log import TopicPartition
from ledger.memory.log import MemoryLog
from ledger.schemas.codec import refusal_codec
from ledger.topics import Topics
from tests.support.harness import PARTITIONS, RunningLedger, decided, key, running_ledger
from tests.support.patience import PATIENCE_S, until
from tests.support.paying_shop import Shop
from tests.support.sandboxed import running_sandbox

pytestmark = pytest.mark.usefixtures("calm")
MINUTE_MS, HOUR_MS = 60_000, 3_600_000


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


def test_an_unreachable_provider_keeps_the_order_waiting_and_says_so(shop: Shop) -> None:
    shop.sandbox.chaos(ports={"payments": {"reset": 1.0}})
    order = shop.place()
    sent = key() | {"Prefer": "wait=1"}
    while (answer := shop.initiate(order, **sent)).json()["state"] == "pending":  # on a slow machine, not even decided
        assert answer.status_code == 202
    assert answer.status_code == 202
    assert answer.json()["state"] == "accepted"
    assert answer.headers["Location"] == f"/orders/{order['order_id']}/payment"
    assert shop.customer.get(answer.headers["Location"]).json()["state"] == "requested"
    shop.sandbox.chaos()
    shop.until_axes(order, payment="open")
    shop.sandbox.chaos(ports={"payments": {"error": 1.0}})
    away = shop.customer.get(answer.headers["Location"])
    assert (away.status_code, away.json()["code"]) == (503, "provider-unavailable")


def test_a_failure_that_the_provider_keeps_as_its_answer_voids_the_attempt_and_the_next_one_opens(shop: Shop) -> None:
    """Under the same key it would come again for a day, as a customer waits."""
    shop.sandbox.chaos(ports={"payments": {"error_kept": 1.0}})
    order = shop.place()
    answer = shop.initiate(order, Prefer="wait=30")
    assert (answer.status_code, answer.json()["code"]) == (422, "payment-refused")
    now = shop.until(order, lambda o: any(f["code"] == "payment_refused" for f in o["attention"]))
    assert (now["axes"]["payment"], now["status"]) == ("unpaid", "pending")
    shop.sandbox.chaos()
    payment = shop.open_payment(order)
    assert payment["attempt"] == 2
    shop.sandbox.pay(payment)
    shop.until_status(order, "paid")
    assert shop.types(order).count("PaymentVoided") == 1


@pytest.mark.parametrize("retry", ["the same key", "another key", "confirm"])
def test_a_customer_who_asks_again_need_not_wait_for_a_pause_that_grew_to_minutes(shop: Shop, retry: str) -> None:
    """The clock of the reconciler stands still while the customer asks, so only the request can make it try."""
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
        shop.later(WAITED_PAUSES_MS[0])  # a customer may ask that often
        if retry == "the same key":
            answer = shop.customer.post(path, json=body, headers=headers | {"Prefer": "wait=30"})
            assert (answer.status_code, answer.json()["state"]) == (201, "open")
            assert answer.headers["Idempotency-Replayed"] == "true"
        elif retry == "confirm":
            answer = shop.customer.post(path, json={"action": "confirm"}, headers={"Prefer": "wait=30"})
            assert (answer.status_code, answer.json()["state"]) == (200, "open")
        else:
            assert shop.initiate(order).json()["code"] == "payment-open"
            shop.until_axes(order, payment="open")
    # A reminder leaves no record; a refused command leaves its refusal.
    refusals = [refusal_codec().decode(r.value) for r in shop.ledger.records(shop.ledger.topics.refusals)]
    by_customers = [r.code for r in refusals if r.order_id == order["order_id"] and r.actor.startswith("gateway:")]
    assert by_customers == (["payment_open"] if retry == "another key" else [])
    assert shop.types(order).count("PaymentRequested") == 1


def test_a_call_that_fails_for_an_hour_calls_a_person_and_again_if_the_flag_is_closed_too_early(shop: Shop) -> None:
    shop.sandbox.chaos(ports={"merch": {"error": 1.0}})
    order = shop.place()
    shop.until(order, lambda o: len(shop.sandbox.calls("merch")) > 0)

    def stuck(o: dict[str, Any]) -> list[str]:
        return [f["obligation_key"] for f in o["attention"] if f["code"] == "stuck"]

    def until_a_person_is_called() -> None:
        """The clock moves on only after a try, so that the order does not expire meanwhile."""
        while not stuck(shop.read(order)):
            enough = shop.failed("reserve") + 1
            shop.later(20 * MINUTE_MS)  # its pauses grow to minutes
            shop.until(order, lambda _, enough=enough: shop.failed("reserve") >= enough)

    def close_the_flag() -> None:
        flag = {"code": "stuck", "obligation_key": stuck(shop.read(order))[0], "action": "retry"}
        answer = shop.admin.post(f"/orders/{order['order_id']}/attention", json=flag, headers=key())
        assert answer.json()["attention"] == []

    until_a_person_is_called()
    shop.later(HOUR_MS)
    time.sleep(0.3)
    assert stuck(shop.read(order)) == [f"att:{order['order_id']}:res:{order['order_id']}:merch"], "one flag, not one for each try"
    close_the_flag()
    until_a_person_is_called()
    assert stuck(shop.read(order)) == [f"att:{order['order_id']}:res:{order['order_id']}:merch"]
    shop.sandbox.chaos()
    shop.later(HOUR_MS)
    shop.until_axes(order, MINUTE_MS, stock="reserved")
    close_the_flag()
    assert shop.types(order).count("AttentionRaised") == 2


def race(shop: Shop, count: int) -> None:
    """Customers who pay and cancel together: each order ends captured and open, or cancelled with everything refunded.

    One in eight cancels first, and one in eight when the order is paid, so both ends occur without chance.
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
    """The same orders twice: with every message once and in order, and with one in ten lost and the others up to five times."""

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
        shop.later(3 * HOUR_MS)  # a read finds what no message reported
        types = []
        for order, cancelled in orders:
            payment, stock = ("refunded", "released") if cancelled else ("captured", "reserved")
            shop.until_axes(order, MINUTE_MS, payment=payment, stock=stock)
            types.append(sorted(shop.types(order)))
        return types

    def confirmed(order: dict[str, Any], state: str) -> None:
        """The customer's page notifies the shop after each step, as often as needed, so that no step is skipped."""
        path, deadline = f"/orders/{order['order_id']}/payment", time.monotonic() + PATIENCE_S
        while decided(shop.customer, path, {"action": "confirm"}).json()["state"] != state:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    orderly = shopping()
    shop.sandbox.chaos(seed=5, webhook_copies=5, webhook_delay_ms=300, webhook_lost=0.1)
    assert shopping() == orderly


def everybody_is_notified(ledger: RunningLedger) -> bool:
    """Whether the notifier has processed every event."""
    assert ledger.companions is not None
    notifier = ledger.companions.notifier
    assert notifier is not None
    ends = ledger.log.ends([TopicPartition(ledger.topics.events, p) for p in range(PARTITIONS)])
    # At the end of each partition is the marker of a transaction.
    return not notifier._parked and all(end - notifier._places[tp].position <= 1 for tp, end in ends.items())


def test_a_reconciler_that_starts_with_an_empty_store_calls_nobody_about_settled_orders(tmp_path: Path) -> None:
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
            shop.until(sold_out, lambda _: "StockReleased" in shop.types(sold_out))
            until(lambda: everybody_is_notified(ledger))
            calls = {port: len(sandbox.calls(port)) for port in ("payments", "product", "merch")}
            outbox = tmp_path / "outbox"
            mails = {path.name: path.stat().st_mtime_ns for path in outbox.iterdir()}
            assert len(mails) >= 8
        sandbox.sandbox.rooms.put("merch", "mug", 1_000, 900)
        with running_ledger(log, topics, sandbox=sandbox) as ledger:  # stores in memory: everything is folded from the log again
            assert ledger.companions is not None
            assert ledger.companions.reconciler is not None
            Shop(ledger, sandbox).until(paid, lambda o: o["status"] == "paid")
            time.sleep(2)
            known = {order["order_id"] for order in (paid, refunded, sold_out)}
            again = [c for port in calls for c in sandbox.calls(port)[calls[port] :] if c["order_id"] in known]
            assert again == []
            assert {p.name: p.stat().st_mtime_ns for p in outbox.iterdir() if p.name in mails} == mails
