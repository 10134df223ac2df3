"""A log whose readers know the schema of every record that they return, also those of later programs.

A program publishes its schemas before it writes with them (`membership`). So when a reader meets an id that is not known here, it
reads the control topic to its end: the schema is there, or the record is not from any program. That happens where records are
polled, on a thread that may block, before anybody decodes them.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, cast

import structlog

from ledger.errors import LogError, LogUnavailable
from ledger.log import EventLog, Isolation, Reader, Record, TopicPartition
from ledger.schemas.of_the_ledger import learn
from ledger.schemas.versions import schema_versions
from ledger.topics import Topics
from ledger.upgrades.control import Control
from ledger.upgrades.records import View

PREFIX_BYTES = 5
MOST_UNKNOWN = 10_000  # ids of junk, of which there may be any number

log = structlog.get_logger(__name__)


def resolving(event_log: EventLog, topics: Topics) -> EventLog:
    """`event_log` with readers that look up unknown schemas. Everything else is passed through."""
    return cast("EventLog", _ResolvingLog(event_log, topics))


class _Resolver:
    """Which ids need no look-up, and the look-up. Thread-safe."""

    def __init__(self, event_log: EventLog, topics: Topics) -> None:
        self._control, self._view, self._lock = Control(event_log, topics), View(), threading.Lock()
        self._own = frozenset(b"\0" + schema.id.to_bytes(4, "big") for schema in schema_versions())
        self.settled = set(self._own)  # prefixes of values: known, or looked up in vain

    def resolve(self, prefix: bytes) -> None:
        """Learn the schema of `prefix` if it was published. Raises `LogUnavailable`."""
        with self._lock:
            if prefix in self.settled:
                return
            try:
                schemas = self._control.read(self._view).schemas if self._control.exists() else {}
            except LogUnavailable:
                raise
            except LogError as exc:  # not allowed, for example: then nobody can resolve anything here
                log.error("schemas of later programs cannot be looked up", why=str(exc))
                schemas = {}
            for schema in schemas.values():
                learn(schema)
            if len(self.settled) > MOST_UNKNOWN:
                self.settled = set(self._own)
            self.settled.add(prefix)


class _ResolvingLog:
    def __init__(self, event_log: EventLog, topics: Topics) -> None:
        self._log, self._resolver = event_log, _Resolver(event_log, topics)
        self.partition_for = event_log.partition_for  # asked several times for each request: not by `__getattr__`

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(
        self,
        name: str,
        *,
        isolation: Isolation = "read_committed",
        eof: bool = False,
        max_wait_ms: int = 100,
        headers: bool = False,
    ) -> Reader:
        reader = self._log.reader(name, isolation=isolation, eof=eof, max_wait_ms=max_wait_ms, headers=headers)
        return _ResolvingReader(reader, self._resolver)


class _ResolvingReader:
    """`ledger.log.Reader`. A look-up that fails loses no record: the next `poll` repeats it."""

    def __init__(self, reader: Reader, resolver: _Resolver) -> None:
        self._reader, self._resolver = reader, resolver
        self._waiting: list[Record] = []
        self.reached_end, self.silent_s, self.close = reader.reached_end, reader.silent_s, reader.close

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._waiting = []
        self._reader.assign(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        records, self._waiting = self._waiting or self._reader.poll(max_records, timeout_s), []
        settled = self._resolver.settled
        for record in records:
            value = record.value
            if value is None or value[:PREFIX_BYTES] in settled:
                continue
            if value[:1] == b"\0" and len(value) >= PREFIX_BYTES:
                try:
                    self._resolver.resolve(value[:PREFIX_BYTES])
                except LogUnavailable:
                    self._waiting = records
                    raise
                settled = self._resolver.settled
        return records
