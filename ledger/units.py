"""Units of the lines of an order: which are cancelled, shipped, refunded, and what they cost. Pure.

Per line: `cancelled + shipped <= quantity`, and `refunded` counts units that are not cancelled. Units have no identity: a unit
that is cancelled is one that was not refunded, as long as there is one.

A refund may give back less than its units cost. The difference is withheld, and due when these units are cancelled, which nobody
pays for then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from msgspec.structs import replace

from ledger.events import Line, Units
from ledger.order import DELIVERED, PROCESSING, SHIPPED, Fulfilment, LineCount, Order, Parcel
from ledger.shares import line_values, of_units, shares


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
    """Units taken from an order. `amount_minor`: what they cost. `repaid_minor`: what of that was refunded before.

    `shipping_withheld_minor`: of the order, afterwards.
    """

    counts: tuple[LineCount, ...]
    amount_minor: int
    repaid_minor: int = 0
    shipping_withheld_minor: int = 0


def cancelled(o: Order, units: Iterable[Units], shipping: bool) -> Taken:
    """`units` of `o`, and if wanted the shipping, are cancelled. Raises `UnknownLine`."""
    counts, amount, repaid = list(o.counts), 0, 0
    values = line_values(o.lines, o.adjustments)
    for i, n in chosen(o, units).items():
        line, count, value = o.lines[i], counts[i], values[i]
        again = max(0, n - refundable(line, count))  # units that were refunded, and are cancelled now
        fresh = n - again
        after = replace(count, cancelled=count.cancelled + n, refunded=count.refunded - again)
        fall = _between(value, line, count.cancelled, n)
        before = fall - _between(value, line, count.cancelled + count.refunded, fresh)
        withheld = _still_withheld(count, after, before, _between(value, line, after.cancelled, after.refunded))
        counts[i] = replace(after, withheld_minor=withheld)
        amount += fall
        repaid += before - (count.withheld_minor - withheld)
    if not shipping or o.shipping_cancelled:
        return Taken(tuple(counts), amount, repaid, o.shipping_withheld_minor)
    amount += shipping_minor(o)
    repaid += shipping_minor(o) - o.shipping_withheld_minor if o.shipping_refunded else 0
    return Taken(tuple(counts), amount, repaid)


def _still_withheld(count: LineCount, after: LineCount, repaid_minor: int, left_minor: int) -> int:
    """What is withheld of a line after some of its units are cancelled: of the refunded ones that are left, which cost
    `left_minor`. `repaid_minor` is what the cancelled ones cost that were refunded: no more of them can have been withheld.
    """
    if not count.withheld_minor:
        return 0
    share = of_units(count.withheld_minor, count.refunded, count.refunded - after.refunded)
    return max(0, min(count.withheld_minor - min(share, max(0, repaid_minor)), left_minor))


def refunded(o: Order, units: Iterable[Units], shipping: bool, restock: bool = False, amount_minor: int | None = None) -> Taken:
    """`units` of `o`, and if wanted the shipping, are refunded, for `amount_minor` or else their price. Raises `UnknownLine`.

    What the amount lacks of the price is withheld: of each line, and of the shipping, in proportion to what it costs here.
    """
    counts, quantities = list(o.counts), chosen(o, units)
    values = line_values(o.lines, o.adjustments)
    prices = [
        _between(values[i], o.lines[i], count.cancelled + count.refunded, quantities.get(i, 0)) for i, count in enumerate(counts)
    ]
    prices.append(shipping_minor(o) if shipping and not (o.shipping_cancelled or o.shipping_refunded) else 0)
    price = sum(prices)
    short = 0 if amount_minor is None else price - amount_minor
    withheld = shares(short, prices) if short > 0 else [0] * len(prices)
    for i, n in quantities.items():
        count = counts[i]
        counts[i] = replace(
            count,
            refunded=count.refunded + n,
            restocked=count.restocked + n * restock,
            withheld_minor=count.withheld_minor + withheld[i],
        )
    return Taken(tuple(counts), price, shipping_withheld_minor=o.shipping_withheld_minor + withheld[-1])


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
