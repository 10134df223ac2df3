"""Detects card numbers in requests: people write them into notes, but the ledger must not store any (PCI DSS, requirement 3).

Pure. Searches every run of digits, with any grouping and any separators. A card number has an issuer's prefix and length and a
valid check digit. The only importer of `pydantic_extra_types`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

from pydantic_core import PydanticCustomError
from pydantic_extra_types.payment import PaymentCardBrand, PaymentCardNumber

from commands.phone_numbers import is_international

SHORTEST, LONGEST = 12, 19  # ISO/IEC 7812
MOST_BETWEEN = 8  # characters between two groups: 4242  --  4242
# A number, its date and its code have fewer groups, even with each digit separate. In a longer run, groups of one or two digits
# are ignored: it would take too long to check them all.
MOST_GROUPS = 24
_DIGITS = re.compile(r"\d")
_RUN = re.compile(rf"\d+(?:[\W_]{{1,{MOST_BETWEEN}}}\d+)*")
_GROUP = re.compile(r"\d+")
# A date, as in `from 24.12.2026 to 27.12.2026`: no card is written in groups of two and four.
_DATE = re.compile(r"(?<!\d)(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)\d\d|(?:19|20)\d\d[./-]\d{1,2}[./-]\d{1,2})(?!\d)")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # digit sums of the doubled digits


def has_card_number(text: str) -> bool:
    """Whether `text` contains what looks like a payment card number."""
    if len(text) < SHORTEST:
        return False
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # full-width, superscript or circled digits
    if len(_DIGITS.findall(text)) < SHORTEST:
        return False
    runs = _RUN.findall(_DATE.sub("x", text))
    return any(_is_card(number) for run in runs for groups in _parts(run) for number in _checked(groups))


def no_card_number(text: str | None) -> str | None:
    """Validator for pydantic. Raises `PydanticCustomError`, which does not repeat the text."""
    if text is not None and has_card_number(text):
        raise PydanticCustomError("card_number", "contains a card number, which must not be stored")
    return text


def _parts(run: str) -> Iterator[list[str]]:
    """Groups of digits that may form a number together, in ASCII; article numbers are excluded."""
    groups = _GROUP.findall(run if run.isascii() else "".join(str(int(c)) if c.isdecimal() else c for c in run))
    shortest = 1 if len(groups) <= MOST_GROUPS else 3
    part: list[str] = []
    for group in groups:
        if len(group) >= shortest and not _is_ean_13(group):
            part.append(group)
            continue
        yield part
        part = []
    yield part


def _checked(groups: Sequence[str]) -> Iterator[str]:
    """All numbers of adjacent groups with the length of a card and a valid check digit (ISO/IEC 7812-1, annex B)."""
    digits = "".join(groups)
    if len(digits) < SHORTEST:
        return
    ends = [0, *accumulate(map(len, groups))]
    # Prefix sums with the digits at even, or at odd, places doubled: the check sum of a part is a difference.
    sums = [
        [0, *accumulate(_DOUBLED[int(digit)] if n % 2 == doubled else int(digit) for n, digit in enumerate(digits))]
        for doubled in (0, 1)
    ]
    for first, start in enumerate(ends[:-1]):
        for last in range(bisect_left(ends, start + SHORTEST, first + 1), bisect_right(ends, start + LONGEST, first + 1)):
            end = ends[last]
            of = sums[end % 2]  # the last digit itself is not doubled
            if (of[end] - of[start]) % 10 == 0 and not _counts_up(groups[first:last]):
                yield digits[start:end]


def _counts_up(groups: Sequence[str]) -> bool:
    """Whether small numbers only increase: a list of sizes."""
    return len(groups) > 4 and all(len(a) <= 3 and int(a) < int(b) for a, b in pairwise(groups))


def _is_card(number: str) -> bool:
    try:
        brand = PaymentCardNumber.validate_brand(number)
    except PydanticCustomError:
        return False
    if brand is PaymentCardBrand.other and not (number[0] in "56" and len(number) == 16):  # RuPay, Elo, Hipercard, Maestro
        return False
    return not (_is_ean_13(number) or is_international(number))


def _is_ean_13(digits: str) -> bool:
    """Whether it is an article number with a valid check digit (GS1)."""
    return len(digits) == 13 and sum(int(digit) * (3 if n % 2 else 1) for n, digit in enumerate(digits)) % 10 == 0
