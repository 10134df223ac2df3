"""Compares the sandbox's journal with the topic, to the cent and the unit. It imports no rule of the product.

It knows the two records alone: `effects` of the journal (what happened outside) and the events (what the ledger says
happened). `judge` returns every disagreement as one line.

    per order   captured, refunded and lost sums are equal · at most one payment was captured, and never more than the order cost
                when it was placed · a cancelled order keeps no money and holds no units · an order that is paid holds exactly
                what was ordered, less what was cancelled and what came back · it keeps what it costs now, less what was asked
                back of it · no payment is left authorised that the order does not wait for · nothing happens for an order of
                an older service
    per item    what is reserved was in stock: nothing is oversold
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import checker
from tests.support.folded import Folded


@dataclass
class Outside:
    """One order in the journal. Units are by (service, sku), payments and refunds by their reference."""

    authorised: dict[str, int] = field(default_factory=dict)
    captured: Counter[str] = field(default_factory=Counter)
    voided: set[str] = field(default_factory=set)
    refunded_minor: int = 0
    lost_minor: int = 0
    units: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def captured_minor(self) -> int:
        return sum(self.captured.values())

    @property
    def held(self) -> set[str]:
        """Payments that are authorised, and neither captured nor voided."""
        return self.authorised.keys() - self.captured.keys() - self.voided


@dataclass
class World:
    """The whole journal. `reserved` are the units of each item that are reserved."""

    orders: dict[str, Outside]
    reserved: Counter[tuple[str, str]]
    calls: Counter[tuple[str, str, str]]  # port, verb, fate

    def sums(self) -> dict[str, int]:
        """The sums of all orders, for a table."""
        return {
            "captured_minor": sum(o.captured_minor for o in self.orders.values()),
            "refunded_minor": sum(o.refunded_minor for o in self.orders.values()),
            "lost_minor": sum(o.lost_minor for o in self.orders.values()),
            "units": sum(self.reserved.values()),
        }


def read_journal(database: Path) -> World:
    """Read the sandbox's database; it may be running."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as db:
        db.row_factory = sqlite3.Row
        effects = [dict(row) for row in db.execute("select * from effects order by id")]
        calls = Counter((r["port"], r["verb"], r["fate"]) for r in db.execute("select port, verb, fate from calls"))
    orders: defaultdict[str, Outside] = defaultdict(Outside)
    reserved: Counter[tuple[str, str]] = Counter()
    for effect in effects:
        _note(orders[effect["order_id"]], effect)
        if effect["kind"] in ("reserved", "released"):
            reserved[effect["port"], effect["sku"]] += effect["amount"] if effect["kind"] == "reserved" else -effect["amount"]
    return World(dict(orders), reserved, calls)


def _note(order: Outside, effect: dict[str, Any]) -> None:
    ref, amount, item = effect["ref"], effect["amount"], (effect["port"], effect["sku"])
    match effect["kind"]:
        case "authorised":
            order.authorised[ref] = amount
        case "captured":
            order.captured[ref] += amount
        case "voided":
            order.voided.add(ref)
        case "refunded":
            order.refunded_minor += amount
        case "refund_failed":
            order.refunded_minor -= amount
        case "lost":
            order.lost_minor += amount
        case "reserved":
            order.units[item] += amount
        case "released":
            order.units[item] -= amount


def judge(ledger: checker.Ledger, world: World, stock: dict[tuple[str, str], int] | None = None) -> list[str]:
    """Every disagreement. `stock`: units of each item at the start."""
    wrong: list[str] = []
    for order_id, o in ledger.orders.items():
        wrong += [f"{order_id}: {line}" for line in _judge_order(o, world.orders.get(order_id, Outside()))]
    for order_id in world.orders.keys() - ledger.orders.keys() - {""}:
        wrong.append(f"{order_id}: something happened outside, and the ledger has no such order")
    for item, units in world.reserved.items():
        if units < 0:
            wrong.append(f"{item}: {-units} units more came back than went out")
        if stock is not None and units > stock.get(item, 0):
            wrong.append(f"{item}: oversold, {units} of {stock.get(item, 0)}")
    return wrong


def _judge_order(o: Folded, outside: Outside) -> list[str]:
    if o.old:
        return [f"of an older service, and {outside} happened"] if outside != Outside() else []
    wrong = []
    for sum_name, ours, theirs in (
        ("captured", o.captured_minor, outside.captured_minor),
        ("refunded", o.refunded_minor, outside.refunded_minor),
        ("lost", o.lost_minor, outside.lost_minor),
    ):
        if ours != theirs:
            wrong.append(f"the ledger says {ours} {sum_name}, the provider {theirs}")
    if len(outside.captured) > 1 or outside.captured_minor > o.placed_minor:
        wrong.append(f"charged twice or too much: {dict(outside.captured)} for {o.placed_minor}")
    holds = {item: units for item, units in outside.units.items() if units}
    if any(units < 0 for units in holds.values()):
        wrong.append(f"more came back than went out: {holds}")
    if outside.held and o.status != "pending":
        wrong.append(f"{o.status}, and {outside.held} still authorised")
    if o.cancelled:
        if (kept := outside.captured_minor - outside.refunded_minor - outside.lost_minor) != 0:
            wrong.append(f"cancelled, and {kept} kept")
        if holds:
            wrong.append(f"cancelled, and holds {holds}")
    elif o.status != "pending":
        wrong += _judge_open(o, outside, holds)
    return wrong


def _judge_open(o: Folded, outside: Outside, holds: dict[tuple[str, str], int]) -> list[str]:
    """An open order that is paid, to the cent and the unit."""
    wrong = []
    if holds != o.held():
        wrong.append(f"{o.status}, and holds {holds} of {o.held()}")
    if outside.captured_minor < o.total_minor:
        wrong.append(f"{o.status}, and {outside.captured_minor} of {o.total_minor} captured")
    if outside.refunded_minor != o.due_back_minor:
        wrong.append(f"{o.status}, and {outside.refunded_minor} of {o.due_back_minor} refunded")
    if not (o.by_hand or o.elsewhere_minor or outside.lost_minor):
        kept = outside.captured_minor - outside.refunded_minor
        # Lines that are cancelled after a refund for nothing in particular may leave nothing of it to keep.
        back = o.asked_back_minor + o.ahead_minor
        if kept != max(0, o.total_minor - back):
            wrong.append(f"{o.status}, and {kept} kept of {o.total_minor}, of which {back} were asked back")
    return wrong


def unresolved(ledger: checker.Ledger) -> list[str]:
    """Orders that are neither paid nor cancelled, or wait for a person: none may be left once all is quiet."""
    flagged: Counter[str] = Counter()
    for event in ledger.events:
        flagged[event.fields["order_id"]] += {"AttentionRaised": 1, "AttentionResolved": -1}.get(event.fields["type"], 0)
    return [
        f"{order_id}: {o.status}, {flagged[order_id]} flags: {', '.join(o.types)}"
        for order_id, o in ledger.orders.items()
        if o.status == "pending" or flagged[order_id]
    ]
