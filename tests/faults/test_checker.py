"""The checker itself: a small ledger that keeps every promise, and then one broken promise after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import checker
from tests.support.checker import Decoded, Ledger, Raw

DETAILS = ("placed", "cancel", "payment", "refund", "dispute", "stock", "shipment", "attention")
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


LINE = {"service": "product", "quantity": 2, "unit_price_minor": 250}
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
