"""Sums of money: integer minor units of one currency, never a float. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.events import Adjustment, Line

MAX_TOTAL_MINOR = 10**9
MAX_UNIT_PRICE_MINOR = 100_000_000


def total_of(lines: Iterable[Line], adjustments: Iterable[Adjustment]) -> int:
    """The total of an order: quantities times unit prices, plus adjustments (a discount is negative)."""
    return sum(line.quantity * line.unit_price_minor for line in lines) + sum(a.amount_minor for a in adjustments)
