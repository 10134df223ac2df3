"""Checks that every version of a schema can read every other version: FULL_TRANSITIVE, without a registry.

Uses Apache Avro's own checker. It says that two schemas are incompatible, but not why inside a nullable record, which is nearly
all of an event: so it is called again level by level until the field is known. The only importer of avro.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice, permutations

from avro.compatibility import (
    ReaderWriterCompatibilityChecker,
    SchemaCompatibilityType,
    lookup_writer_field,
    schema_name_equals,
)
from avro.errors import AvroException, IgnoredLogicalType
from avro.name import Names
from avro.schema import ArraySchema, MapSchema, NamedSchema, RecordSchema, Schema, UnionSchema, make_avsc_object

from ledger.errors import ConfigError
from ledger.schemas.versions import SchemaVersion

Pairs = frozenset[tuple[int, int]]
Parsed = tuple[SchemaVersion, Schema]
MAX_REASONS = 100  # in a comparison that anybody may ask for

# What Avro's parser raises for JSON that is no schema, besides its own errors.
_NO_SCHEMA = (AvroException, AttributeError, KeyError, TypeError, ValueError, RecursionError)
_parsing = threading.Lock()  # `warnings.catch_warnings` is for one thread at a time


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One reason why a version of `subject` cannot read another one. `field` is a path, empty for the whole record."""

    subject: str
    reader_version: int
    writer_version: int
    field: str
    reason: str

    def __str__(self) -> str:
        where = f"field {self.field}" if self.field else "the record"
        direction = "backward" if self.reader_version > self.writer_version else "forward"
        return (
            f"{self.subject}: version {self.reader_version} cannot read what version {self.writer_version} wrote "
            f"({direction}): {where}: {self.reason}"
        )


def check_compatible(schemas: Iterable[SchemaVersion]) -> list[Incompatibility]:
    """Compare all versions of each subject, each pair in both directions. Empty if all are compatible.

    Raises `ConfigError` naming a version that is not an Avro schema, or has an unusable default.
    """
    problems: list[Incompatibility] = []
    by_subject = sorted(schemas, key=lambda s: (s.topic, s.version))
    for _, versions in groupby(by_subject, key=lambda s: s.topic):
        parsed = [(version, _parse(version)) for version in versions]
        for reader, writer in permutations(parsed, 2):
            problems += _incompatibilities(reader, writer)
    return problems


def compare(candidate: SchemaVersion, released: Iterable[SchemaVersion]) -> list[Incompatibility]:
    """Reasons why `candidate` cannot be a version beside each of `released`: one cannot read what the other wrote.

    For a schema of any origin: after `MAX_REASONS` the search ends. Raises `ConfigError` if it is not an Avro schema, or has an
    unusable default.
    """
    new = (candidate, _parse(candidate))
    try:
        old = [(version, _parse(version)) for version in released]
        pairs = [pair for version in old for pair in ((new, version), (version, new))]
        problems = list(islice(chain.from_iterable(_incompatibilities(*pair) for pair in pairs), MAX_REASONS))
    except (AvroException, RecursionError) as exc:  # a kind of schema that cannot be compared, such as `error_union`
        raise ConfigError(f"{candidate.subject()} version {candidate.version} cannot be compared: {exc}") from exc
    return problems


def same_schema(text: str, released: SchemaVersion) -> bool:
    """Whether `text` is the schema of `released`; white space, the order of members and other spellings do not matter.

    Raises `ConfigError` like `compare`.
    """
    asked = SchemaVersion(released.topic, released.version, text)
    schema = _parse(asked)
    try:
        return asked.parsed == released.parsed or json.loads(str(schema)) == json.loads(str(_parse(released)))
    except RecursionError as exc:
        raise ConfigError(f"{released.subject()}: the schema is nested too deeply") from exc


def _incompatibilities(reader: Parsed, writer: Parsed) -> Iterator[Incompatibility]:
    """Reasons why `reader` cannot read what `writer` wrote, each once."""
    known: set[tuple[str, str]] = set()
    for reason in _reasons(reader[1], writer[1], ""):
        if reason not in known:
            known.add(reason)
            yield Incompatibility(reader[0].subject(), reader[0].version, writer[0].version, *reason)


def _parse(version: SchemaVersion) -> Schema:
    names = Names()
    name = f"{version.subject()} version {version.version}"
    try:
        with _parsing, warnings.catch_warnings():
            warnings.simplefilter("ignore", IgnoredLogicalType)  # a reader ignores what it does not know
            schema = make_avsc_object(version.parsed, names)
    except _NO_SCHEMA as exc:
        raise ConfigError(f"{name} is not an Avro schema: {exc}") from exc
    for record in names.names.values():
        for field in record.fields if isinstance(record, RecordSchema) else ():
            if field.has_default and not _is_default(field.type, field.default):
                raise ConfigError(f"{name}: the default of {record.name}.{field.name} does not match its type")
    return schema


def _is_default(schema: Schema, default: object) -> bool:
    """Whether `default` is valid. A union's default must match its first branch: older readers than Avro 1.12 require it."""
    first = next(iter(_branches(schema)), None)
    if first is None:  # an empty union has no values
        return False
    value: object = default
    if isinstance(default, str) and first.type in ("bytes", "fixed"):  # its characters are bytes
        try:
            value = default.encode("latin-1")
        except UnicodeEncodeError:
            return False
    return first.validate(value) is not None


def _judge(reader: Schema, writer: Schema) -> str | None:
    """Why `reader` cannot read `writer` according to the checker; None if it can."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    verdict = checker.get_compatibility(reader, writer)
    if verdict.compatibility is SchemaCompatibilityType.compatible:
        return None
    kinds = ", ".join(sorted({kind.value.replace("_", " ") for kind in verdict.incompatibilities}))
    return f"{kinds} ({'; '.join(sorted(verdict.messages))})"


def _reasons(reader: Schema, writer: Schema, path: str, seen: Pairs = frozenset()) -> Iterator[tuple[str, str]]:
    """(field, reason) of everything that prevents `reader` from reading `writer`.

    `path` is the current field, `seen` the records that contain it: a record within itself is checked once.
    """
    pair = (id(reader), id(writer))
    verdict = _judge(reader, writer)
    if verdict is None or pair in seen:
        return
    inner = _inner_reasons(reader, writer, path, seen | {pair})
    first = next(inner, None)
    yield first or (path, verdict)
    yield from inner


def _inner_reasons(reader: Schema, writer: Schema, path: str, seen: Pairs) -> Iterator[tuple[str, str]]:
    """The reasons one level deeper, if there is one."""
    if isinstance(writer, UnionSchema) or isinstance(reader, UnionSchema):
        for branch in _branches(writer):
            if _judge(reader, branch) is None:
                continue
            counterpart = next((known for known in _branches(reader) if _same_name(known, branch)), None)
            if counterpart is None:
                yield path, f"{_name(branch)} may be written, but the reader does not have it"
            else:
                yield from _reasons(counterpart, branch, path, seen)
    elif isinstance(reader, RecordSchema) and isinstance(writer, RecordSchema):
        yield from _field_reasons(reader, writer, path, seen)
    elif isinstance(reader, ArraySchema) and isinstance(writer, ArraySchema):
        yield from _reasons(reader.items, writer.items, f"{path}[]", seen)
    elif isinstance(reader, MapSchema) and isinstance(writer, MapSchema):
        yield from _reasons(reader.values, writer.values, f"{path}{{}}", seen)


def _field_reasons(reader: RecordSchema, writer: RecordSchema, path: str, seen: Pairs) -> Iterator[tuple[str, str]]:
    if not _same_name(reader, writer):
        yield path, f"record {_name(writer)} is written, but the reader calls it {_name(reader)}"
    for field in reader.fields:
        inner = f"{path}.{field.name}" if path else field.name
        written = lookup_writer_field(writer_schema=writer, reader_field=field)
        if written is not None:
            yield from _reasons(field.type, written.type, inner, seen)
        elif not field.has_default:
            yield inner, "it is not written, and the reader has no default for it"


def _branches(schema: Schema) -> list[Schema]:
    return list(schema.schemas) if isinstance(schema, UnionSchema) else [schema]


def _same_name(reader: Schema, writer: Schema) -> bool:
    """Whether `reader` corresponds to `writer`. Avro's rule: the same type, and the same name if it has one."""
    if isinstance(reader, NamedSchema) and isinstance(writer, NamedSchema):
        return bool(reader.type == writer.type and schema_name_equals(reader, writer))
    return bool(reader.type == writer.type)


def _name(schema: Schema) -> str:
    return str(schema.fullname) if isinstance(schema, NamedSchema) else str(schema.type)
