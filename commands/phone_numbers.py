"""Phone numbers: one definition for requests and for messages. The only importer of `phonenumbers`."""

from __future__ import annotations

import phonenumbers

MOST_DIGITS = 15  # E.164


def dialled(text: str, country: str) -> str:
    """`text` in the form that every service accepts (E.164, `+4915123456789`).

    Without an international prefix it is a number of `country` (ISO 3166, two letters).
    Raises `ValueError`, which does not repeat the text, if it cannot be a phone number.
    """
    try:
        number = phonenumbers.parse(text, country.upper())
    except phonenumbers.NumberParseException:
        raise ValueError("not a phone number") from None
    if not phonenumbers.is_possible_number(number):
        raise ValueError("not a phone number")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def is_international(digits: str) -> bool:
    """Whether `digits`, country code first, are a valid number of some country."""
    try:
        return len(digits) <= MOST_DIGITS and phonenumbers.is_valid_number(phonenumbers.parse(f"+{digits}"))
    except phonenumbers.NumberParseException:
        return False
