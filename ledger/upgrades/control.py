"""Reads and writes `order-control`, the topic in which the programs of one ledger know of each other (`records`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from ledger.errors import LogError, LogUnavailable
from ledger.log import Acked, EventLog, NewRecord, Record, Sender, TopicPartition
from ledger.reading import committed_within
from ledger.schemas.versions import SchemaVersion
from ledger.topics import Topics
from ledger.upgrades.records import View, node_key

READ_S = 30.0  # the topic has a few thousand small records
WRITE_S = 10.0  # longer than a sender waits for one record


def schemas_in(event_log: EventLog, topics: Topics) -> dict[int, SchemaVersion]:
    """The schemas that programs of this ledger have published, by id; none if it has no control topic. Raises `LogError`."""
    control = Control(event_log, topics)
    return dict(control.read(View()).schemas) if control.exists() else {}


class Readable(Protocol):
    """What records of the topic say. `position` is the next offset to read."""

    position: int

    def apply(self, records: Iterable[Record]) -> None:
        """Apply records in their order."""


V = TypeVar("V", bound=Readable)


class Control:
    """The control topic of one ledger. For one thread at a time; `close` releases its sender."""

    def __init__(self, event_log: EventLog, topics: Topics) -> None:
        self._log, self._topic = event_log, topics.control
        self.partition = TopicPartition(topics.control, 0)
        self._sender: Sender | None = None

    def exists(self) -> bool:
        """Whether the topic exists: a ledger of the first commits has none. Raises `LogUnavailable`."""
        try:
            self._log.partitions(self._topic)
        except LogUnavailable:
            raise
        except LogError:
            return False
        return True

    def read(self, view: V) -> V:
        """Apply everything that is in the topic now to `view`. Raises `LogError`."""
        start, end = self._log.starts([self.partition])[self.partition], self._log.ends([self.partition])[self.partition]
        if view.position >= end:
            return view
        reader = self._log.reader("control", eof=True, max_wait_ms=10)
        try:
            view.apply(committed_within(reader, {self.partition: max(view.position, start)}, {self.partition: end}, READ_S))
        finally:
            reader.close()
        view.position = max(view.position, end)  # compaction leaves gaps, also at the end
        return view

    def read_now(self, view: View) -> View:
        """`read` at the log's present time, which stands still while nobody writes, if a node seems to run. Raises `LogError`."""
        if self.read(view).live():
            self.write([(node_key("verb", "clock"), None)])  # a deletion of nothing
            self.read(view)
        return view

    def write(self, records: Iterable[tuple[bytes, bytes | None]], wait_s: float = WRITE_S) -> None:
        """Write (key, value) pairs; they are durable when this returns. Raises `LogError`."""
        if self._sender is None:
            self._sender = self._log.sender("control")
        errors: list[LogError] = []

        def answered(_acked: Acked | None, error: LogError | None) -> None:
            if error is not None:
                errors.append(error)

        for key, value in records:
            self._sender.send(NewRecord(self._topic, 0, key, value), answered)
        if self._sender.flush(wait_s):
            raise LogUnavailable(f"{self._topic}: not acknowledged within {wait_s:.0f} s")
        if errors:
            raise errors[0]

    def close(self) -> None:
        """Wait for what is under way, and release the sender."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None
