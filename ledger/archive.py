"""The ledger in one file: `order-events` and `order-refusals`, byte for byte, and everything needed to check them.

The file is an Avro object container file with the codec `zstandard`, which every Avro tool reads: its header has the schema and
metadata, then come blocks of records, each compressed by itself.

    order_ledger.archive   JSON: form, time, topics, counts, the head of every partition's chain, size and CRC-32 of each block
    order_ledger.schemas   JSON: the Avro schema of each schema id in the records' values, as text
    order_ledger.crc32     of the header without this value, as eight hexadecimal digits

A record has its coordinates, key, headers and value as in the log. The value stays the bytes that were committed, because the
chain is over these bytes, and because one Avro schema cannot hold two versions of a record: their names are equal. To read events
as columns, there is `export`.

Checksums detect accidental damage before anything is decoded, and name the last record of the last whole block. Deliberate
changes, including those of checksums, are detected by the chain (`ledger.walk`) and by heads kept elsewhere.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO, TypeVar

import fastavro
import msgspec
from fastavro.write import Writer
from msgspec import Struct

from ledger.errors import LedgerError
from ledger.topics import MAX_RECORD_BYTES
from ledger.walk import Head

T = TypeVar("T")

FORM = 2
OLD_FORM = b"ORDERLEDGER\x01"  # frames of MessagePack, of commits before 0.1.0
CODEC = "zstandard"
BLOCK_BYTES = (
    16_000  # before compression, about 40 events: what one damaged byte costs. Ten times as much saves a fifth of the file
)
ABOUT, SCHEMAS, CHECKSUM = "order_ledger.archive", "order_ledger.schemas", "order_ledger.crc32"
EVENTS, REFUSALS = 0, 1
KINDS = ("event", "refusal")
_MAX_BLOCK_BYTES = BLOCK_BYTES + 2 * MAX_RECORD_BYTES

_HEADER_OF_A_RECORD = {
    "type": "record",
    "name": "RecordHeader",
    "fields": [{"name": "name", "type": "string"}, {"name": "value", "type": "bytes"}],
}
SCHEMA: dict[str, Any] = {
    "type": "record",
    "name": "ArchivedRecord",
    "namespace": "order_ledger",
    "doc": "One record of order-events or order-refusals, as it was committed to Kafka.",
    "fields": [
        {"name": "kind", "type": {"type": "enum", "name": "RecordKind", "symbols": list(KINDS)}},
        {"name": "partition", "type": "int"},
        {"name": "offset", "type": "long"},
        {"name": "timestamp_ms", "type": "long", "doc": "of the record in Kafka; ms since the epoch"},
        {"name": "key", "type": ["null", "bytes"], "doc": "the order's id in UTF-8"},
        {"name": "headers", "type": {"type": "array", "items": _HEADER_OF_A_RECORD}},
        {
            "name": "value",
            "type": ["null", "bytes"],
            "doc": f"byte 0 is 0, then the schema's id in 4 bytes (big-endian), then Avro; the schemas are in {SCHEMAS}",
        },
    ],
}
_PARSED = fastavro.parse_schema(SCHEMA)


class ArchiveError(LedgerError):
    """The file is not a complete archive of a ledger. `after` is the last valid record; None if there is none."""

    code = "archive"

    def __init__(self, message: str, after: Entry | None) -> None:
        super().__init__(message)
        self.after = after


class Header(Struct, frozen=True):
    """Origin. `made_at` is RFC 3339, `schemas` maps ids to Avro schemas (JSON text), `partitions` is of both topics."""

    made_at: str
    partitions: int
    topics: tuple[str, str]
    topic_id: bytes
    schemas: dict[int, str]


class Entry(Struct, frozen=True):
    """One record: `kind` is EVENTS or REFUSALS, the other fields are as in the log."""

    kind: int
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


class Contents(Struct, frozen=True):
    """The expected content: number of records per kind, and the head of every partition of `order-events`."""

    events: int
    refusals: int
    heads: dict[int, Head]


class _Form(Struct, frozen=True):
    form: int


class _About(Struct, frozen=True):
    """`ABOUT`, as JSON. A block is (its bytes in the file, their CRC-32), the sync marker included."""

    form: int
    made_at: str
    partitions: int
    topics: tuple[str, str]
    topic_id: bytes
    contents: Contents
    blocks: tuple[tuple[int, int], ...]


_decode_form = msgspec.json.Decoder(_Form).decode
_decode_about = msgspec.json.Decoder(_About).decode
_decode_schemas = msgspec.json.Decoder(dict[int, str]).decode


class ArchiveWriter:
    """Writes an archive. Its records go to `scratch` first, because the header, which is before them, has their checksums.

    For a moment it takes twice its size.
    """

    def __init__(self, scratch: BinaryIO, header: Header, block_bytes: int = BLOCK_BYTES) -> None:
        self._scratch, self._header, self._sync = scratch, header, os.urandom(16)
        self._writer = Writer(scratch, _PARSED, CODEC, block_bytes, sync_marker=self._sync)
        self._ends = [scratch.tell()]  # of the header, then of each block

    def write(self, entry: Entry) -> None:
        self._writer.write(
            {
                "kind": KINDS[entry.kind],
                "partition": entry.partition,
                "offset": entry.offset,
                "timestamp_ms": entry.timestamp_ms,
                "key": entry.key,
                "headers": [{"name": name, "value": value} for name, value in entry.headers],
                "value": entry.value,
            }
        )
        self._note_end()

    def _note_end(self) -> None:
        if (end := self._scratch.tell()) != self._ends[-1]:
            self._ends.append(end)

    def finish(self, contents: Contents, file: BinaryIO) -> None:
        """Write the whole archive to `file`."""
        self._writer.flush()
        self._note_end()
        self._scratch.seek(self._ends[0])
        sizes = [end - begin for begin, end in zip(self._ends, self._ends[1:], strict=False)]
        blocks = tuple([(size, zlib.crc32(self._scratch.read(size))) for size in sizes])
        header = self._header
        about = _About(FORM, header.made_at, header.partitions, header.topics, header.topic_id, contents, blocks)
        metadata = {
            CHECKSUM: "0" * 8,
            ABOUT: msgspec.json.encode(about).decode(),
            SCHEMAS: msgspec.json.encode(header.schemas).decode(),
        }
        out = BytesIO()
        Writer(out, _PARSED, CODEC, metadata=metadata, sync_marker=self._sync)
        file.write(sealed(out.getvalue()))
        self._scratch.seek(self._ends[0])
        shutil.copyfileobj(self._scratch, file)


_DIGITS_BEGIN = CHECKSUM.encode() + b"\x10"  # Avro's length of the eight digits, which follow


def sealed(header: bytes) -> bytes:
    """The header of a file with its own checksum in it: unchanged if that was right."""
    before, begins, after = header.partition(_DIGITS_BEGIN)
    return before + begins + b"%08x" % zlib.crc32(before + after[8:]) + after[8:]


class ArchiveReader:
    """Reads an archive from `file` sequentially: `header` and `contents`, which are known from the beginning, then `entries`."""

    def __init__(self, file: BinaryIO) -> None:
        """Raises `ArchiveError` if `file` is not an archive, or its header is damaged."""
        self._file = file
        self._last: Entry | None = None
        if file.read(len(OLD_FORM)) == OLD_FORM:
            text = "this archive has a form from before 0.1.0: import it with the program that wrote it, and export it again"
            raise ArchiveError(text, None)
        file.seek(0)
        self._avro = self._read(
            lambda: fastavro.block_reader(file), "this is not an archive of a ledger, or its header is damaged"
        )
        size = file.tell()
        file.seek(0)
        if sealed(raw := file.read(size)) != raw:
            raise ArchiveError("this is not an archive of a ledger, or its header is damaged", None)
        metadata = self._avro.metadata
        form = self._read(lambda: _decode_form(metadata[ABOUT]), "this Avro file is not an archive of a ledger").form
        if form != FORM:
            raise ArchiveError(f"this archive has form {form}, this program reads form {FORM}: use a newer one", None)
        about = self._read(lambda: _decode_about(metadata[ABOUT]), "the header cannot be read")
        schemas = self._read(lambda: _decode_schemas(metadata[SCHEMAS]), "the header cannot be read")
        self._blocks, self.contents = about.blocks, about.contents
        self.header = Header(about.made_at, about.partitions, about.topics, about.topic_id, schemas)

    def entries(self) -> Iterator[Entry]:
        """All records. Raises `ArchiveError` naming the first damaged position."""
        counted = [0, 0]
        for size, crc in self._blocks:
            for entry in self._block(size, crc):
                counted[entry.kind] += 1
                yield entry
                self._last = entry
        if self._file.read(1):
            raise self._error("the file continues after its last block")
        if counted != [self.contents.events, self.contents.refusals]:
            total = f"{self.contents.events} events and {self.contents.refusals} refusals"
            raise self._error(f"the file has {counted[EVENTS]} events and {counted[REFUSALS]} refusals, its header says {total}")

    def _block(self, size: int, crc: int) -> list[Entry]:
        """The records of the next block, which is checked before it is decoded."""
        if not 0 < size <= _MAX_BLOCK_BYTES:
            raise self._error("invalid size of a block")
        begin = self._file.tell()
        raw = self._file.read(size)
        if len(raw) < size:
            raise self._error("the file is truncated")
        if zlib.crc32(raw) != crc:
            raise self._error("the checksum of a block does not match")
        self._file.seek(begin)
        entries = self._read(lambda: [_entry(fields) for fields in next(self._avro)], "a block cannot be read")
        if self._file.tell() != begin + size:
            raise self._error("a block is longer or shorter than the header says")
        return entries

    def _read(self, do: Callable[[], T], problem: str) -> T:
        """The result of `do`. Raises `ArchiveError` with `problem` for whatever fastavro and msgspec raise for junk."""
        try:
            return do()
        except OSError:
            raise  # of the disk
        except Exception as exc:  # the errors of fastavro for junk are not specified
            raise self._error(f"{problem} ({type(exc).__name__})") from None

    def _error(self, problem: str) -> ArchiveError:
        last = self._last
        after = f"after {KINDS[last.kind]} {last.partition}-{last.offset}" if last else "at the beginning"
        return ArchiveError(f"{problem}, {after}", last)


def _entry(fields: Any) -> Entry:
    return Entry(
        KINDS.index(fields["kind"]),
        fields["partition"],
        fields["offset"],
        fields["timestamp_ms"],
        fields["key"],
        fields["value"],
        tuple([(header["name"], header["value"]) for header in fields["headers"]]),
    )
