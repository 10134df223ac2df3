"""Checks of a new order beyond its types: signs, duplicate lines, the total. Pure; used by the HTTP route and by `decide`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from commands.messages import ImportOrder, PlaceOrder
from ledger.bounds import ID_PATTERN, SERVICES
from ledger.money import MAX_TOTAL_MINOR, total_of
from ledger.shares import SHIPPING, own_values
from ledger.transitions import Status

IMPORTED_STATUSES = (Status.PAID, Status.PROCESSING, Status.SHIPPED, Status.DELIVERED, Status.CANCELLED)


class Flaw(NamedTuple):
    """`at` is the index of an adjustment or, for `duplicate_line` and `line_below_zero`, of a line; 0 for `total_mismatch`."""

    kind: Literal[
        "wrong_sign", "half_a_line", "no_such_line", "shipping_of_a_line", "duplicate_line", "line_below_zero", "total_mismatch"
    ]
    at: int
    sentence: str


def flaws(place: PlaceOrder) -> Iterator[Flaw]:
    """All flaws of the lines, adjustments and total of a new order."""
    for index, adjustment in enumerate(place.adjustments):
        if adjustment.amount_minor > 0 if adjustment.kind == "discount" else adjustment.amount_minor < 0:
            yield Flaw("wrong_sign", index, "A discount must be 0 or less, any other adjustment 0 or more.")
    seen: dict[tuple[str, str], int] = {}
    for index, line in enumerate(place.lines):
        first = seen.setdefault((line.service, line.sku), index)
        if first != index:
            yield Flaw("duplicate_line", index, f"Lines {first} and {index} have the same service and sku.")
    yield from _flaws_of_lines(place)
    total = total_of(place.lines, place.adjustments)
    if total != place.total_minor:
        yield Flaw("total_mismatch", 0, f"Lines and adjustments add up to {total}, not {place.total_minor} (minor units).")


def _flaws_of_lines(place: PlaceOrder) -> Iterator[Flaw]:
    """Flaws of adjustments that belong to a line."""
    lines = {(line.service, line.sku) for line in place.lines}
    for index, a in enumerate(place.adjustments):
        if (a.service is None) is not (a.sku is None):
            yield Flaw("half_a_line", index, "An adjustment of a line names its service and its sku.")
        elif a.service is not None and a.sku is not None:
            if (a.service, a.sku) not in lines:
                yield Flaw("no_such_line", index, "The order has no such line.")
            if a.kind == SHIPPING:
                yield Flaw("shipping_of_a_line", index, "Shipping belongs to the order, not to a line.")
    for index, value in enumerate(own_values(place.lines, place.adjustments)):
        if value < 0:
            yield Flaw("line_below_zero", index, f"Line {index} costs {value} with its adjustments (minor units).")


def flaw_of_import(order: ImportOrder, at_ms: int) -> str:
    """Why an order of an older service cannot be recorded as it is; empty if it can. `at_ms`: now."""
    total, status = order.place.total_minor, order.status
    if status not in IMPORTED_STATUSES:
        return f"the status must be one of {', '.join(IMPORTED_STATUSES)}: unpaid orders stay in the older service"
    if not 0 <= order.refunded_minor <= order.captured_minor <= total:
        return "0 <= refunded_minor <= captured_minor <= total_minor does not hold"
    if status == Status.CANCELLED and order.refunded_minor != order.captured_minor:
        return "a cancelled order must have been refunded in full: the ledger would not do it"
    if status != Status.CANCELLED and order.captured_minor != total:
        return "the order must have been paid in full"
    times = [t for t in (order.placed_at, order.shipped_at, order.delivered_at) if t is not None]
    if times != sorted(times) or times[-1] > at_ms:
        return "placed_at, shipped_at and delivered_at must follow each other, and not be in the future"
    if (order.shipped_at is not None) is not (status in (Status.SHIPPED, Status.DELIVERED)):
        return "shipped_at belongs to the statuses shipped and delivered"
    if (order.delivered_at is not None) is not (status == Status.DELIVERED):
        return "delivered_at belongs to the status delivered"
    if order.shipped_at is None and (order.carrier or order.tracking):
        return "carrier and tracking belong to the statuses shipped and delivered"
    return ""


def malformed(customer_id: str, place: PlaceOrder) -> str:
    """Why no correct sender creates this order; empty if one may."""
    if not ID_PATTERN.fullmatch(customer_id) or not place.lines:
        return "no customer, or no lines"
    if not 0 <= place.total_minor <= MAX_TOTAL_MINOR or any(line.unit_price_minor < 0 for line in place.lines):
        return "an amount below zero, or beyond the bounds"
    if any(line.service not in SERVICES for line in place.lines):
        return "an unknown service"
    if len({entry.name for entry in place.metadata}) < len(place.metadata):
        return "metadata with the same name twice"
    return ""
