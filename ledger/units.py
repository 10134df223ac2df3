"""Units of the lines of an order: which are cancelled, shipped, refunded, and what they cost. Pure.

Per line: `cancelled + shipped <= quantity`, and `refunded` counts units that are not cancelled. Units have no identity: a unit
that is cancelled is one that was not refunded, as long as there is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from ledger.events import Line, Units
from ledger.order import DELIVERED, PROCESSING, SHIPPED, Fulfilment, LineCount, Order, Parcel
from ledger.shares import line_values, of_units


class UnknownLine(ValueError):
    """The order has no such line."""


def chosen(o: Order, units: Iterable[Units]) -> dict[int, int]:
    """Quantity by index of the line. Raises `UnknownLine`."""
    index = {(line.service, line.sku): i for i, line in enumerate(o.lines)}
    quantities: dict[int, int] = {}
    for u in units:
        i = index.get((u.service, u.sku))
        if i is None:
            raise UnknownLine(f"the order has no line {u.sku} of {u.service}")
        quantities[i] = quantities.get(i, 0) + u.quantity
    return quantities


def shippable(line: Line, count: LineCount) -> int:
    """Units that are neither shipped nor cancelled."""
    return line.quantity - count.cancelled - count.shipped


def refundable(line: Line, count: LineCount) -> int:
    """Units that are neither cancelled nor refunded."""
    return line.quantity - count.cancelled - count.refunded


def to_ship(o: Order) -> tuple[Units, ...]:
    """All that remains to be shipped."""
    remaining = ((line, shippable(line, count)) for line, count in zip(o.lines, o.counts, strict=True))
    return tuple(Units(line.service, line.sku, quantity) for line, quantity in remaining if quantity > 0)


def shipping_minor(o: Order) -> int:
    """What the order was to pay for shipping when it was placed."""
    return o.placed_minor - sum(line_values(o.lines, o.adjustments))


class Taken(NamedTuple):
    """Units taken from an order. `amount_minor`: what they cost. `repaid_minor`: what of that was refunded before."""

    counts: tuple[LineCount, ...]
    amount_minor: int
    repaid_minor: int = 0


def cancelled(o: Order, units: Iterable[Units], shipping: bool) -> Taken:
    """`units` of `o`, and if wanted the shipping, are cancelled. Raises `UnknownLine`."""
    counts, amount, repaid = list(o.counts), 0, 0
    values = line_values(o.lines, o.adjustments)
    for i, n in chosen(o, units).items():
        line, count, value = o.lines[i], counts[i], values[i]
        again = max(0, n - refundable(line, count))  # units that were refunded, and are cancelled now
        fresh = n - again
        counts[i] = replace(count, cancelled=count.cancelled + n, refunded=count.refunded - again)
        fall = _between(value, line, count.cancelled, n)
        amount += fall
        repaid += fall - _between(value, line, count.cancelled + count.refunded, fresh)
    if shipping and not o.shipping_cancelled:
        amount += shipping_minor(o)
        repaid += shipping_minor(o) if o.shipping_refunded else 0
    return Taken(tuple(counts), amount, repaid)


def refunded(o: Order, units: Iterable[Units], shipping: bool, restock: bool = False) -> Taken:
    """`units` of `o`, and if wanted the shipping, are refunded. Raises `UnknownLine`."""
    counts, amount = list(o.counts), 0
    values = line_values(o.lines, o.adjustments)
    for i, n in chosen(o, units).items():
        line, count = o.lines[i], counts[i]
        counts[i] = replace(count, refunded=count.refunded + n, restocked=count.restocked + n * restock)
        amount += _between(values[i], line, count.cancelled + count.refunded, n)
    if shipping and not (o.shipping_cancelled or o.shipping_refunded):
        amount += shipping_minor(o)
    return Taken(tuple(counts), amount)


def _between(value_minor: int, line: Line, before: int, units: int) -> int:
    return of_units(value_minor, line.quantity, before + units) - of_units(value_minor, line.quantity, before)


def shipped(o: Order, units: Iterable[Units]) -> tuple[LineCount, ...]:
    """The counts after `units` were shipped. Raises `UnknownLine`."""
    counts = list(o.counts)
    for i, n in chosen(o, units).items():
        counts[i] = replace(counts[i], shipped=counts[i].shipped + n)
    return tuple(counts)


def fulfilment_of(o: Order, counts: Iterable[LineCount], parcels: tuple[Parcel, ...]) -> Fulfilment:
    """How far `o` is with these counts and parcels. Without a parcel it stays as it is."""
    if not parcels:
        return o.fulfilment
    if any(shippable(line, count) > 0 for line, count in zip(o.lines, counts, strict=True)):
        return PROCESSING
    return DELIVERED if all(p.delivered_at is not None for p in parcels) else SHIPPED


def by_service(units: Iterable[Units]) -> Iterator[tuple[str, tuple[Units, ...]]]:
    """The units of each service, in the order of their first one."""
    services: dict[str, list[Units]] = {}
    for u in units:
        services.setdefault(u.service, []).append(u)
    for service, some in services.items():
        yield service, tuple(some)
