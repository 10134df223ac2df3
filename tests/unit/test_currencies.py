"""`CURRENCIES`: checked at start, not at the first order."""

from __future__ import annotations

import pytest

from api.settings import load_settings
from ledger.errors import ConfigError


@pytest.mark.parametrize(("configured", "taken"), [("EUR", {"EUR"}), ("eur, JPY", {"EUR", "JPY"}), ("BHD,,USD,", {"BHD", "USD"})])
def test_codes_of_iso_4217_are_taken(configured: str, taken: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURRENCIES", configured)
    assert load_settings().allowed_currencies == taken


@pytest.mark.parametrize("configured", ["EUR;JPY", "EURO", "EUR,XAU", "EUR,XXX", "€", ","])
def test_anything_else_ends_the_start_with_its_name(configured: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CURRENCIES", configured)
    with pytest.raises(ConfigError, match=r"CURRENCIES: .*ISO 4217"):
        load_settings()
