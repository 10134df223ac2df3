"""Record value <-> bytes: the Confluent wire format around an Avro body.

Byte 0 is 0, then a 4-byte big-endian schema id, then the Avro body. For every input, a decoder returns a value or raises
`DecodeError`. Inputs that fastavro would accept or crash on are checked here: schema ids come from an allow-list, the size is
limited before anything is read, every byte must be used, and the schemas have neither recursion nor array items of zero bytes
(`tests/unit/test_schemas.py`), so the cost of junk is bounded by its length.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from typing import Any, Generic, TypeVar

import fastavro
import msgspec
from fastavro.types import Schema

from ledger.audit import AuditRecord
from ledger.contacts import OrderContact
from ledger.envelope import body_hash
from ledger.errors import DecodeError, EncodeError
from ledger.events import OrderEvent, OrderRefusal
from ledger.schemas.versions import AUDIT, CONTACTS, EVENTS, REFUSALS, SchemaVersion, versions_of
from ledger.topics import MAX_RECORD_BYTES

T = TypeVar("T", bound=msgspec.Struct)
_PREFIX = struct.Struct(">bI")
PREFIX_BYTES = _PREFIX.size
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


class Codec(Generic[T]):
    """Encodes with the newest schema of a topic, decodes every released one. Thread-safe and stateless."""

    def __init__(self, kind: type[T], schemas: Iterable[SchemaVersion], max_bytes: int = MAX_RECORD_BYTES) -> None:
        """`schemas`: oldest first, at least one; `kind` has the fields of the newest schema."""
        self._kind = kind
        # msgspec 0.22 inspects a type at its first use, and two threads that do so simultaneously crash the process. From here
        # on it knows `kind` and all nested types.
        msgspec.msgpack.Decoder(kind)
        self._max_bytes = max_bytes
        self._writers: dict[int, Schema] = {}
        for version in schemas:
            self._writers[version.id] = fastavro.parse_schema(version.parsed)
            self._newest_id = version.id
        self._newest = self._writers[self._newest_id]
        self._prefix = _PREFIX.pack(0, self._newest_id)
        self._shape = _Shape(self._newest, {})
        # `to_builtins` may leave these out (omit_defaults), and Avro has a default for nullable fields only.
        self._defaults = {f.name: f.default for f in msgspec.structs.fields(kind) if isinstance(f.default, str)}

    @property
    def schema_id(self) -> int:
        """Id of the schema used by `encode`."""
        return self._newest_id

    def encode(self, value: T) -> bytes:
        """Bytes of `value`. Raises `EncodeError` if it violates the schema, the bounds or the size limit; never repeats it.

        Checking the bounds ensures that it can be decoded: sums of values within them may be outside.
        """
        out = BytesIO()
        out.write(self._prefix)
        try:
            fields = {**self._defaults, **msgspec.to_builtins(value, builtin_types=(bytes,))}
            msgspec.convert(fields, self._kind)
            self._shape.prepare(fields)
            fastavro.schemaless_writer(out, self._newest, fields)
        except msgspec.ValidationError as exc:
            where = str(exc).rpartition("`$.")[2].rstrip("`") or "?"
            raise EncodeError(f"{self._kind.__name__} is out of its bounds: {where}") from None
        except Exception as exc:  # fastavro passes on errors of Python operations: ValueError, TypeError, OverflowError, ...
            # Its message quotes the value, and a contact is personal: use only the name of the field.
            field = str(exc).rpartition(" on field ")[2]
            where = field if field.isidentifier() else type(exc).__name__
            raise EncodeError(f"{self._kind.__name__} does not match its schema: {where}") from None
        data = out.getvalue()
        if len(data) > self._max_bytes:
            raise EncodeError(f"{self._kind.__name__} has {len(data)} bytes, more than {self._max_bytes}")
        return data

    def decode(self, data: bytes | None) -> T:
        """The value in `data`. Raises `DecodeError`, and nothing else, for any input."""
        fields = self.decode_fields(data)
        try:
            return msgspec.convert(fields, self._kind)
        except msgspec.ValidationError as exc:
            raise DecodeError("malformed", str(exc)) from None

    def decode_fields(self, data: bytes | None) -> dict[str, Any]:
        """The record in `data` as field names of the newest schema and plain values. Raises only `DecodeError`."""
        if data is not None and data[:PREFIX_BYTES] == self._prefix and len(data) <= self._max_bytes:
            writer = self._newest  # nearly every record
        else:
            writer = self._writer_of(data)
            assert data is not None
        source = BytesIO(data)
        source.seek(PREFIX_BYTES)
        try:
            fields = fastavro.schemaless_reader(source, writer, None if writer is self._newest else self._newest)
        except EOFError:
            raise DecodeError("truncated", f"{len(data)} bytes") from None
        except (
            Exception
        ) as exc:  # the errors of fastavro for junk are not specified: IndexError, UnicodeDecodeError, ValueError, ...
            if isinstance(exc, IndexError) and source.tell() == len(data):  # the data ends within a number
                raise DecodeError("truncated", f"{len(data)} bytes") from None
            raise DecodeError("malformed", f"{type(exc).__name__}: {exc}") from None
        if source.tell() != len(data):
            raise DecodeError("trailing_bytes", f"{len(data) - source.tell()} after the record")
        if not isinstance(fields, dict):
            raise DecodeError("malformed", "not a record")
        return fields

    def _writer_of(self, data: bytes | None) -> Schema:
        if data is None or len(data) < PREFIX_BYTES:
            raise DecodeError("too_short", f"{len(data or b'')} bytes")
        if len(data) > self._max_bytes:
            raise DecodeError("too_large", f"{len(data)} bytes, more than {self._max_bytes}")
        magic, schema_id = _PREFIX.unpack_from(data)
        if magic != 0:
            raise DecodeError("wrong_magic", f"first byte is {data[0]}")
        writer = self._writers.get(schema_id)
        if writer is None:
            raise DecodeError("unknown_schema_id", str(schema_id))
        return writer


class _Shape:
    """Prepares one record of a schema for fastavro.

    A record in a union must be named, or fastavro first validates it against each branch (half the time of an event). It would
    take a tuple in a union for such a name, so arrays become lists. It would also write an `int` beyond 32 bits, which no other
    reader could read.
    """

    def __init__(self, schema: Any, named: dict[str, _Shape]) -> None:
        named[schema["name"]] = self
        self._ints: list[str] = []
        self._records: list[tuple[str, _Shape, str | None]] = []  # the name is set only in a union
        self._arrays: list[tuple[str, _Shape]] = []
        for field in schema["fields"]:
            self._add(field["name"], field["type"], named)

    def _add(self, name: str, kind: Any, named: dict[str, _Shape]) -> None:
        in_union = isinstance(kind, list)
        if in_union:
            kind = kind[1]
        if isinstance(kind, dict) and kind["type"] == "array":
            self._arrays.append((name, _shape_of(kind["items"], named)))
        elif kind == "int":
            self._ints.append(name)
        elif kind in named if isinstance(kind, str) else kind["type"] == "record":
            tag = (kind if isinstance(kind, str) else kind["name"]) if in_union else None
            self._records.append((name, _shape_of(kind, named), tag))

    def prepare(self, fields: dict[str, Any]) -> None:
        """Adjust `fields` for fastavro. Raises `OverflowError`."""
        for name in self._ints:
            number = fields.get(name)
            if number is not None and not _INT_MIN <= number <= _INT_MAX:
                raise OverflowError(f"int out of range on field {name}")
        for name, shape, tag in self._records:
            record = fields.get(name)
            if record is not None:
                shape.prepare(record)
                if tag is not None:
                    fields[name] = (tag, record)
        for name, shape in self._arrays:
            items = fields.get(name)
            if items is not None:
                for item in items:
                    shape.prepare(item)
                fields[name] = list(items)


def _shape_of(kind: Any, named: dict[str, _Shape]) -> _Shape:
    return named[kind] if isinstance(kind, str) else _Shape(kind, named)


def link_of(data: bytes) -> bytes:
    """The `prev_hash` of the next event of the partition: the hash of this value's Avro body."""
    return body_hash(data[PREFIX_BYTES:])


@cache
def event_codec() -> Codec[OrderEvent]:
    """The codec of `order-events`."""
    return Codec(OrderEvent, versions_of(EVENTS))


@cache
def refusal_codec() -> Codec[OrderRefusal]:
    """The codec of `order-refusals`."""
    return Codec(OrderRefusal, versions_of(REFUSALS))


@cache
def contact_codec() -> Codec[OrderContact]:
    """The codec of `order-contacts`."""
    return Codec(OrderContact, versions_of(CONTACTS))


@cache
def audit_codec() -> Codec[AuditRecord]:
    """The codec of `order-audit`."""
    return Codec(AuditRecord, versions_of(AUDIT))


# Built here, while a single thread imports this: see `Codec`.
event_codec(), refusal_codec(), contact_codec(), audit_codec()
