"""Amounts, dates and countries in the languages of customers."""

from __future__ import annotations

import re
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from iso4217 import Currency

from commands.notifier.formats import is_known, language_of
from commands.notifier.samples import PLACED_AT_MS
from ledger.durations import DAY_MS

NBSP = "\u00a0"
TAGS = ("en", "en-IN", "de", "de-AT", "de-CH", "fr", "ja", "ar", "he", "sv", "zh-Hant-TW", "tlh", "en-x-private")
CURRENCIES = sorted(currency.code for currency in Currency if currency.exponent is not None)


@pytest.mark.parametrize(
    ("amount_minor", "currency", "tag", "text"),
    [
        (2890, "EUR", "en", "€28.90"),
        (2890, "EUR", "de", f"28,90{NBSP}€"),
        (2890, "EUR", "de-AT", f"€{NBSP}28,90"),
        (-500, "EUR", "en", "-€5.00"),
        (0, "EUR", "en", "€0.00"),
        (5, "EUR", "en", "€0.05"),
        (123456789, "USD", "en", "$1,234,567.89"),
        (2890, "JPY", "en", "¥2,890"),
        (2890, "JPY", "de", f"2.890{NBSP}¥"),
        (2890, "KWD", "en", f"KWD{NBSP}2.890"),
        (5, "KWD", "de", f"0,005{NBSP}KWD"),
        (2890, "ISK", "en", f"ISK{NBSP}2,890"),
        (10050, "RSD", "en", f"RSD{NBSP}100.50"),
        (28_905, "BHD", "en", f"BHD{NBSP}28.905"),
        (-5, "USD", "en", "-$0.05"),
        (-5, "KWD", "en", f"-KWD{NBSP}0.005"),
        (2890, "CAD", "en", "CA$28.90"),
        (5, "???", "en", f"???{NBSP}0.05"),
    ],
)
def test_an_amount_is_written_as_its_language_and_currency_want(amount_minor: int, currency: str, tag: str, text: str) -> None:
    assert language_of(tag).money(amount_minor, currency) == text


@given(st.integers(-(10**12), 10**12), st.sampled_from(CURRENCIES), st.sampled_from(TAGS))
def test_an_amount_keeps_every_digit_in_every_language(amount_minor: int, currency: str, tag: str) -> None:
    text = language_of(tag).money(amount_minor, currency)
    assert int("".join(re.findall(r"[0-9]", text))) == abs(amount_minor)


def test_dates_are_those_of_the_time_zone() -> None:
    assert language_of("en").date(PLACED_AT_MS, ZoneInfo("UTC")) == "January 31, 2030"
    assert language_of("de").date(PLACED_AT_MS + 90 * DAY_MS, ZoneInfo("UTC")) == "1. Mai 2030"
    assert language_of("en").date(PLACED_AT_MS, ZoneInfo("Pacific/Auckland")) == "February 1, 2030"
    moment = language_of("de-AT").moment(PLACED_AT_MS, ZoneInfo("Europe/Vienna"))
    assert moment.endswith(", 13:00 CET")
    assert "2030" in moment


def test_a_country_has_its_name_and_an_unknown_one_its_code() -> None:
    assert language_of("de").country("at") == "Österreich"
    assert language_of("en").country("GB") == "United Kingdom"
    assert language_of("en").country("QQ") == "QQ"


def test_which_languages_are_written_from_right_to_left() -> None:
    assert [tag for tag in TAGS if language_of(tag).is_right_to_left] == ["ar", "he"]


def test_a_language_that_babel_does_not_know_is_written_as_english() -> None:
    assert language_of("tlh").money(2890, "EUR") == "€28.90"
    assert language_of("../de").money(2890, "EUR") == "€28.90"
    assert [tag for tag in (*TAGS, "../de") if not is_known(tag)] == ["tlh", "../de"]
