"""What the lines of an order cost, and units of them, once more: written from the contract, in fractions.

For judges: it imports nothing of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import NamedTuple


class Item(NamedTuple):
    """A line as it was ordered."""

    service: str
    sku: str
    quantity: int
    unit_price: int


class Charge(NamedTuple):
    """An adjustment: of the line (service, sku), or of the order."""

    kind: str
    amount: int
    line: tuple[str, str] | None = None


def total_of(items: Sequence[Item], charges: Sequence[Charge]) -> int:
    return sum(item.quantity * item.unit_price for item in items) + sum(charge.amount for charge in charges)


@cache
def line_costs(items: tuple[Item, ...], charges: tuple[Charge, ...]) -> tuple[int, ...]:
    """What each line costs: its own value, and its share of the order's taxes and fees, then of the order's discounts."""
    own = [
        item.quantity * item.unit_price + sum(c.amount for c in charges if c.line == (item.service, item.sku)) for item in items
    ]
    weights = own if sum(own) else [item.quantity for item in items]
    costs = list(own)
    of_order = [c for c in charges if c.line is None and c.kind != "shipping"]
    for charge in of_order:
        if charge.kind != "discount":
            costs = [cost + share for cost, share in zip(costs, shared(charge.amount, weights), strict=True)]
    for charge in of_order:
        if charge.kind == "discount":
            size = min(-charge.amount, sum(costs))  # what it takes beyond the lines, it takes from the shipping
            costs = [cost - share for cost, share in zip(costs, shared(size, costs), strict=True)]
    return tuple(costs)


def shared(amount: int, weights: Sequence[int]) -> list[int]:
    """`amount`, 0 or more, in whole parts by `weights`: what is left over goes to the largest remainders, the first one first."""
    if amount == 0:
        return [0] * len(weights)
    exact = [Fraction(amount * weight, sum(weights)) for weight in weights]
    parts = [int(quota) for quota in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: amount - sum(parts)]:
        parts[i] += 1
    return parts


def cost_of_units(cost: int, quantity: int, before: int, units: int) -> int:
    """What `units` of a line of `quantity` cost, after the first `before` ones."""
    return cost * (before + units) // quantity - cost * before // quantity
