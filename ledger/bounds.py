"""Bounds of every value that a record may carry, declared with the field. Pure.

They are far beyond what any route accepts, and within what every reader can represent: sums of a million amounts fit 64 bits,
times can be written in RFC 3339, a text fits into a record. A record with a value out of bounds is not decoded: such a command is
refused, such an event freezes its order, and both happen alike on every node.
"""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta

SERVICES = ("product", "merch")  # of lines

MAX_TIME_MS = 253_402_300_799_999  # the last millisecond of the year 9999
MAX_AMOUNT_MINOR = 10**12
MAX_INT = 2**31 - 1
MAX_WORD = 64
MAX_LINES, MAX_ADJUSTMENTS, MAX_ITEMS = 100, 20, 100
MAX_METADATA = 20  # entries of an order
MAX_NOTES = 100  # of the desk about an order

# Ids that a path of the API can contain. Not part of `Id`: a pattern costs half a microsecond per value in every decode.
ID = r"[A-Za-z0-9_-]{1,64}"  # of customers, orders, commands
ID_PATTERN = re.compile(ID)
DOTTED_ID = r"[A-Za-z0-9._-]{1,64}"  # of articles, principals
# A well-formed language tag (BCP 47, RFC 5646): language, script, region, variants, extensions, private use.
LANGUAGE_TAG = (
    r"[A-Za-z]{2,3}(?:-[A-Za-z]{3}){0,3}(?:-[A-Za-z]{4})?(?:-(?:[A-Za-z]{2}|[0-9]{3}))?"
    r"(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*(?:-[0-9A-WYZa-wyz](?:-[A-Za-z0-9]{2,8})+)*(?:-[Xx](?:-[A-Za-z0-9]{1,8})+)?"
)
MAX_LANGUAGE_TAG = 35

TimeMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
DurationMs = Annotated[int, Meta(ge=0, le=MAX_TIME_MS)]
AmountMinor = Annotated[int, Meta(ge=-MAX_AMOUNT_MINOR, le=MAX_AMOUNT_MINOR)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Quantity = Annotated[int, Meta(ge=1, le=MAX_INT)]
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Id = Annotated[str, Meta(min_length=1, max_length=64)]
OptionalId = Annotated[str, Meta(max_length=64)]  # empty means none
Currency = Annotated[str, Meta(min_length=3, max_length=3)]
Word = Annotated[str, Meta(max_length=MAX_WORD)]  # a word from a fixed list, here or at a partner
Reference = Annotated[str, Meta(max_length=255)]  # a partner's id
Text = Annotated[str, Meta(max_length=255)]  # text by people: 120 characters at the API
MetadataKey = Annotated[str, Meta(min_length=1, max_length=40)]
MetadataText = Annotated[str, Meta(max_length=200)]
Digest16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
