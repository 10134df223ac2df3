"""Card numbers in what clients send: people do write them into notes, and nothing of ours may keep one (PCI DSS, requirement 3).

Pure. A number is looked for in every run of digits, however it is grouped and with whatever people put between the groups. It is
a card's when it has an issuer's prefix and length and the right check digit. The only importer of `pydantic_extra_types`.
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
MOST_BETWEEN = 8  # signs between two groups: 4242  --  4242
# A number, its date and its code have fewer groups, each digit by itself. In a longer run groups of one or two digits are no part
# of one: it would take too long to look at them all.
MOST_GROUPS = 24
_DIGITS = re.compile(r"\d")
_RUN = re.compile(rf"\d+(?:[\W_]{{1,{MOST_BETWEEN}}}\d+)*")
_GROUP = re.compile(r"\d+")
# A day, as in `from 24.12.2026 to 27.12.2026`: no card is written in groups of two and four.
_DATE = re.compile(r"(?<!\d)(?:\d{1,2}[./-]\d{1,2}[./-](?:19|20)\d\d|(?:19|20)\d\d[./-]\d{1,2}[./-]\d{1,2})(?!\d)")
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # its digits added up


def has_card_number(text: str) -> bool:
    """Whether `text` holds what looks like a payment card's number."""
    if len(text) < SHORTEST:
        return False
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # digits of full width, raised or in circles
    if len(_DIGITS.findall(text)) < SHORTEST:
        return False
    runs = _RUN.findall(_DATE.sub("x", text))
    return any(_is_card(number) for run in runs for groups in _parts(run) for number in _checked(groups))


def no_card_number(text: str | None) -> str | None:
    """For pydantic. Raises `PydanticCustomError`, which does not repeat the text."""
    if text is not None and has_card_number(text):
        raise PydanticCustomError("card_number", "holds a card number, which must not be stored")
    return text


def _parts(run: str) -> Iterator[list[str]]:
    """Groups of digits that may make a number together, in ASCII: an article's number is no part of one."""
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
    """Every number of a card's length with the right check digit (ISO/IEC 7812-1, annex B) that neighbouring groups make."""
    digits = "".join(groups)
    if len(digits) < SHORTEST:
        return
    ends = [0, *accumulate(map(len, groups))]
    # Sums over all digits before a place, those at even places doubled, or at odd ones: the check of a part is a difference.
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
    """Whether small numbers only grow: a list of sizes."""
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
    """An article's number, right by its own check digit (GS1)."""
    return len(digits) == 13 and sum(int(digit) * (3 if n % 2 else 1) for n, digit in enumerate(digits)) % 10 == 0
