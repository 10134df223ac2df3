"""The ledger in one file: `order-events` and `order-refusals`, byte for byte, and everything needed to check them.

    12 bytes   magic
    frames     length (4 bytes, big-endian), CRC-32 of the content (4 bytes), content (MessagePack)

The first frame is the header, then come the records, and last the trailer: the number of records, and the head of every
partition's chain. A file without a trailer is incomplete. Checksums detect accidental damage and name the record; deliberate
changes, including checksums, are detected by the chain (`ledger.walk`) and by heads kept elsewhere.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
from msgspec import Struct

from ledger.errors import LedgerError
from ledger.topics import MAX_RECORD_BYTES
from ledger.walk import Head

MAGIC = b"ORDERLEDGER\x01"
EVENTS, REFUSALS = 0, 1
_FRAME = struct.Struct(">II")
_MAX_FRAME = 2 * MAX_RECORD_BYTES


class ArchiveError(LedgerError):
    """The file is not a complete archive of a ledger. `after` is the last valid record; None if there is none."""

    code = "archive"

    def __init__(self, message: str, after: Entry | None) -> None:
        super().__init__(message)
        self.after = after


class Header(Struct, frozen=True):
    """The header. `made_at` is RFC 3339, `schemas` maps ids to Avro schemas (JSON text), `partitions` is of both topics."""

    made_at: str
    partitions: int
    topics: tuple[str, str]
    topic_id: bytes
    schemas: dict[int, str]


class Entry(Struct, frozen=True, array_like=True):
    """One record: `kind` is EVENTS or REFUSALS, the other fields are as in the log."""

    kind: int
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Trailer(Struct, frozen=True):
    """The expected content: number of records per kind, and the head of every partition of `order-events`."""

    events: int
    refusals: int
    heads: dict[int, Head]


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_entry = msgspec.msgpack.Decoder(Entry).decode
_ENTRY_BEGINS = bytes([0x90 + len(Entry.__struct_fields__)])  # MessagePack: an array of that length; the trailer is a map
_decode_trailer = msgspec.msgpack.Decoder(Trailer).decode


class ArchiveWriter:
    """Writes an archive to `file` sequentially."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        file.write(MAGIC)
        self._write(_encode(header))

    def write(self, entry: Entry) -> None:
        self._write(_encode(entry))

    def finish(self, trailer: Trailer) -> None:
        """Write the trailer. Call it last: without it the file is incomplete."""
        self._write(_encode(trailer))

    def _write(self, content: bytes) -> None:
        self._file.write(_FRAME.pack(len(content), zlib.crc32(content)))
        self._file.write(content)


class ArchiveReader:
    """Reads an archive from `file` sequentially: first `header`, then `entries`, and then `trailer`."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises `ArchiveError` if `file` is not an archive."""
        self._file = file
        self._last: Entry | None = None
        self.trailer: Trailer | None = None
        if file.read(len(MAGIC)) != MAGIC:
            raise ArchiveError("this is not an archive of a ledger, or has another version", None)
        try:
            self.header = _decode_header(self._content())
        except msgspec.MsgspecError as exc:
            raise self._error(f"the header cannot be read: {exc}") from None

    def entries(self) -> Iterator[Entry]:
        """All records. Raises `ArchiveError` naming the first damaged position."""
        counted = [0, 0]
        while (content := self._content())[:1] == _ENTRY_BEGINS:
            try:
                entry = _decode_entry(content)
                counted[entry.kind] += 1
            except (msgspec.MsgspecError, IndexError):
                raise self._error("a record cannot be read") from None
            yield entry
            self._last = entry
        try:
            self.trailer = _decode_trailer(content)
        except msgspec.MsgspecError as exc:
            raise self._error(f"the trailer cannot be read: {exc}") from None
        if counted != [self.trailer.events, self.trailer.refusals]:
            total = f"{self.trailer.events} events and {self.trailer.refusals} refusals"
            raise self._error(f"the file has {counted[EVENTS]} events and {counted[REFUSALS]} refusals, its trailer says {total}")
        if self._file.read(1):
            raise self._error("the file continues after its trailer")

    def _content(self) -> bytes:
        head = self._file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            raise self._error("the file is truncated")
        length, crc = _FRAME.unpack(head)
        if not 0 < length <= _MAX_FRAME:
            raise self._error("invalid length")
        content = self._file.read(length)
        if len(content) < length:
            raise self._error("the file is truncated")
        if zlib.crc32(content) != crc:
            raise self._error("the checksum does not match")
        return content

    def _error(self, problem: str) -> ArchiveError:
        last = self._last
        after = f"after {('event', 'refusal')[last.kind]} {last.partition}-{last.offset}" if last else "at the beginning"
        return ArchiveError(f"{problem}, {after}", last)
