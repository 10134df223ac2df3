"""Amounts at Stripe, by the tables of its documentation ("Supported currencies")."""

from __future__ import annotations

import iso4217
import pytest

from commands.reconciler.stripe_amounts import NotPayable, from_stripe, to_stripe
from ledger.currencies import digits, payable_step


@pytest.mark.parametrize(
    ("currency", "amount_minor", "at_stripe"),
    [
        ("EUR", 2890, 2890),  # 28.90
        ("USD", 1, 1),
        ("JPY", 2890, 2890),
        ("KRW", 2890, 2890),
        ("ISK", 2890, 289_000),  # whole units, and two decimals at Stripe
        ("UGX", 5, 500),
        ("MGA", 2800, 28),  # hundredths in ISO 4217, whole units at Stripe
        ("BHD", 28_900, 28_900),  # 28.900
        ("KWD", 10, 10),
        ("HUF", 2890, 2890),
        ("TWD", 2890, 2890),
    ],
)
def test_an_amount_goes_out_as_stripe_wants_it_and_comes_back_as_it_was(currency: str, amount_minor: int, at_stripe: int) -> None:
    assert to_stripe(amount_minor, currency) == at_stripe
    assert from_stripe(at_stripe, currency) == from_stripe(at_stripe, currency.lower()) == amount_minor


@pytest.mark.parametrize(("currency", "amount_minor"), [("MGA", 2890), ("MGA", 1), ("BHD", 28_905), ("TND", 1), ("OMR", 1_009)])
def test_what_stripe_cannot_take_is_not_rounded(currency: str, amount_minor: int) -> None:
    with pytest.raises(NotPayable, match=f"no {amount_minor} minor units of {currency}"):
        to_stripe(amount_minor, currency)


def test_every_currency_goes_both_ways() -> None:
    for known in iso4217.Currency:
        if digits(known.code) is not None:
            for amount_minor in (0, 100, 2800, 99_999_900):
                assert from_stripe(to_stripe(amount_minor, known.code), known.code) == amount_minor


@pytest.mark.parametrize(
    ("code", "expected"), [("EUR", 2), ("JPY", 0), ("BHD", 3), ("CLF", 4), ("XAU", None), ("EUR;JPY", None), ("", None)]
)
def test_digits_are_those_of_iso_4217(code: str, expected: int | None) -> None:
    assert digits(code) == expected


def test_the_ledger_knows_the_steps_in_which_stripe_takes_each_currency() -> None:
    def takes(amount_minor: int, currency: str) -> bool:
        try:
            to_stripe(amount_minor, currency)
        except NotPayable:
            return False
        return True

    for known in iso4217.Currency:
        if digits(known.code) is not None:
            least = next(step for step in (1, 10, 100) if takes(step, known.code))
            assert payable_step(known.code) == least, known.code
            assert takes(7 * least, known.code)
    assert {payable_step(code) for code in ("EUR", "ISK", "JPY", "CLF")} == {1}
    assert (payable_step("KWD"), payable_step("MGA")) == (10, 100)
