"""What each line of an order costs, with its own adjustments and its share of those of the order. Pure.

Taxes, fees and discounts of the order belong to its lines; what it pays for shipping does not. Taxes and fees are shared first,
by what the lines cost before them, then discounts, by what the lines cost with them; each by the largest remainder, so that the
shares add up to the unit. A discount beyond the lines reduces what shipping costs. No line ever costs less than nothing.

`k` of the `n` units of a line that costs `v` cost `v * k // n`, whichever they are: all of them together cost `v`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger.events import Adjustment, Line

SHIPPING, DISCOUNT = "shipping", "discount"  # kinds of adjustments


def shares(amount_minor: int, weights: Sequence[int]) -> list[int]:
    """`amount_minor` in parts proportional to `weights` (0 or more, not all 0): the largest remainders are rounded up.

    Of equal remainders the first is rounded up. The parts have the sign of the amount; none is larger than its weight if the
    amount is not larger than all weights.
    """
    size, whole = abs(amount_minor), sum(weights)
    parts = [size * weight // whole for weight in weights]
    by_remainder = sorted(range(len(weights)), key=lambda i: -(size * weights[i] % whole))
    for i in by_remainder[: size - sum(parts)]:
        parts[i] += 1
    return parts if amount_minor >= 0 else [-part for part in parts]


def of_line(adjustment: Adjustment, line: Line) -> bool:
    """Whether the adjustment belongs to this line alone."""
    return (adjustment.service, adjustment.sku) == (line.service, line.sku)


def own_values(lines: Sequence[Line], adjustments: Iterable[Adjustment]) -> list[int]:
    """What each line costs with the adjustments of its own."""
    own = {(line.service, line.sku): line.quantity * line.unit_price_minor for line in lines}
    for a in adjustments:
        if a.service is not None and a.sku is not None:
            own[a.service, a.sku] = own.get((a.service, a.sku), 0) + a.amount_minor
    return [own[line.service, line.sku] for line in lines]


def line_values(lines: Sequence[Line], adjustments: Sequence[Adjustment]) -> list[int]:
    """What each line costs in all, minor units, 0 or more."""
    own = [max(0, value) for value in own_values(lines, adjustments)]
    weights = own if any(own) else [line.quantity for line in lines]
    values = list(own)
    shared = [a for a in adjustments if a.service is None and a.kind != SHIPPING]
    for a in shared:
        if a.kind != DISCOUNT:
            _add(values, shares(a.amount_minor, weights))
    for a in shared:
        if a.kind == DISCOUNT and (size := min(-a.amount_minor, sum(values))) > 0:
            _add(values, shares(-size, values))
    return values


def _add(values: list[int], parts: Sequence[int]) -> None:
    for i, part in enumerate(parts):
        values[i] += part


def of_units(value_minor: int, quantity: int, units: int) -> int:
    """What `units` of the `quantity` units of a line cost that costs `value_minor`."""
    return value_minor * units // quantity
