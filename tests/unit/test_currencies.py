"""`CURRENCIES`: checked at start, not at the first order."""

from __future__ import annotations

import pytest

from api.settings import load_settings
from ledger.errors import ConfigError
from ledger.money import in_words


@pytest.mark.parametrize(("given", "taken"), [("EUR", {"EUR"}), ("eur, JPY", {"EUR", "JPY"}), ("BHD,,USD,", {"BHD", "USD"})])
def test_codes_of_iso_4217_are_taken(given: str, taken: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURRENCIES", given)
    assert load_settings().allowed_currencies == taken


@pytest.mark.parametrize("given", ["EUR;JPY", "EURO", "EUR,XAU", "EUR,XXX", "€", ","])
def test_anything_else_ends_the_start_with_its_name(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURRENCIES", given)
    with pytest.raises(ConfigError, match=r"CURRENCIES: .*ISO 4217"):
        load_settings()


@pytest.mark.parametrize(
    ("amount_minor", "currency", "words"),
    [
        (2890, "EUR", "28.90 EUR"),
        (2890, "JPY", "2890 JPY"),
        (28_905, "BHD", "28.905 BHD"),
        (-5, "USD", "-0.05 USD"),
        (5, "???", "0.05 ???"),
    ],
)
def test_an_amount_is_written_with_the_digits_of_its_currency(amount_minor: int, currency: str, words: str) -> None:
    assert in_words(amount_minor, currency) == words
