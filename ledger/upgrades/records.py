"""The records of `order-control`, and what they say together. Pure.

    key                    value (JSON; a member that a reader does not know is ignored)
    schema/<id>            {"topic", "version", "schema"}: of a topic (name without prefix), `schema` as text
    node/<kind>/<name>     {"level", "program"}: a running `commands` or `serve`, repeated every minute; deleted at its stop
    level                  {"level", "program"}: the feature level in use, and which program raised it
    moved                  {"prefix", "partitions"}: the ledger was copied to other topics, and this one is closed

JSON, because whoever reads an Avro record needs its schema first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from ledger.durations import MINUTE_MS
from ledger.levels import FIRST
from ledger.log import Record
from ledger.schemas.versions import SchemaVersion, published

ANNOUNCE_EVERY_MS = MINUTE_MS
# Five announcements are missing: the node was killed, or has been unreachable for so long that it no longer takes part.
LIVES_MS = 5 * ANNOUNCE_EVERY_MS
LEVEL_KEY, SCHEMA, NODE, MOVED_KEY = b"level", b"schema/", b"node/", b"moved"
# Above every level: programs that do not know the record `moved` refuse a closed ledger, too.
CLOSED_LEVEL = 1_000_000


class Published(Struct, frozen=True):
    """A schema as it is in the topic."""

    topic: str
    version: int
    schema: str


class Announced(Struct, frozen=True):
    """A node, or the level in use: a level, and the version of the program that says so."""

    level: int
    program: str


class Moved(Struct, frozen=True):
    """Where the ledger is now: the prefix of its topics, and how many partitions it has there."""

    prefix: str
    partitions: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node that announced itself. `at_ms`: when it last did, by the log's clock."""

    name: str
    level: int
    program: str
    at_ms: int


_encode = msgspec.json.Encoder().encode
_decode_moved = msgspec.json.Decoder(Moved).decode
_decode_published, _decode_announced = msgspec.json.Decoder(Published).decode, msgspec.json.Decoder(Announced).decode


def schema_record(schema: SchemaVersion) -> tuple[bytes, bytes]:
    """Key and value that publish a schema."""
    return SCHEMA + b"%d" % schema.id, _encode(Published(schema.topic, schema.version, schema.text))


def node_key(kind: str, name: str) -> bytes:
    """Key of a node; `kind` is `commands` or `serve`."""
    return NODE + f"{kind}/{name}".encode()


def announcement(level: int, program: str) -> bytes:
    """Value of a node, or of the level in use."""
    return _encode(Announced(level, program))


def moved_records(moved: Moved, program: str) -> list[tuple[bytes, bytes]]:
    """Keys and values that close a ledger for good."""
    return [(MOVED_KEY, _encode(moved)), (LEVEL_KEY, announcement(CLOSED_LEVEL, program))]


@dataclass(slots=True)
class View:
    """What the records up to `position` say. `faults`: of records that are not understood."""

    position: int = 0
    level: int = FIRST
    raised_by: str = ""
    now_ms: int = 0  # time of the newest record, by the log's clock
    schemas: dict[int, SchemaVersion] = field(default_factory=dict)
    nodes: dict[bytes, Node] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    moved: Moved | None = None

    def apply(self, records: Iterable[Record]) -> None:
        """Apply records in their order. One that is not understood changes nothing."""
        for record in records:
            self.position, self.now_ms = record.offset + 1, max(self.now_ms, record.timestamp_ms)
            try:
                self._apply(record.key or b"", record)
            except ValueError as exc:  # msgspec's errors are ValueErrors, too
                self.faults.append(f"offset {record.offset}: {exc}")

    def _apply(self, key: bytes, record: Record) -> None:
        if record.value is None:
            self.nodes.pop(key, None)  # nothing else is ever deleted
        elif key == LEVEL_KEY:
            raised = _decode_announced(record.value)
            if raised.level > self.level:  # it is never lowered: records of that level are in the log
                self.level, self.raised_by = raised.level, raised.program
        elif key == MOVED_KEY:
            self.moved = _decode_moved(record.value)
        elif key.startswith(NODE):
            node = _decode_announced(record.value)
            self.nodes[key] = Node(key[len(NODE) :].decode(), node.level, node.program, record.timestamp_ms)
        elif key.startswith(SCHEMA):
            one, identity = _decode_published(record.value), int(key[len(SCHEMA) :])
            self.schemas[identity] = published(one.topic, one.version, one.schema, identity)

    def live(self) -> list[Node]:
        """The nodes that are running, by name: those that announced themselves within `LIVES_MS` before the newest record."""
        alive = (node for node in self.nodes.values() if self.now_ms - node.at_ms <= LIVES_MS)
        return sorted(alive, key=lambda node: node.name)

    def names_of_live(self) -> str:
        """Their names, as text; empty if none runs."""
        return ", ".join(node.name for node in self.live())

    def too_old_for(self, level: int) -> list[Node]:
        """Running nodes that could not read records of `level`."""
        return [node for node in self.live() if node.level < level]
