"""Which currencies there are, and the digits of their minor units: ISO 4217, list one. The only importer of `iso4217`."""

from __future__ import annotations

from functools import cache

from iso4217 import Currency


@cache
def digits(currency: str) -> int | None:
    """Decimal digits of the minor unit of `currency`; None if there is no such currency, or it has no minor unit."""
    try:
        exponent: int | None = Currency(currency).exponent
    except ValueError:
        return None
    return exponent
