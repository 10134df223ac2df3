"""Checks of a new order beyond its types: signs, duplicate lines, the total. Pure; used by the HTTP route and by `decide`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from commands.messages import PlaceOrder
from ledger.bounds import ID_PATTERN, SERVICES
from ledger.money import MAX_TOTAL_MINOR, total_of
from ledger.shares import SHIPPING, own_values


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


def malformed(customer_id: str, place: PlaceOrder) -> str:
    """Why no correct sender creates this order; empty if one may."""
    if not ID_PATTERN.fullmatch(customer_id) or not place.lines:
        return "no customer, or no lines"
    if not 0 <= place.total_minor <= MAX_TOTAL_MINOR or any(line.unit_price_minor < 0 for line in place.lines):
        return "an amount below zero, or beyond the bounds"
    if any(line.service not in SERVICES for line in place.lines):
        return "an unknown service"
    return ""
