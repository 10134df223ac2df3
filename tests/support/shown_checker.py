"""Compares what people are shown with the topic: lists, totals, flags, contacts, messages. It imports no rule of the product.

`Shown` is what was read through the API, from `order-contacts` and from the outbox; `buyers` are the contacts that customers
sent, by order. Each function returns every disagreement as one line:

    lists      each list has exactly its orders, newest first, each once, and each row is the order as the topic has it
    totals     per UTC day and currency: orders placed, cancelled, shipped, delivered; amounts placed, captured, refunded
    attention  the flags of an order are those that were raised and not resolved, and the list of flagged orders has just these
    contacts   each order has the contact that was sent with it, in the topic and in its answer; no other topic contains any of it
    messages   each event that customers read about was announced to the address of its order, and nothing else was
"""

from __future__ import annotations

import datetime
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.support.checker import Decoded, Ledger, Raw

DAY_MS = 86_400_000
ALWAYS_ANNOUNCED = frozenset(
    {"OrderPlaced", "LinesCancelled", "ParcelShipped", "OrderShipped", "OrderDelivered", "OrderCancelled", "RefundSettled"}
)
COUNTED = {"OrderPlaced": "placed", "OrderCancelled": "cancelled", "OrderShipped": "shipped", "OrderDelivered": "delivered"}


class Wanted(NamedTuple):
    """The filters of a list; None and False do not restrict."""

    customer_id: str | None = None
    status: str | None = None
    attention: bool = False
    reference: str | None = None


class Mail(NamedTuple):
    """One message in the outbox, of the event with this version."""

    order_id: str
    version: int
    to: str
    text: str


@dataclass
class Shown:
    """Rows and orders as in the API's JSON. `contacts`: records of `order-contacts`, decoded; without fields: a tombstone."""

    lists: dict[Wanted, list[dict[str, Any]]] = field(default_factory=dict)
    daily: list[dict[str, Any]] = field(default_factory=list)
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    contacts: list[Decoded] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)


def judge(ledger: Ledger, shown: Shown, buyers: Mapping[str, dict[str, Any]], announced_from_ms: int = 0) -> list[str]:
    """Every disagreement. `buyers`: the contact sent with each order; `announced_from_ms`: earlier events need no message."""
    return [
        *(line for wanted, rows in shown.lists.items() for line in judge_list(ledger, wanted, rows)),
        *judge_totals(ledger, shown.daily),
        *judge_flags(ledger, shown.orders.values()),
        *judge_contacts(ledger, shown, buyers),
        *judge_mails(ledger, shown.mails, buyers, announced_from_ms),
    ]


# ---- lists ----------------------------------------------------------------------------------------------------------


def _first_events(ledger: Ledger) -> dict[str, dict[str, Any]]:
    return {event.fields["order_id"]: event.fields for event in ledger.events if event.fields["version"] == 1}


def flags_of(ledger: Ledger) -> dict[str, set[tuple[str, str]]]:
    """(code, key of the obligation) of each open flag, by order."""
    flags: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for event in ledger.events:
        attention = event.fields.get("attention")
        if attention is not None:
            flag = (attention["code"], attention["obligation_key"])
            of_order = flags[event.fields["order_id"]]
            (of_order.add if event.fields["type"] == "AttentionRaised" else of_order.discard)(flag)
    return {order_id: open_flags for order_id, open_flags in flags.items() if open_flags}


def judge_list(ledger: Ledger, wanted: Wanted, rows: Iterable[dict[str, Any]]) -> list[str]:
    """One list, read page by page to its end."""
    rows = list(rows)
    first, flags = _first_events(ledger), flags_of(ledger)
    belonging = [
        order_id
        for order_id, order in ledger.orders.items()
        if wanted.customer_id in (None, order.customer_id)
        and wanted.status in (None, order.status)
        and (not wanted.attention or order_id in flags)
        and wanted.reference in (None, (first[order_id].get("placed") or {}).get("reference"))
    ]
    expected = sorted(belonging, key=lambda order_id: (-first[order_id]["occurred_at"], order_id))
    shown = [row["order_id"] for row in rows]
    name = ", ".join(f"{key} {value}" for key, value in wanted._asdict().items() if value) or "all orders"
    wrong = [f"list of {name}: {order_id} is missing" for order_id in expected if order_id not in set(shown)]
    wrong += [f"list of {name}: {order_id} does not belong" for order_id in dict.fromkeys(shown) if order_id not in set(expected)]
    wrong += [f"list of {name}: {order_id} {times} times" for order_id, times in Counter(shown).items() if times > 1]
    if not wrong and shown != expected:
        wrong.append(f"list of {name} is out of order")
    for row in rows:
        wrong += [f"list of {name}: {line}" for line in _judge_row(ledger, row)]
    return wrong


def _judge_row(ledger: Ledger, row: dict[str, Any]) -> list[str]:
    order = ledger.orders.get(row["order_id"])
    if order is None:
        return []  # it does not belong, which was noticed
    names = ("version", "status", "customer_id", "currency", "total_minor", "captured_minor", "refunded_minor")
    wrong = [
        f"{order.order_id} {name} {row[name]}, not {getattr(order, name)}" for name in names if row[name] != getattr(order, name)
    ]
    if row["frozen"] is not None:
        wrong.append(f"{order.order_id} is frozen: {row['frozen']}")
    return wrong


# ---- totals ---------------------------------------------------------------------------------------------------------


def totals_of(ledger: Ledger) -> dict[tuple[str, str], Counter[str]]:
    """Totals by (UTC day, currency), without those that are 0. What an older service did before is not counted."""
    totals: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    before: dict[str, dict[str, Any]] = {}
    for event in ledger.events:
        f = event.fields
        last, before[f["order_id"]] = before.get(f["order_id"]), f
        if f.get("imported") is not None:
            continue
        day = datetime.datetime.fromtimestamp(f["occurred_at"] // DAY_MS * 86_400, datetime.UTC).date().isoformat()
        of_day = totals[day, f["currency"]]
        if f["type"] in COUNTED:
            of_day[COUNTED[f["type"]]] += 1
        if f["type"] == "OrderPlaced":
            of_day["placed_minor"] += f["total_minor"]
        for name in ("captured_minor", "refunded_minor"):
            of_day[name] += f[name] - (last[name] if last else 0)
    return {key: Counter({name: n for name, n in of_day.items() if n}) for key, of_day in totals.items() if any(of_day.values())}


def judge_totals(ledger: Ledger, daily: Iterable[dict[str, Any]]) -> list[str]:
    """The rows of a report over all days."""
    shown: dict[tuple[str, str], Counter[str]] = {}
    wrong = []
    for row in daily:
        key = (row["day"], row["currency"])
        if key in shown:
            wrong.append(f"totals of {key} twice")
        numbers = Counter({name: value for name, value in row.items() if isinstance(value, int) and value})
        if numbers:
            shown[key] = numbers
    expected = totals_of(ledger)
    for key in sorted(expected.keys() | shown.keys()):
        ours, theirs = expected.get(key, Counter()), shown.get(key, Counter())
        wrong += [
            f"totals of {key}: {name} {theirs[name]}, not {ours[name]}"
            for name in sorted(ours | theirs)
            if ours[name] != theirs[name]
        ]
    return wrong


# ---- attention ------------------------------------------------------------------------------------------------------


def judge_flags(ledger: Ledger, orders: Iterable[dict[str, Any]]) -> list[str]:
    """The flags of orders as each is shown. That the list of flagged orders has just these is judged with the lists."""
    flags = flags_of(ledger)
    wrong = []
    for order in orders:
        shown = Counter((flag["code"], flag["obligation_key"]) for flag in order["attention"])
        if shown != Counter(flags.get(order["order_id"], set())):
            expected = sorted(flags.get(order["order_id"], ()))
            wrong.append(f"{order['order_id']} shows the flags {sorted(shown.elements())}, not {expected}")
    return wrong


# ---- contacts -------------------------------------------------------------------------------------------------------


def judge_contacts(ledger: Ledger, shown: Shown, buyers: Mapping[str, dict[str, Any]]) -> list[str]:
    """Contacts of accepted orders, none of them erased; and where no contact may be."""
    current: dict[bytes, dict[str, Any]] = {}
    for record in shown.contacts:
        assert record.raw.key is not None
        current[record.raw.key] = record.fields
    wrong = []
    for order_id, first in _first_events(ledger).items():
        if order_id not in buyers or first.get("placed") is None:
            continue
        contact = current.get(f"{order_id}/{first['placed']['contact_digest'].hex()}".encode())
        if not contact:
            wrong.append(f"{order_id}: its contact is not in the topic")
        elif _plain(contact) != _plain(buyers[order_id]) or contact["customer_id"] != first["customer_id"]:
            wrong.append(f"{order_id}: the contact in the topic is not the one that was sent")
        answered = shown.orders.get(order_id, {}).get("contact", {})
        if order_id in shown.orders and (answered is None or _plain(answered) != _plain(buyers[order_id])):
            wrong.append(f"{order_id}: the contact in its answer is not the one that was sent")
    return [*wrong, *_leaks(ledger, buyers.values())]


def _plain(contact: Mapping[str, Any]) -> dict[str, Any]:
    """What a customer sends of a contact, without what is empty."""
    names = ("name", "email", "phone", "shipping_address", "billing_address", "delivery_note", "locale")
    plain = {name: contact.get(name) for name in names}
    return {
        name: {inner: text for inner, text in value.items() if text} if isinstance(value, Mapping) else value
        for name, value in plain.items()
        if value
    }


def _leaks(ledger: Ledger, contacts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Records of the ledger's topics that contain an e-mail address or a telephone number of a customer."""
    secrets = {str(contact[name]) for contact in contacts for name in ("email", "phone") if contact.get(name)}
    if not secrets:
        return []
    pattern = re.compile("|".join(re.escape(secret) for secret in sorted(secrets)).encode())
    return [
        f"{topic} {record.raw.partition}-{record.raw.offset} contains a contact"
        for topic, records in (("events", ledger.events), ("refusals", ledger.refusals), ("commands", ledger.commands))
        for record in records
        if pattern.search((record.raw.key or b"") + (record.raw.value or b""))
    ]


# ---- messages -------------------------------------------------------------------------------------------------------


def is_announced(f: Mapping[str, Any]) -> bool:
    """Whether a customer gets a message about this event."""
    if f["type"] in ("PaymentCaptured", "StockReserved"):
        return bool(f["status"] == "paid") or (f["type"] == "PaymentCaptured" and f["payment_state"] == "partly_captured")
    attention = f.get("attention")
    if attention is not None and attention["action"] == "settled_elsewhere":
        return bool(attention["amount_minor"] != 0)
    return f["type"] in ALWAYS_ANNOUNCED


def judge_mails(
    ledger: Ledger, mails: Iterable[Mail], buyers: Mapping[str, dict[str, Any]], announced_from_ms: int = 0
) -> list[str]:
    """Every mail belongs to an announced event, and the other way round; each went to the address of its order."""
    mails = list(mails)
    events = {(event.fields["order_id"], event.fields["version"]): event.fields for event in ledger.events}
    sent = {(mail.order_id, mail.version) for mail in mails}
    wrong = [
        f"{order_id} v{version} {f['type']} was not announced"
        for (order_id, version), f in events.items()
        if order_id in buyers and is_announced(f) and f["occurred_at"] >= announced_from_ms and (order_id, version) not in sent
    ]
    for mail in mails:
        f = events.get((mail.order_id, mail.version))
        if f is None or not is_announced(f):
            wrong.append(f"{mail.order_id} v{mail.version}: a message about {f['type'] if f else 'nothing'}")
            continue
        if mail.order_id in buyers and mail.to != buyers[mail.order_id]["email"]:
            wrong.append(f"{mail.order_id} v{mail.version}: the message went to another address")
        if f["type"] == "OrderPlaced" and f"{f['total_minor'] / 100:.2f}" not in mail.text.replace(",", ""):
            wrong.append(f"{mail.order_id} v{mail.version}: the message does not name the total, {f['total_minor']}")
    return wrong


def contacts_of(raws: Iterable[Raw], decode: Any) -> list[Decoded]:
    """The records of `order-contacts`; `decode` reads a value."""
    return [Decoded(raw, decode(raw.value) if raw.value else {}) for raw in raws]
