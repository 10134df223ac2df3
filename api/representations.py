"""The ledger's values as the JSON that clients get. Pure; shapes are those of `payloads`."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import msgspec

from ledger.contacts import OrderContact
from ledger.erasures import Erasure
from ledger.order import CANCELLED, Order, display, payment_state, stock_state
from ledger.rfc3339 import format_ms
from projections.queries import Past
from projections.read_models import DailyTotals, Frozen

to_json = msgspec.json.Encoder().encode

_EPOCH = date(1970, 1, 1)
_TIMES = frozenset({"expires_at", "capture_before", "due_by"})  # members of event details that are ms since the epoch


def day(number: int) -> str:
    """The date of a UTC day counted from the epoch."""
    return (_EPOCH + timedelta(days=number)).isoformat()


def day_number(of: date) -> int:
    return (of - _EPOCH).days


def etag(version: int) -> str:
    return f'"{version}"'


def order_summary(order: Order, frozen: object) -> dict[str, Any]:
    """An order without lines, adjustments and contact."""
    last = order.attempts[-1] if order.attempts else None
    payment = payment_state(order)
    return {
        "order_id": order.order_id,
        "version": order.version,
        "status": display(order),
        "axes": {"order": order.lifecycle, "payment": payment, "stock": stock_state(order), "fulfilment": order.fulfilment},
        "cancel_reason": order.cancel_reason if order.lifecycle == CANCELLED else None,
        "attention": [{"code": f.code, "obligation_key": f.obligation_key, "since": format_ms(f.since)} for f in order.attention],
        "frozen": frozen,
        "customer_id": order.customer_id,
        "currency": order.currency,
        "total_minor": order.total_minor,
        "captured_minor": order.captured_minor,
        "refunded_minor": order.refunded_minor,
        "reference": order.reference,
        "placed_at": format_ms(order.placed_at),
        "updated_at": format_ms(order.updated_at),
        "expires_at": format_ms(order.expires_at),
        "payment": {"attempt": last.no, "state": last.state} if last else {"attempt": 0, "state": payment},
        "shipment": {
            "carrier": order.carrier,
            "tracking": order.tracking,
            "shipped_at": None if order.shipped_at is None else format_ms(order.shipped_at),
            "delivered_at": None if order.delivered_at is None else format_ms(order.delivered_at),
        },
    }


def order_json(order: Order, frozen: object, contact: OrderContact | None) -> bytes:
    """One order, whole."""
    body = order_summary(order, frozen)
    body["lines"] = order.lines
    body["adjustments"] = order.adjustments
    body["contact"] = None if contact is None else contact_members(contact)
    return to_json(body)


def contact_members(contact: OrderContact) -> dict[str, Any]:
    """A contact as it was sent. Whose it is stands in the order."""
    members: dict[str, Any] = msgspec.to_builtins(contact)
    del members["customer_id"]
    return members


def erasure_json(erasure: Erasure) -> bytes:
    """How far an erasure is."""
    return to_json(
        {
            "state": "running" if erasure.done_at is None else "done",
            "contacts_deleted": erasure.contacts_deleted,
            "requested_at": format_ms(erasure.requested_at),
            "done_at": None if erasure.done_at is None else format_ms(erasure.done_at),
        }
    )


def frozen_members(frozen: Frozen | None, partition: int) -> dict[str, object] | None:
    if frozen is None:
        return None
    return {"reason": frozen.reason, "partition": partition, "offset": frozen.offset}


def event_row(past: Past) -> dict[str, Any]:
    """One event with its place in the log."""
    event = past.event
    detail: dict[str, Any] = msgspec.to_builtins(event.detail, builtin_types=(bytes,)) if event.detail is not None else {}
    return {
        "version": event.version,
        "type": event.type,
        "occurred_at": format_ms(event.occurred_at),
        "actor": event.actor,
        "status": event.status,
        "detail": {name: _detail_member(name, value) for name, value in detail.items()},
        "partition": past.partition,
        "offset": past.offset,
    }


def _detail_member(name: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if name in _TIMES and value is not None:
        return format_ms(value)
    return value


def daily_row(number: int, currency: str, totals: DailyTotals) -> dict[str, Any]:
    return {
        "day": day(number),
        "currency": currency,
        "placed": totals.placed,
        "placed_minor": totals.placed_minor,
        "cancelled": totals.cancelled,
        "shipped": totals.shipped,
        "delivered": totals.delivered,
        "captured_minor": totals.captured_minor,
        "refunded_minor": totals.refunded_minor,
    }
