"""What judges lists, totals, flags, contacts and messages: a shop that shows everything right, and one broken promise each."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import checker, shown_checker
from tests.support.checker import DETAILS, Decoded, Ledger, Raw
from tests.support.shown_checker import DAY_MS, Mail, Shown, Wanted

NOON = 20_000 * DAY_MS + DAY_MS // 2  # 2024-10-04
TODAY, TOMORROW = "2024-10-04", "2024-10-05"
SUMMARY = {"status": "pending", "payment_state": "none", "total_minor": 500, "captured_minor": 0, "refunded_minor": 0}
DIGESTS = {order_id: hashlib.sha256(order_id.encode()).digest() for order_id in ("ord_a", "ord_b", "ord_c")}
CUSTOMERS = {"ord_a": "ada", "ord_b": "bob", "ord_c": "ada"}
SENT = {
    order_id: {
        "name": "Ada" if customer == "ada" else "Bob",
        "email": f"{order_id}@{customer}.example",
        "phone": f"+44 113 496 000{index}",
        "shipping_address": {"line1": "1 Mill Lane", "city": "Leeds", "postcode": "LS1 1AA", "country": "GB"},
    }
    for index, (order_id, customer) in enumerate(CUSTOMERS.items())
}
LINE = {"service": "product", "sku": "tea", "quantity": 2, "unit_price_minor": 250}
FLAG = {"code": "refund_failed", "obligation_key": "refund/1", "action": None, "amount_minor": None, "ticket": None}


def placed(order_id: str) -> dict[str, Any]:
    content = {"lines": [LINE], "adjustments": [], "reference": f"cart-{order_id}", "contact_digest": DIGESTS[order_id]}
    return {"type": "OrderPlaced", "placed": content}


# (order, ms after noon, members): a is paid and flagged, b is cancelled the next day, c was placed in the same millisecond as b
STORY: list[tuple[str, int, dict[str, Any]]] = [
    ("ord_a", 0, placed("ord_a")),
    ("ord_c", 5, placed("ord_c")),
    ("ord_b", 5, placed("ord_b")),
    ("ord_a", 10, {"type": "StockReserved", "stock": {"service": "product"}}),
    (
        "ord_a",
        20,
        {"type": "PaymentCaptured", "payment": {"attempt": 1, "amount_minor": 500}, "captured_minor": 500, "status": "paid"},
    ),
    ("ord_a", 30, {"type": "AttentionRaised", "attention": FLAG}),
    ("ord_b", 35, {"type": "AttentionRaised", "attention": FLAG}),
    ("ord_b", 36, {"type": "AttentionResolved", "attention": FLAG | {"action": "retry"}}),
    ("ord_b", DAY_MS, {"type": "OrderCancelled", "cancel": {"reason": "fraud"}, "status": "cancelled"}),
]


def ledger() -> Ledger:
    events, last = [], bytes(32)
    now: dict[str, dict[str, Any]] = {}
    for offset, (order_id, after_ms, members) in enumerate(STORY):
        before = now.get(order_id, SUMMARY | {"version": 0})
        summary = {name: members.get(name, before[name]) for name in SUMMARY} | {"version": before["version"] + 1}
        now[order_id] = summary
        fields = dict.fromkeys(DETAILS) | {
            "order_id": order_id,
            "occurred_at": NOON + after_ms,
            "customer_id": CUSTOMERS[order_id],
            "currency": "EUR",
            "command_id": f"cmd_{offset}",
            "fingerprint": b"f",
            "command_log": bytes(16),
            "command_offset": offset,
            "batch_first": offset,
            "prev_hash": last,
        }
        fields |= summary | members
        body = json.dumps(fields, default=str).encode()
        last = hashlib.sha256(body).digest()
        events.append(Decoded(Raw(0, offset, 0, order_id.encode(), bytes(5) + body), fields))
    commands = [
        Decoded(Raw(0, n, 0, b"", b"command"), {"command_id": f"cmd_{n}", "fingerprint": b"f", "operation": "Any"})
        for n in range(len(STORY))
    ]
    return checker.check(Ledger(events, [], commands))


def row(order_id: str) -> dict[str, Any]:
    order = ledger().orders[order_id]
    names = ("order_id", "version", "status", "customer_id", "currency", "total_minor", "captured_minor", "refunded_minor")
    flags = [{"code": FLAG["code"], "obligation_key": FLAG["obligation_key"]}] if order_id == "ord_a" else []
    return {name: getattr(order, name) for name in names} | {"frozen": None, "attention": flags}


def contact(order_id: str) -> Decoded:
    key = f"{order_id}/{DIGESTS[order_id].hex()}".encode()
    fields = SENT[order_id] | {"customer_id": CUSTOMERS[order_id], "billing_address": None, "note": None, "locale": None}
    fields["shipping_address"] = SENT[order_id]["shipping_address"] | {"line2": None, "region": None}
    return Decoded(Raw(0, 0, 0, key, b"value"), fields)


def everything() -> Shown:
    day = {"placed": 0, "placed_minor": 0, "cancelled": 0, "shipped": 0, "delivered": 0, "captured_minor": 0, "refunded_minor": 0}
    return Shown(
        lists={
            Wanted(): [row("ord_b"), row("ord_c"), row("ord_a")],
            Wanted(customer_id="ada"): [row("ord_c"), row("ord_a")],
            Wanted(status="paid"): [row("ord_a")],
            Wanted(customer_id="bob", status="paid"): [],
            Wanted(attention=True): [row("ord_a")],
            Wanted(reference="cart-ord_b"): [row("ord_b")],
        },
        daily=[
            day | {"day": TODAY, "currency": "EUR", "placed": 3, "placed_minor": 1500, "captured_minor": 500},
            day | {"day": TOMORROW, "currency": "EUR", "cancelled": 1},
        ],
        orders={order_id: row(order_id) | {"contact": SENT[order_id]} for order_id in CUSTOMERS},
        contacts=[contact(order_id) for order_id in CUSTOMERS],
        mails=[
            *(Mail(order_id, 1, SENT[order_id]["email"], "Your order costs €5.00.") for order_id in CUSTOMERS),
            Mail("ord_a", 3, SENT["ord_a"]["email"], "Your order is paid."),
            Mail("ord_b", 4, SENT["ord_b"]["email"], "Your order is cancelled."),
        ],
    )


def test_a_shop_that_shows_everything_right_has_no_problem() -> None:
    judged = ledger()
    assert judged.problems == []
    assert shown_checker.judge(judged, everything(), SENT) == []


def in_row(**members: Any) -> Callable[[Shown], None]:
    """In the list of all orders, the row of order c has other members."""

    def change(shown: Shown) -> None:
        shown.lists[Wanted()][1] |= members

    return change


def in_day(**members: Any) -> Callable[[Shown], None]:
    def change(shown: Shown) -> None:
        shown.daily[0] |= members

    return change


def in_contact(**members: Any) -> Callable[[Shown], None]:
    def change(shown: Shown) -> None:
        shown.contacts[0] = Decoded(shown.contacts[0].raw, shown.contacts[0].fields | members)

    return change


def in_mail(index: int, **members: Any) -> Callable[[Shown], None]:
    def change(shown: Shown) -> None:
        shown.mails[index] = shown.mails[index]._replace(**members)

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s.lists[Wanted()].pop(), "list of all orders: ord_a is missing"),
        (lambda s: s.lists[Wanted()].append(row("ord_a")), "list of all orders: ord_a 2 times"),
        (lambda s: s.lists[Wanted()].reverse(), "list of all orders is out of order"),
        (lambda s: s.lists[Wanted()].append(row("ord_a") | {"order_id": "ord_x"}), "ord_x does not belong"),
        (lambda s: s.lists[Wanted(customer_id="ada")].append(row("ord_b")), "customer_id ada: ord_b does not belong"),
        (lambda s: s.lists[Wanted(status="paid")].clear(), "list of status paid: ord_a is missing"),
        (lambda s: s.lists[Wanted("bob", "paid")].append(row("ord_b")), "customer_id bob, status paid: ord_b does not belong"),
        (lambda s: s.lists[Wanted(reference="cart-ord_b")].clear(), "reference cart-ord_b: ord_b is missing"),
        (in_row(status="paid"), "ord_c status paid, not pending"),
        (in_row(total_minor=501), "ord_c total_minor 501, not 500"),
        (in_row(frozen={"reason": "x"}), "ord_c is frozen"),
        (in_day(placed=2), f"totals of ('{TODAY}', 'EUR'): placed 2, not 3"),
        (in_day(captured_minor=1000), "captured_minor 1000, not 500"),
        (in_day(day=TOMORROW), f"totals of ('{TOMORROW}', 'EUR') twice"),
        (lambda s: s.daily.pop(), f"totals of ('{TOMORROW}', 'EUR'): cancelled 0, not 1"),
        (lambda s: s.daily.append(s.daily[1] | {"currency": "USD"}), f"totals of ('{TOMORROW}', 'USD'): cancelled 1, not 0"),
        (lambda s: s.lists[Wanted(attention=True)].append(row("ord_b")), "list of attention True: ord_b does not belong"),
        (lambda s: s.lists[Wanted(attention=True)].clear(), "list of attention True: ord_a is missing"),
        (lambda s: s.orders["ord_a"].update(attention=[]), "ord_a shows the flags [], not [('refund_failed', 'refund/1')]"),
        (lambda s: s.orders["ord_b"].update(attention=row("ord_a")["attention"]), "ord_b shows the flags"),
        (lambda s: s.orders["ord_a"]["attention"].append(row("ord_a")["attention"][0]), "ord_a shows the flags"),
        (lambda s: s.contacts.pop(), "ord_c: its contact is not in the topic"),
        (lambda s: s.contacts.append(Decoded(s.contacts[0].raw, {})), "ord_a: its contact is not in the topic"),
        (in_contact(email="bob@bob.example"), "ord_a: the contact in the topic is not the one that was sent"),
        (in_contact(customer_id="bob"), "ord_a: the contact in the topic is not the one that was sent"),
        (lambda s: s.orders["ord_a"].update(contact=SENT["ord_b"]), "ord_a: the contact in its answer is not the one"),
        (lambda s: s.orders["ord_a"].update(contact=None), "ord_a: the contact in its answer is not the one"),
        (lambda s: s.mails.pop(), "ord_b v4 OrderCancelled was not announced"),
        (lambda s: s.mails.pop(3), "ord_a v3 PaymentCaptured was not announced"),
        (in_mail(0, to="bob@bob.example"), "ord_a v1: the message went to another address"),
        (in_mail(0, text="Your order costs €5.01."), "ord_a v1: the message does not name the total, 500"),
        (lambda s: s.mails.append(Mail("ord_a", 2, "x", "")), "ord_a v2: a message about StockReserved"),
        (lambda s: s.mails.append(Mail("ord_x", 1, "x", "")), "ord_x v1: a message about nothing"),
    ],
)
def test_a_broken_promise_is_found(change: Callable[[Shown], object], problem: str) -> None:
    shown = copy.deepcopy(everything())
    change(shown)
    problems = shown_checker.judge(ledger(), shown, SENT)
    assert any(problem in line for line in problems), problems


@pytest.mark.parametrize("secret", ["ord_b@bob.example", "+44 113 496 0001"])
@pytest.mark.parametrize("topic", ["events", "refusals", "commands"])
def test_a_contact_in_another_topic_is_found(topic: str, secret: str) -> None:
    judged = ledger()
    fields = judged.events[-1].fields | {"type": "MetadataChanged", "version": 5}
    getattr(judged, topic).append(Decoded(Raw(1, 7, 0, b"key", f"junk {secret}".encode()), fields))
    assert shown_checker.judge(judged, everything(), SENT) == [f"{topic} 1-7 contains a contact"]


def test_events_before_the_notifier_began_need_no_message() -> None:
    shown = everything()
    shown.mails = shown.mails[-1:]
    assert shown_checker.judge(ledger(), shown, SENT, announced_from_ms=NOON + DAY_MS) == []
    assert len(shown_checker.judge(ledger(), shown, SENT, announced_from_ms=NOON + 1)) == 3


@pytest.mark.parametrize(
    ("members", "announced"),
    [
        ({"type": "PaymentCaptured", "status": "pending", "payment_state": "captured"}, False),
        ({"type": "PaymentCaptured", "status": "pending", "payment_state": "partly_captured"}, True),
        ({"type": "StockReserved", "status": "paid"}, True),
        ({"type": "StockReserved", "status": "pending", "payment_state": "partly_captured"}, False),
        ({"type": "AttentionResolved", "attention": FLAG | {"action": "settled_elsewhere", "amount_minor": 5}}, True),
        ({"type": "AttentionResolved", "attention": FLAG | {"action": "settled_elsewhere", "amount_minor": 0}}, False),
        ({"type": "AttentionResolved", "attention": FLAG | {"action": "retry"}}, False),
        ({"type": "RefundSubmitted"}, False),
        ({"type": "RefundSettled"}, True),
    ],
)
def test_which_events_customers_read_about(members: dict[str, Any], announced: bool) -> None:
    assert shown_checker.is_announced(members) is announced
