"""Amounts, dates and countries as a language writes them. Pure, except that Babel reads its tables; its only importer."""

from __future__ import annotations

import re
import unicodedata
from copy import copy
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from functools import cache, lru_cache

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time
from babel.numbers import NumberPattern, get_currency_symbol

from commands.notifier.languages import SHIPPED, lookups
from ledger.currencies import digits

_NBSP = "\u00a0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Language:
    """Writes values in one language. Times are ms since the epoch, amounts minor units of their currency."""

    def __init__(self, locale: Locale) -> None:
        self._locale = locale

    @property
    def is_right_to_left(self) -> bool:
        """Whether its script is written from right to left."""
        return bool(self._locale.text_direction == "rtl")

    def money(self, amount_minor: int, currency: str) -> str:
        """An amount with all digits of its currency's minor unit (ISO 4217): `€28.90`, `28,90 €`.

        The digits that Babel knows are those of cash: it would round 100.50 RSD.
        """
        return _money(self._locale, amount_minor, currency)

    def date(self, at_ms: int, zone: tzinfo) -> str:
        """The day of a time, in `zone`: `November 26, 2026`."""
        return _day(self._locale, _at(at_ms, zone).date())

    def moment(self, at_ms: int, zone: tzinfo) -> str:
        """Day, time and zone: `November 26, 2026, 2:30 PM UTC`."""
        at = _at(at_ms, zone)
        return f"{_day(self._locale, at.date())}, {_time_of_day(self._locale, at.hour, at.minute)} {at.tzname()}"

    def country(self, code: str) -> str:
        """The name of a country (ISO 3166-1 alpha-2); its code if it has no name in this language."""
        return _country(self._locale, code.upper())


def _at(at_ms: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(milliseconds=at_ms)).astimezone(zone)


# What a shop writes repeats itself: prices, today, countries. Babel needs up to 30 us for each, the cache half of one.


@lru_cache(4096)
def _money(locale: Locale, amount_minor: int, currency: str) -> str:
    pattern, decimals = _pattern(locale, currency)
    amount = Decimal(amount_minor).scaleb(-decimals)
    return str(pattern.apply(amount, locale, currency=currency, currency_digits=False))


@lru_cache(1024)
def _day(locale: Locale, day: date) -> str:
    return format_date(day, "long", locale=locale)


@lru_cache(4096)
def _time_of_day(locale: Locale, hour: int, minute: int) -> str:
    return format_time(time(hour, minute), "short", locale=locale)


@lru_cache(1024)
def _country(locale: Locale, code: str) -> str:
    return str(locale.territories.get(code, code))


@lru_cache(256)
def _pattern(locale: Locale, currency: str) -> tuple[NumberPattern, int]:
    """The pattern of amounts, with the digits of the currency's minor unit; and how many these are."""
    decimals = digits(currency)
    decimals = 2 if decimals is None else decimals
    pattern = copy(locale.currency_formats["standard"])
    pattern.frac_prec = (decimals, decimals)
    symbol = get_currency_symbol(currency, locale)
    if not _is_sign(symbol[-1]):
        positive, negative = (re.sub("¤$", f"¤{_NBSP}", prefix) for prefix in pattern.prefix)
        pattern.prefix = (positive, negative)
    if not _is_sign(symbol[0]):
        positive, negative = (re.sub("^¤", f"{_NBSP}¤", suffix) for suffix in pattern.suffix)
        pattern.suffix = (positive, negative)
    return pattern, decimals


def _is_sign(letter: str) -> bool:
    """Whether it may be beside a digit. CLDR sets a space between others and a digit (`currencySpacing`), Babel does not."""
    return unicodedata.category(letter)[0] in "SZ"


@lru_cache(256)  # customers choose tags
def language_of(tag: str) -> Language:
    """The language of a tag; the shipped one if Babel knows it in no detail."""
    return next((Language(known) for one in lookups(tag) if (known := _locale_of(one)) is not None), _shipped())


def is_known(tag: str) -> bool:
    """Whether Babel can write values in the language of this tag."""
    return any(_locale_of(one) is not None for one in lookups(tag))


@lru_cache(256)
def _locale_of(tag: str) -> Locale | None:
    try:
        return Locale.parse(tag, sep="-")
    except (ValueError, UnknownLocaleError):
        return None


@cache
def _shipped() -> Language:
    return Language(Locale.parse(SHIPPED))
