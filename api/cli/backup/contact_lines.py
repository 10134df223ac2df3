"""Records of `order-contacts` as lines of JSON, which is what `contacts.age` contains. Pure.

    {"partition":0,"offset":7,"at":1700000000000,"key":"<base64>","value":"<base64, or null of a tombstone>"}

The value stays the bytes of the topic: the schemas of `control.json` decode them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec
from msgspec import Struct

from ledger.log import Record


class ContactLine(Struct, frozen=True):
    """One record. `at` is its timestamp, ms since the epoch."""

    partition: int
    offset: int
    at: int
    key: bytes
    value: bytes | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ContactLine).decode


def lines_of(records: Iterable[Record]) -> Iterator[bytes]:
    """A line for each record, with its end."""
    for record in records:
        yield _encode(ContactLine(record.partition, record.offset, record.timestamp_ms, record.key or b"", record.value)) + b"\n"


class LineReader:
    """Cuts pieces into lines and calls `take` with each. Raises `ValueError` for what is not a line."""

    def __init__(self, take: Callable[[ContactLine], object]) -> None:
        self._take, self._open = take, b""

    def feed(self, piece: bytes) -> None:
        *whole, self._open = (self._open + piece).split(b"\n")
        for line in whole:
            self._take(_decode(line))

    def end(self) -> None:
        """There is no more. Raises `ValueError` in the middle of a line."""
        if self._open:
            raise ValueError("the last line has no end")
