"""The checker itself: a small ledger that keeps every promise, and then one broken promise after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import checker
from tests.support.checker import Decoded, Ledger, Raw

DETAILS = checker.DETAILS
LOG = bytes(16)


def event(version: int, kind: str, command: int, **members: Any) -> dict[str, Any]:
    fields = dict.fromkeys(DETAILS) | {
        "order_id": "ord_a",
        "version": version,
        "type": kind,
        "occurred_at": 1000 + command,
        "status": "pending",
        "customer_id": "c",
        "currency": "EUR",
        "total_minor": 500,
        "captured_minor": 0,
        "refunded_minor": 0,
        "command_id": f"cmd_{command}",
        "fingerprint": b"f",
        "command_log": LOG,
        "command_offset": command,
        "batch_first": command,
    }
    return fields | members


def command(number: int, **members: Any) -> dict[str, Any]:
    return {"command_id": f"cmd_{number}", "fingerprint": b"f", "operation": "Any"} | members


LINE = {"service": "product", "sku": "tea", "quantity": 2, "unit_price_minor": 250}
EVENTS = [
    event(1, "OrderPlaced", 0, placed={"lines": [LINE], "adjustments": []}),
    event(2, "StockReserved", 1, stock={"service": "product"}),
    event(3, "PaymentCaptured", 2, payment={"attempt": 1, "amount_minor": 500}, captured_minor=500, status="paid"),
    event(4, "OrderCancelled", 4, cancel={"reason": "fraud"}, captured_minor=500, status="cancelled"),
    event(
        5,
        "RefundSettled",
        5,
        refund={"refund_no": 1, "provider_ref": "re_1", "amount_minor": 500},
        captured_minor=500,
        refunded_minor=500,
        status="cancelled",
    ),
]
REFUSALS = [
    event(0, "", 3, code="not_shipped", original=None),
    event(0, "", 6, code="undecodable", original=b"junk", command_id=None),
]
COMMANDS = [*(command(n) for n in range(6)), command(6, command_id=None)]


def chained(fields: list[dict[str, Any]]) -> list[Decoded]:
    """Events of one partition, each with the hash of the one before; a broken link stays as it is."""
    chain, last = [], bytes(32)
    for offset, one in enumerate(fields):
        body = json.dumps(one, default=str, sort_keys=True).encode()
        chain.append(Decoded(Raw(0, offset, 0, one.get("key", b"ord_a"), b"\0" * 5 + body), {"prev_hash": last} | one))
        last = hashlib.sha256(body).digest()
    return chain


def ledger(events: list[dict[str, Any]], refusals: list[dict[str, Any]], commands: list[dict[str, Any]]) -> Ledger:
    return checker.check(
        Ledger(
            chained(events),
            [Decoded(Raw(0, n, 0, b"ord_a", b""), f) for n, f in enumerate(refusals)],
            [Decoded(Raw(0, n, 0, b"ord_a", b"junk"), f) for n, f in enumerate(commands)],
        )
    )


def test_a_ledger_that_keeps_every_promise_has_no_problem() -> None:
    checked = ledger(EVENTS, REFUSALS, COMMANDS)
    assert checked.problems == []
    order = checked.orders["ord_a"]
    assert (order.version, order.status, order.captured_minor, order.refunded_minor) == (5, "cancelled", 500, 500)


Lists = tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]


def changed(index: int, **members: Any) -> Callable[[Lists], None]:
    def change(lists: Lists) -> None:
        lists[0][index] = lists[0][index] | members

    return change


def lost_event(lists: Lists) -> None:
    del lists[0][2]


def doubled_event(lists: Lists) -> None:
    lists[0].insert(2, lists[0][1])


def second_event(lists: Lists) -> None:
    lists[0].append(lists[0][4] | {"version": 6, "command_offset": 7})
    lists[2].append(command(5))


def refused_too(lists: Lists) -> None:
    lists[1].append(lists[1][0] | {"command_id": "cmd_4", "command_offset": 7})
    lists[2].append(command(4))


def refused_twice(lists: Lists) -> None:
    lists[1].append(lists[1][0] | {"command_offset": 7})
    lists[2].append(command(3))


def unanswered(lists: Lists) -> None:
    lists[2].append(command(7))


def lost_original(lists: Lists) -> None:
    lists[1].pop()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lost_event, "version 4 after 2"),
        (lost_event, "has no answer"),
        (doubled_event, "version 2 after 2"),
        (doubled_event, "was accepted before"),
        (second_event, "was accepted before"),
        (refused_too, "refused, and accepted"),
        (refused_twice, "was refused before"),
        (unanswered, "has no answer"),
        (lost_original, "is not kept"),
        (changed(2, prev_hash=bytes(32)), "chain broken"),
        (changed(1, occurred_at=1), "time went back"),
        (changed(0, total_minor=501), "lines and adjustments come to 500"),
        (changed(2, captured_minor=400), "captured_minor 400, not 500"),
        (changed(4, refunded_minor=0), "refunded_minor 0, not 500"),
        (changed(2, status="pending"), "status pending, not paid"),
        (changed(1, cancel={"reason": "fraud"}), "has the details"),
        (changed(1, key=b"ord_b"), "is not ord_a"),
        (changed(2, command_offset=1), "was answered before"),
        (changed(4, command_offset=0, command_log=b"other log"), "answers command (0, 0), which is not cmd_5"),
        (changed(3, command_offset=2, command_id="cmd_2"), "after 2"),
        (changed(3, batch_first=9), "behind command 4"),
    ],
)
def test_a_broken_promise_is_found(change: Callable[[Lists], None], problem: str) -> None:
    lists = (list(EVENTS), list(REFUSALS), list(COMMANDS))
    change(lists)
    problems = ledger(*lists).problems
    assert any(problem in line for line in problems), problems


# ---- the desk's day: an order of two lines, 2 x 250 and 1 x 300, and 200 for shipping -------------------------------


def units(sku: str, quantity: int) -> dict[str, Any]:
    return {"service": {"tea": "product"}.get(sku, "merch"), "sku": sku, "quantity": quantity}


def cut(amount: int, *lines: dict[str, Any], shipping: bool = False) -> dict[str, Any]:
    return {"lines": lines, "amount_minor": amount, "reason": "other", "by": "admin", "shipping": shipping}


def asked(amount: int, *lines: dict[str, Any], shipping: bool = False, restock: bool = False) -> dict[str, Any]:
    return {"amount_minor": amount, "reason": "damaged", "lines": lines, "shipping": shipping, "restock": restock}


def shipment(parcel: int | None, *lines: dict[str, Any]) -> dict[str, Any]:
    return {"carrier": None, "tracking": None, "lines": lines, "parcel": parcel}


def refund(no: int, amount: int) -> dict[str, Any]:
    return {"refund_no": no, "provider_ref": f"re_{no}", "amount_minor": amount, "code": None}


MUG = {"service": "merch", "sku": "mug", "quantity": 1, "unit_price_minor": 300}
POST = {"kind": "shipping", "amount_minor": 200, "service": None, "sku": None}
DAY: list[dict[str, Any]] = [
    {"type": "OrderPlaced", "placed": {"lines": [LINE, MUG], "adjustments": [POST]}, "total_minor": 1000},
    {"type": "StockReserved", "stock": {"service": "product"}},
    {"type": "StockReserved", "stock": {"service": "merch"}},
    {"type": "PaymentCaptured", "payment": {"attempt": 1, "amount_minor": 1000}, "captured_minor": 1000, "status": "paid"},
    {"type": "LinesCancelled", "cut": cut(250, units("tea", 1)), "total_minor": 750},
    {"type": "StockReleased", "stock": {"service": "product", "part": 1}},
    {"type": "ParcelShipped", "shipment": shipment(1, units("tea", 1)), "status": "processing"},
    {"type": "RefundRequested", "refund_request": asked(250, units("tea", 1), restock=True)},
    {"type": "RefundSettled", "refund": refund(1, 250), "refunded_minor": 250},
    {"type": "OrderShipped", "shipment": shipment(2, units("mug", 1)), "status": "shipped"},
    {"type": "ParcelDelivered", "shipment": shipment(2)},
    {"type": "StockReleased", "stock": {"service": "product", "part": 2}},
    {"type": "OrderDelivered", "shipment": shipment(1), "status": "delivered"},
    {"type": "RefundRequested", "refund_request": asked(100)},
    {"type": "RefundSubmitted", "refund": refund(2, 250)},
    {"type": "RefundSettled", "refund": refund(2, 250), "refunded_minor": 500},
    {"type": "MetadataChanged", "metadata": {"entries": [{"name": "a", "text": "1"}, {"name": "b", "text": ""}]}},
]
SUMMARY = ("status", "total_minor", "captured_minor", "refunded_minor")


def day(**changes: dict[str, Any]) -> Ledger:
    """The day with some events changed: `e4={"cut": ...}`. What an event's summary does not say is as before it."""
    events, summary = [], {"status": "pending", "captured_minor": 0, "refunded_minor": 0}
    for n, usual in enumerate(DAY):
        fields = usual | changes.get(f"e{n}", {})
        summary |= {name: fields[name] for name in SUMMARY if name in fields}
        events.append(event(n + 1, fields["type"], n, **summary) | fields)
    return ledger(events, [], [command(n) for n in range(len(DAY))])


def test_a_day_of_the_desk_has_no_problem() -> None:
    checked = day()
    assert checked.problems == []
    order = checked.orders["ord_a"]
    assert (order.total_minor, order.refunded_minor, order.due_back_minor, order.room_minor) == (750, 500, 600, 400)
    assert order.held() == {("merch", "mug"): 1}, "one cup of tea was cancelled, the other came back"
    assert order.asked_back_minor == 350


@pytest.mark.parametrize(
    ("at", "members", "problem"),
    [
        (4, {"cut": cut(251, units("tea", 1))}, "the total falls by 251, the units cost 250"),
        (4, {"cut": cut(250, units("tea", 1)), "total_minor": 749}, "total_minor 749, not 750"),
        (4, {"cut": cut(250, units("tea", 1), shipping=True)}, "the total falls by 250, the units cost 450"),
        (4, {"cut": cut(750, units("tea", 3))}, "3 of ('product', 'tea') cancelled, of 2"),
        (4, {"cut": cut(250, units("pot", 1))}, "no line ('merch', 'pot')"),
        (4, {"cut": cut(800, units("tea", 2), units("mug", 1))}, "nothing is left, and the order is not cancelled"),
        (13, {"type": "LinesCancelled", "refund_request": None, "cut": cut(1)}, "lines cancelled of an order that is delivered"),
        (5, {"stock": {"service": "merch", "part": 1}}, "part 1 of merch given back, which is not owed"),
        (5, {"stock": {"service": "product", "part": 2}}, "part 2 of product given back, which is not owed"),
        (11, {"stock": {"service": "product", "part": 1}}, "part 1 of product given back, which is not owed"),
        (5, {"stock": {"service": "product", "part": None}}, "status paid, not pending"),
        (6, {"shipment": shipment(1, units("tea", 2))}, "2 of ('product', 'tea') shipped, of 1"),
        (6, {"shipment": shipment(2, units("tea", 1))}, "parcel 2 is the 1th"),
        (6, {"type": "OrderShipped"}, "OrderShipped, and it is processing then"),
        (9, {"type": "ParcelShipped"}, "ParcelShipped, and it is shipped then"),
        (3, {"payment": {"attempt": 1, "amount_minor": 999}}, "status paid, not pending"),
        (9, {"shipment": shipment(2, units("mug", 1), units("tea", 1))}, "1 of ('product', 'tea') shipped, of 0"),
        (10, {"shipment": shipment(3)}, "parcel 3 delivered"),
        (12, {"shipment": shipment(2)}, "parcel 2 delivered"),
        (12, {"type": "ParcelDelivered"}, "ParcelDelivered, and it is delivered then"),
        (10, {"type": "OrderDelivered"}, "OrderDelivered, and it is shipped then"),
        (12, {"type": "OrderCancelled", "shipment": None, "cancel": {}}, "cancelled, and a parcel is on its way"),
        (7, {"refund_request": asked(751, units("tea", 1))}, "751 asked back, of 750"),
        (7, {"refund_request": asked(0)}, "0 asked back, of 750"),
        (7, {"refund_request": asked(250, units("tea", 2))}, "2 of ('product', 'tea') refunded, of 1"),
        (7, {"refund_request": asked(250, units("mug", 1), restock=True)}, "1 of ('merch', 'mug') back in stock, of 0 that left"),
        (8, {"refund": refund(1, 251), "refunded_minor": 251}, "refunded_minor 500, not 501"),
        (14, {"refund": refund(2, 351)}, "601 went back, of 600"),
        (8, {"refund": refund(1, 501)}, "501 went back, of 500"),
        (4, {"type": "RefundSettled", "cut": None, "refund": refund(1, 1)}, "1 went back, of 0"),
        (13, {"refund_request": asked(501)}, "501 asked back, of 500"),
        (16, {"metadata": {"entries": [{"name": "b", "text": ""}, {"name": "a", "text": ""}]}}, "metadata with the names"),
        (16, {"metadata": {"entries": [{"name": f"k{n:02}", "text": ""} for n in range(21)]}}, "metadata with the names"),
    ],
)
def test_a_broken_promise_of_the_desk_is_found(at: int, members: dict[str, Any], problem: str) -> None:
    problems = day(**{f"e{at}": members}).problems
    assert any(problem in line for line in problems), problems


def test_an_order_of_an_older_service_begins_as_it_was_there() -> None:
    old = {"placed": DAY[0]["placed"], "status": "shipped", "captured_minor": 1000, "refunded_minor": 400}
    summary = {"total_minor": 1000, "captured_minor": 1000, "refunded_minor": 400}
    first = event(1, "OrderImported", 0, imported=old, status="shipped", **summary)
    last = event(2, "OrderDelivered", 1, shipment=shipment(1), status="delivered", **summary)
    assert ledger([first, last], [], [command(0), command(1)]).problems == []
    wrong = ledger([first | {"status": "paid"}, last | {"captured_minor": 0}], [], [command(0), command(1)]).problems
    assert [line.partition("ord_a ")[2] for line in wrong] == ["v1 status paid, not shipped", "v2 captured_minor 0, not 1000"]


def test_a_refund_in_a_dispute_and_what_staff_settled_elsewhere_are_counted() -> None:
    opened = {"provider_ref": "dp", "amount_minor": 300, "outcome": None}
    settled = {"code": "refund_failed", "obligation_key": "k", "action": "settled_elsewhere", "amount_minor": 40}
    assert any("in dispute" in line for line in day(e5={"type": "DisputeOpened", "stock": None, "dispute": opened}).problems)
    checked = day(e16={"type": "AttentionResolved", "metadata": None, "attention": settled, "refunded_minor": 540})
    assert checked.problems == []
    order = day(
        e13={"type": "DisputeOpened", "refund_request": None, "dispute": opened},
        e14={"type": "DisputeClosed", "refund": None, "dispute": opened | {"outcome": "lost", "amount_minor": None}},
        e15={"type": "PaymentVoided", "refund": None, "payment": {"attempt": 2}, "refunded_minor": 250},
    ).orders["ord_a"]
    assert (order.lost_minor, order.due_back_minor, order.room_minor) == (300, 500, 200)
