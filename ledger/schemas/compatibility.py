"""Can every version of a schema read what every other version wrote? FULL_TRANSITIVE, without a registry.

Apache Avro's own checker is the judge. It says that two schemas do not fit, but inside a nullable record, where nearly all of
an event lives, not why: the walk here asks it again level by level until the field is named. The only importer of avro.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, permutations

from avro.compatibility import (
    ReaderWriterCompatibilityChecker,
    SchemaCompatibilityType,
    lookup_writer_field,
    schema_name_equals,
)
from avro.errors import AvroException
from avro.name import Names
from avro.schema import ArraySchema, MapSchema, NamedSchema, RecordSchema, Schema, UnionSchema, make_avsc_object

from ledger.errors import ConfigError
from ledger.schemas.versions import SchemaVersion

Pairs = frozenset[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One reason why a version of `subject` cannot read another: `field` as a path, empty for the record as a whole."""

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
    """Compare all versions of each subject, each pair in both directions. Empty when everything fits.

    Raises `ConfigError` naming the version that is no Avro schema, or has a default that no reader could use.
    """
    found: list[Incompatibility] = []
    by_subject = sorted(schemas, key=lambda s: (s.topic, s.version))
    for _, versions in groupby(by_subject, key=lambda s: s.topic):
        parsed = [(version, _parse(version)) for version in versions]
        for (reader, reader_schema), (writer, writer_schema) in permutations(parsed, 2):
            reasons = dict.fromkeys(_reasons(reader_schema, writer_schema, ""))
            found += [Incompatibility(reader.subject(), reader.version, writer.version, *reason) for reason in reasons]
    return found


def _parse(version: SchemaVersion) -> Schema:
    names = Names()
    name = f"{version.subject()} version {version.version}"
    try:
        schema = make_avsc_object(version.parsed, names)
    except AvroException as exc:
        raise ConfigError(f"{name} is not an Avro schema: {exc}") from exc
    for record in names.names.values():
        for field in record.fields if isinstance(record, RecordSchema) else ():
            if field.has_default and not _is_default(field.type, field.default):
                raise ConfigError(f"{name}: the default of {record.name}.{field.name} does not fit its type")
    return schema


def _is_default(schema: Schema, default: object) -> bool:
    """A union's default belongs to its first branch: Avro 1.12 allows any, the readers that are older do not."""
    first = _branches(schema)[0]
    value = default.encode("latin-1") if isinstance(default, str) and first.type in ("bytes", "fixed") else default
    return first.validate(value) is not None


def _judge(reader: Schema, writer: Schema) -> str | None:
    """What the checker has against `reader` reading `writer`; None when it can."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    verdict = checker.get_compatibility(reader, writer)
    if verdict.compatibility is SchemaCompatibilityType.compatible:
        return None
    kinds = ", ".join(sorted({kind.value.replace("_", " ") for kind in verdict.incompatibilities}))
    return f"{kinds} ({'; '.join(sorted(verdict.messages))})"


def _reasons(reader: Schema, writer: Schema, path: str, seen: Pairs = frozenset()) -> Iterator[tuple[str, str]]:
    """(field, reason) of everything that keeps `reader` from reading `writer`. `path` is where both stand, `seen` the records
    on the way there: a record inside itself is looked at once."""
    pair = (id(reader), id(writer))
    verdict = _judge(reader, writer)
    if verdict is None or pair in seen:
        return
    inner = list(_inner_reasons(reader, writer, path, seen | {pair}))
    yield from inner or [(path, verdict)]


def _inner_reasons(reader: Schema, writer: Schema, path: str, seen: Pairs) -> Iterator[tuple[str, str]]:
    """The reasons one level deeper; none when there is no deeper level."""
    if isinstance(writer, UnionSchema) or isinstance(reader, UnionSchema):
        for branch in _branches(writer):
            if _judge(reader, branch) is None:
                continue
            counterpart = next((known for known in _branches(reader) if _same_name(known, branch)), None)
            if counterpart is None:
                yield path, f"{_name(branch)} may be written, but the reader does not know it"
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
    """May `reader` be the schema that is meant for `writer`? Avro's rule: the same type, and for named ones the same name."""
    if isinstance(reader, NamedSchema) and isinstance(writer, NamedSchema):
        return bool(reader.type == writer.type and schema_name_equals(reader, writer))
    return bool(reader.type == writer.type)


def _name(schema: Schema) -> str:
    return str(schema.fullname) if isinstance(schema, NamedSchema) else str(schema.type)
