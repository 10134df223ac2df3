"""Card numbers in free text: people do write them into notes, and nothing of ours may keep one (PCI DSS, requirement 3). Pure."""

from __future__ import annotations

import re

from pydantic_core import PydanticCustomError

# ISO/IEC 7812: the ranges of the large schemes, 14 to 16 digits, as people write them.
_CANDIDATE = re.compile(r"(?<!\d)(?:4|5[1-5]|2[2-7]|3[0-9]|6)(?:[ .-]?\d){12,15}(?!\d)")


def has_card_number(text: str) -> bool:
    """Whether `text` holds what looks like a payment card's number: a scheme's prefix, its length, the right check digit."""
    if len(text) < 13:
        return False
    return any(_luhn(re.sub(r"\D", "", found)) for found in _CANDIDATE.findall(text))


def no_card_number(text: str | None) -> str | None:
    """For pydantic. Raises `PydanticCustomError`, which does not repeat the text."""
    if text is not None and has_card_number(text):
        raise PydanticCustomError("card_number", "holds a card number, which must not be stored")
    return text


def _luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = (sum(divmod(2 * int(d), 10)) for d in digits[-2::-2])
    return (sum(doubled) + sum(int(d) for d in digits[::-2])) % 10 == 0
