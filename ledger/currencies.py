"""Which currencies there are, and the digits of their minor units: ISO 4217, list one. The only importer of `iso4217`."""

from __future__ import annotations

from functools import cache

from iso4217 import Currency

_PAYABLE_STEPS = dict.fromkeys(("BHD", "JOD", "KWD", "OMR", "TND"), 10) | {"MGA": 100}


@cache
def digits(currency: str) -> int | None:
    """Decimal digits of the minor unit of `currency`; None if there is no such currency, or it has no minor unit."""
    try:
        exponent: int | None = Currency(currency).exponent
    except ValueError:
        return None
    return exponent


def payable_step(currency: str) -> int:
    """Minor units of which every payment and refund in `currency` is a multiple: the payment provider takes no other amounts.

    Three decimals are paid with two, and the ariary without any (`stripe_amounts`).
    """
    return _PAYABLE_STEPS.get(currency, 1)
