"""What the desk of a shop may do when, once more (see `order_model`): fulfil, ship parcels, cancel lines, refund, metadata."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.order_model import (
    Command,
    Event,
    Lines,
    No,
    State,
    asked,
    dispute_open,
    fall,
    fields_set,
    fully_paid,
    paid_elsewhere,
    price_of,
    room,
    shown,
)

MAX_METADATA = 20


def _not_ready(s: State) -> No | None:
    """Why nothing can be done for a pending order, or that a dispute holds it up."""
    if shown(s) == "pending":
        return No("stock_not_reserved" if fully_paid(s) else "not_paid")
    return No("dispute_open") if dispute_open(s) else None


def _start(s: State, c: Command) -> Event | No:
    by_status = {"cancelled": "order_cancelled", "processing": "nothing_to_change", "shipped": "already_shipped"}
    by_status["delivered"] = "already_shipped"
    if shown(s) in by_status:
        return No(by_status[shown(s)])
    return _not_ready(s) or Event("FulfilmentStarted", {})


def _ship(s: State, c: Command) -> Event | No:
    by_status = {"cancelled": "order_cancelled", "shipped": "nothing_to_change", "delivered": "already_shipped"}
    if shown(s) in by_status:
        return No(by_status[shown(s)])
    everything = tuple((line.service, line.sku, line.to_ship) for line in s.lines if line.to_ship)
    return _not_ready(s) or _parcel("OrderShipped", s, c, everything)


def _parcel(kind: str, s: State, c: Command, lines: Lines) -> Event:
    return Event(kind, fields_set(c, "carrier", "tracking") | {"lines": lines, "parcel": len(s.parcels) + 1})


def _ship_parcel(s: State, c: Command) -> Event | No:
    by_status = {"cancelled": "order_cancelled", "shipped": "already_shipped", "delivered": "already_shipped"}
    if shown(s) in by_status:
        return No(by_status[shown(s)])
    if refused := _not_ready(s):
        return refused
    units = asked(s, c)
    if units is None:
        return No("unknown_line")
    left = [line.to_ship - n for line, n in zip(s.lines, units, strict=True)]
    if min(left) < 0:
        return No("quantity_exceeded")
    return _parcel("ParcelShipped" if any(left) else "OrderShipped", s, c, c["lines"])


def _deliver(s: State, c: Command) -> Event | No:
    by_status = {"shipped": None, "delivered": "nothing_to_change", "cancelled": "order_cancelled"}
    code = by_status.get(shown(s), "not_shipped")
    return No(code) if code else Event("OrderDelivered", {})


def _deliver_parcel(s: State, c: Command) -> Event | No:
    by_status = {"delivered": "nothing_to_change", "cancelled": "order_cancelled"}
    if shown(s) in by_status:
        return No(by_status[shown(s)])
    no = c["parcel"]
    if not 1 <= no <= len(s.parcels):
        return No("unknown_parcel")
    if s.parcels[no - 1]:
        return No("nothing_to_change")
    last = sum(s.parcels) == len(s.parcels) - 1 and not any(line.to_ship for line in s.lines)
    return Event("OrderDelivered" if last else "ParcelDelivered", {"parcel": no})


def _cancel_lines(s: State, c: Command) -> Event | No:
    if s.cancelled:
        return No("order_cancelled")
    if shown(s) in ("shipped", "delivered") or (shown(s) == "processing" and c["role"] != "admin"):
        return No("too_late_to_cancel")
    if paid_elsewhere(s):
        return No("order_imported")
    units = asked(s, c)
    if units is None:
        return No("unknown_line")
    if any(n > line.to_ship for line, n in zip(s.lines, units, strict=True)):
        return No("quantity_exceeded")
    why = {"reason": c["reason"], "by": c["role"]}
    if all(line.cancelled + n == line.quantity for line, n in zip(s.lines, units, strict=True)):
        return Event("OrderCancelled", why)
    amount, _ = fall(s, units, c["shipping"])
    return Event("LinesCancelled", {"lines": c["lines"], "amount_minor": amount, "shipping": c["shipping"]} | why)


def _request_refund(s: State, c: Command) -> Event | No:
    if s.cancelled:
        return No("order_cancelled")
    if dispute_open(s):
        return No("dispute_open")
    units = asked(s, c)
    if units is None:
        return No("unknown_line")
    if any(n > line.to_refund for line, n in zip(s.lines, units, strict=True)):
        return No("quantity_exceeded")
    if c["restock"] and any(n > line.shipped - line.restocked for line, n in zip(s.lines, units, strict=True)):
        return No("not_shipped")
    if s.imported:
        return No("order_imported" if paid_elsewhere(s) else "nothing_to_refund")
    amount = c.get("amount")
    if amount is None:
        amount = sum(price_of(s, units, c["shipping"]))
    if amount <= 0 or room(s) <= 0:
        return No("nothing_to_refund")
    if amount > room(s):
        return No("refund_exceeds_payment")
    detail = {"amount_minor": amount, "reason": c["reason"], "shipping": c["shipping"], "restock": c["restock"]}
    return Event("RefundRequested", detail | ({"lines": c["lines"]} if c["lines"] else {}))


def _change_metadata(s: State, c: Command) -> Event | No:
    after = dict(s.metadata) | dict(c["entries"])
    entries = tuple(sorted((name, text) for name, text in after.items() if text is not None))
    if entries == s.metadata:
        return No("nothing_to_change")
    if len(entries) > MAX_METADATA:
        return No("too_much_metadata")
    return Event("MetadataChanged", {"entries": entries} if entries else {})


REQUESTS: dict[str, Callable[[State, Command], Event | No]] = {
    "StartFulfilment": _start,
    "ShipOrder": _ship,
    "ShipParcel": _ship_parcel,
    "ConfirmDelivery": _deliver,
    "ConfirmParcel": _deliver_parcel,
    "CancelLines": _cancel_lines,
    "RequestRefund": _request_refund,
    "ChangeMetadata": _change_metadata,
}
_NOT_NOW = {"version_conflict", "order_cancelled", "not_paid", "stock_not_reserved", "dispute_open", "already_shipped"}

# The codes with which each operation may be refused, besides `order_not_found`.
CODES = {
    "StartFulfilment": _NOT_NOW | {"nothing_to_change"},
    "ShipOrder": _NOT_NOW | {"nothing_to_change"},
    "ShipParcel": _NOT_NOW | {"unknown_line", "quantity_exceeded", "order_full"},
    "ConfirmDelivery": {"version_conflict", "order_cancelled", "not_shipped", "nothing_to_change"},
    "ConfirmParcel": {"version_conflict", "order_cancelled", "unknown_parcel", "nothing_to_change"},
    "CancelLines": {
        "version_conflict",
        "order_cancelled",
        "too_late_to_cancel",
        "order_imported",
        "unknown_line",
        "quantity_exceeded",
        "order_full",
    },
    "RequestRefund": {
        "version_conflict",
        "order_cancelled",
        "dispute_open",
        "order_imported",
        "unknown_line",
        "quantity_exceeded",
        "not_shipped",
        "nothing_to_refund",
        "refund_exceeds_payment",
    },
    "ChangeMetadata": {"version_conflict", "nothing_to_change", "too_much_metadata", "order_full"},
}
