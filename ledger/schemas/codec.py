"""Record value <-> bytes: the Confluent wire format around an Avro body.

Byte 0 is 0, then a 4-byte big-endian schema id, then the Avro body. For every input, a decoder returns a value or raises
`DecodeError`. Inputs that fastavro would accept or crash on are checked here: schema ids come from an allow-list, the size is
limited before anything is read, every byte must be used, and the schemas have neither recursion nor array items of zero bytes
(`tests/unit/test_schemas.py`), so the cost of junk is bounded by its length. The same holds for schemas of later programs, which
are learned while the process runs (`of_the_ledger`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from typing import Any, Generic, NamedTuple, TypeVar

import fastavro
import msgspec
from fastavro.types import Schema

from ledger.audit import AuditRecord
from ledger.contacts import OrderContact
from ledger.envelope import body_hash
from ledger.errors import DecodeError, EncodeError, TooNew
from ledger.events import OrderEvent, OrderRefusal
from ledger.levels import LEVEL, level_of_schema, level_of_word
from ledger.schemas.of_the_ledger import later_schema, level_in_use
from ledger.schemas.versions import AUDIT, CONTACTS, EVENTS, REFUSALS, SchemaVersion, versions_of
from ledger.topics import MAX_RECORD_BYTES

T = TypeVar("T", bound=msgspec.Struct)
_PREFIX = struct.Struct(">bI")
PREFIX_BYTES = _PREFIX.size
_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


class _Writing(NamedTuple):
    """How values are written at one feature level."""

    level: int
    id: int
    prefix: bytes
    schema: Schema
    shape: _Shape


class Codec(Generic[T]):
    """Encodes with the newest schema of a topic that the level in use allows, decodes every known one. Thread-safe."""

    def __init__(
        self, kind: type[T], schemas: Iterable[SchemaVersion], max_bytes: int = MAX_RECORD_BYTES, word: str = ""
    ) -> None:
        """`schemas`: oldest first, at least one; `kind` has the fields of the newest schema.

        `word`: the field with the type of an event or the operation of a command, whose values belong to feature levels.
        """
        self._kind, self._word = kind, word
        # msgspec 0.22 inspects a type at its first use, and two threads that do so simultaneously crash the process. From here
        # on it knows `kind` and all nested types.
        msgspec.msgpack.Decoder(kind)
        self._max_bytes = max_bytes
        self._writers: dict[int, Schema] = {}
        self._versions = list(schemas)
        for version in self._versions:
            self._writers[version.id] = fastavro.parse_schema(version.parsed)
        self._topic = version.topic
        self._newest = self._writers[version.id]
        self._prefix = _PREFIX.pack(0, version.id)
        self._writing = self._at_level(level_in_use())
        # `to_builtins` may leave these out (omit_defaults), and Avro has a default for nullable fields only.
        self._defaults = {f.name: f.default for f in msgspec.structs.fields(kind) if isinstance(f.default, str)}

    @property
    def schema_id(self) -> int:
        """Id of the schema used by `encode`."""
        return self._write_now().id

    def _at_level(self, level: int) -> _Writing:
        version = max((v for v in self._versions if level_of_schema(v.topic, v.version) <= level), key=lambda v: v.version)
        schema = self._writers[version.id]
        shape = _Shape(schema, {}, refuse_others=version is not self._versions[-1])
        return _Writing(level, version.id, _PREFIX.pack(0, version.id), schema, shape)

    def _write_now(self) -> _Writing:
        if self._writing.level != level_in_use():
            self._writing = self._at_level(level_in_use())
        return self._writing

    def encode(self, value: T) -> bytes:
        """Bytes of `value`. Raises `EncodeError` if it violates the schema, the bounds or the size limit; never repeats it.

        Checking the bounds ensures that it can be decoded: sums of values within them may be outside. Raises `TooNew` if the
        level in use does not allow it.
        """
        out, writing = BytesIO(), self._write_now()
        if writing.level < LEVEL and self._word and level_of_word(word := getattr(value, self._word)) > writing.level:
            raise TooNew(f"{self._kind.__name__} {word} needs feature level {level_of_word(word)}, {writing.level} is in use")
        out.write(writing.prefix)
        try:
            fields = {**self._defaults, **msgspec.to_builtins(value, builtin_types=(bytes,))}
            msgspec.convert(fields, self._kind)
            writing.shape.prepare(fields)
            fastavro.schemaless_writer(out, writing.schema, fields)
        except TooNew as exc:
            raise TooNew(
                f"{self._kind.__name__} {exc} needs a later feature level than {writing.level}, which is in use"
            ) from None
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
            if (later := later_schema(self._topic, schema_id)) is None:
                raise DecodeError("unknown_schema_id", str(schema_id))
            writer = self._writers[schema_id] = fastavro.parse_schema(later.parsed)
        return writer


class _Shape:
    """Prepares one record of a schema for fastavro.

    A record in a union must be named, or fastavro first validates it against each branch (half the time of an event). It would
    take a tuple in a union for such a name, so arrays become lists. It would also write an `int` beyond 32 bits, which no other
    reader could read.

    With `refuse_others`, a value of a field that the schema does not have is refused: fastavro would leave it out.
    """

    def __init__(self, schema: Any, named: dict[str, _Shape], refuse_others: bool = False) -> None:
        named[schema["name"]] = self
        self._only = {field["name"] for field in schema["fields"]} if refuse_others else None
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
            self._arrays.append((name, self._shape_of(kind["items"], named)))
        elif kind == "int":
            self._ints.append(name)
        elif kind in named if isinstance(kind, str) else kind["type"] == "record":
            tag = (kind if isinstance(kind, str) else kind["name"]) if in_union else None
            self._records.append((name, self._shape_of(kind, named), tag))

    def _shape_of(self, kind: Any, named: dict[str, _Shape]) -> _Shape:
        return named[kind] if isinstance(kind, str) else _Shape(kind, named, self._only is not None)

    def prepare(self, fields: dict[str, Any]) -> None:
        """Adjust `fields` for fastavro. Raises `OverflowError`, `TooNew`."""
        if self._only is not None:
            for name in fields.keys() - self._only:
                if fields[name] not in (None, (), [], ""):
                    raise TooNew(f"with {name}")
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


def link_of(data: bytes) -> bytes:
    """The `prev_hash` of the next event of the partition: the hash of this value's Avro body."""
    return body_hash(data[PREFIX_BYTES:])


@cache
def event_codec() -> Codec[OrderEvent]:
    """The codec of `order-events`."""
    return Codec(OrderEvent, versions_of(EVENTS), word="type")


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
