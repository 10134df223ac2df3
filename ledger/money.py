"""Sums of money: integer minor units of one currency, never a float. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ledger.events import Adjustment, Line

MAX_TOTAL_MINOR = 10**9
MAX_UNIT_PRICE_MINOR = 100_000_000


def total_of(lines: Iterable[Line], adjustments: Iterable[Adjustment]) -> int:
    """The total of an order: quantities times unit prices, plus adjustments (a discount is negative)."""
    return sum(line.quantity * line.unit_price_minor for line in lines) + sum(a.amount_minor for a in adjustments)


# ISO 4217, list one: currencies whose minor unit is not a hundredth.
_NO_DIGITS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_DIGITS = dict.fromkeys(_NO_DIGITS.split(), 0) | dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3)


def in_words(amount_minor: int, currency: str) -> str:
    """An amount for people: `28.90 EUR`."""
    digits = _DIGITS.get(currency, 2)
    whole, fraction = divmod(abs(amount_minor), 10**digits)
    sign = "-" if amount_minor < 0 else ""
    return f"{sign}{whole}{f'.{fraction:0{digits}}' if digits else ''} {currency}"
