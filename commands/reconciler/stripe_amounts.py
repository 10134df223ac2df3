"""Amounts as Stripe wants them, and back. Pure.

An order has minor units of ISO 4217; Stripe has a list of its own (Stripe documentation, "Supported currencies"):

    zero-decimal      whole units: MGA, too, which has a hundredth in ISO 4217
    ISK, UGX          whole units in ISO 4217, and two decimals at Stripe, which are always 00
    three decimals    the last digit must be 0 (`payable_step`)
"""

from __future__ import annotations

from ledger.currencies import digits, payable_step

_WHOLE_UNITS = "BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF"
_DIGITS = dict.fromkeys(_WHOLE_UNITS.split(), 0) | {"ISK": 2, "UGX": 2}


class NotPayable(ValueError):
    """Stripe cannot take this amount of this currency."""


def to_stripe(amount_minor: int, currency: str) -> int:
    """The amount of a request. Raises `NotPayable`."""
    factor, divisor = _ratio(currency)
    amount, remainder = divmod(amount_minor * factor, divisor)
    if remainder or amount_minor % payable_step(currency):
        raise NotPayable(f"Stripe takes no {amount_minor} minor units of {currency}")
    return amount


def from_stripe(amount: int, currency: str) -> int:
    """The amount of an answer, in the order's minor units. `currency` in either case, as Stripe writes it in lower case.

    Stripe keeps to its own rules, so nothing is left over; if it ever did not, the fraction of a minor unit is dropped.
    """
    factor, divisor = _ratio(currency.upper())
    return amount * divisor // factor


def _ratio(currency: str) -> tuple[int, int]:
    """(factor, divisor) from the order's minor units to Stripe's; one of them is 1."""
    ours = digits(currency)
    shift = 0 if ours is None else _DIGITS.get(currency, ours) - ours
    return 10 ** max(0, shift), 10 ** max(0, -shift)
