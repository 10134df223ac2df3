"""Both adapters of the EventLog behind one interface, with what a test must do behind the port's back."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

import pytest
from confluent_kafka import Producer
from confluent_kafka import TopicPartition as KafkaTopicPartition
from confluent_kafka.admin import AdminClient

from ledger.errors import LogError
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Acked, EventLog, Isolation, NewRecord, Reader, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import Topics, TopicSpec
from tests.support.hanging import leave_hanging
from tests.support.patience import PATIENCE_S


class Backstage(Protocol):
    """What no method of the port does: a crash in the middle of a transaction, retention, a topic deleted and created again."""

    log: EventLog

    def leave_open(self, transactional_id: str, records: Sequence[NewRecord]) -> None: ...

    def leave_hanging(self, transactional_id: str, records: Sequence[NewRecord]) -> None: ...

    def truncate(self, tp: TopicPartition, before: int) -> None: ...

    def recreate(self, spec: TopicSpec) -> None: ...


class MemoryBackstage:
    def __init__(self) -> None:
        self.log: MemoryLog = MemoryLog()

    def leave_open(self, transactional_id: str, records: Sequence[NewRecord]) -> None:
        writer = self.log.writer(transactional_id)
        writer.start(PATIENCE_S)
        self.log.fail_next_commit("before")
        with pytest.raises(Exception, match="which was not done"):
            writer.transact(records)

    def leave_hanging(self, transactional_id: str, records: Sequence[NewRecord]) -> None:
        self.log.lose_marker(TopicPartition(records[0].topic, records[0].partition))
        writer = self.log.writer(transactional_id)
        writer.start(PATIENCE_S)
        writer.transact(records)

    def truncate(self, tp: TopicPartition, before: int) -> None:
        self.log.truncate(tp, before)

    def recreate(self, spec: TopicSpec) -> None:
        self.log.recreate(spec.name)


class KafkaBackstage:
    def __init__(self, settings: KafkaSettings) -> None:
        self.log: KafkaLog = KafkaLog(settings)
        self._settings = settings
        self._config = settings.client_config()
        self._crashed: list[Producer] = []  # kept until the test ends: collecting one would not abort its transaction either

    def leave_open(self, transactional_id: str, records: Sequence[NewRecord]) -> None:
        producer = Producer(self._config | {"transactional.id": transactional_id, "log_level": 0})
        producer.init_transactions(PATIENCE_S)
        producer.begin_transaction()
        for record in records:
            producer.produce(record.topic, record.value, record.key, record.partition)
        assert producer.flush(PATIENCE_S) == 0
        self._crashed.append(producer)

    def leave_hanging(self, transactional_id: str, records: Sequence[NewRecord]) -> None:
        writer = self.log.writer(transactional_id)
        writer.start(PATIENCE_S)
        writer.close()
        leave_hanging(self._settings, transactional_id, records)

    def truncate(self, tp: TopicPartition, before: int) -> None:
        admin = AdminClient(self._config)
        for future in admin.delete_records([KafkaTopicPartition(tp.topic, tp.partition, before)]).values():
            future.result(PATIENCE_S)

    def recreate(self, spec: TopicSpec) -> None:
        admin = AdminClient(self._config)
        for future in admin.delete_topics([spec.name], operation_timeout=PATIENCE_S).values():
            future.result(PATIENCE_S)
        deadline = time.monotonic() + PATIENCE_S
        while spec.name in admin.list_topics(timeout=PATIENCE_S).topics:
            assert time.monotonic() < deadline, f"{spec.name} is still there"
            time.sleep(0.05)
        self.log.ensure_topics([spec], PATIENCE_S)


class Stage:
    """One test's log: fresh topics and ids, and the writes and reads that every test makes."""

    def __init__(self, backstage: Backstage, topics: Topics) -> None:
        self.backstage = backstage
        self.log = backstage.log
        self._prefix = topics.prefix
        self._numbers = itertools.count(1)
        self._readers: list[Reader] = []

    def name(self, word: str) -> str:
        return f"{self._prefix}{word}-{next(self._numbers)}"

    def topic(self, partitions: int = 1, **settings: str) -> str:
        name = self.name("topic")
        kept = {"retention.ms": "-1"}  # many tests write records with old timestamps
        spec = TopicSpec(name, partitions, kept | {key.replace("_", "."): value for key, value in settings.items()})
        assert self.log.ensure_topics([spec], PATIENCE_S) == [name]
        return name

    def transact(self, *records: NewRecord) -> dict[TopicPartition, int]:
        """`records` in one transaction of a writer of its own."""
        writer = self.log.writer(self.name("writer"))
        writer.start(PATIENCE_S)
        try:
            positions = dict(writer.transact(records))
            self._wait_for_markers(positions)
            return positions
        finally:
            writer.close()

    def reader(
        self,
        positions: dict[TopicPartition, int],
        isolation: Isolation = "read_committed",
        eof: bool = False,
        max_wait_ms: int = 100,
        headers: bool = False,
    ) -> Reader:
        name = self.name("reader")
        reader = self.log.reader(name, isolation=isolation, eof=eof, max_wait_ms=max_wait_ms, headers=headers)
        self._readers.append(reader)
        reader.assign(positions)
        return reader

    def read_to_end(
        self, positions: dict[TopicPartition, int], isolation: Isolation = "read_committed", headers: bool = False
    ) -> list[Record]:
        """Everything from `positions` to the end of each partition."""
        self._wait_for_markers(positions)
        reader = self.reader(positions, isolation, eof=True, headers=headers)
        records: list[Record] = []
        deadline = time.monotonic() + PATIENCE_S
        while set(reader.reached_end()) != set(positions):
            assert time.monotonic() < deadline, f"the end was not reached: {reader.reached_end()}"
            records += reader.poll(100, 0.5)
        return records

    def ends(self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed") -> dict[TopicPartition, int]:
        """`EventLog.ends`, with the patience of a test."""
        return self.log.ends(partitions, isolation, PATIENCE_S)

    def _wait_for_markers(self, partitions: Iterable[TopicPartition]) -> None:
        """A transaction has ended once its coordinator knows; its partitions get the marker a little later."""
        deadline = time.monotonic() + PATIENCE_S
        while self.ends(partitions) != self.ends(partitions, "read_uncommitted"):
            states = {one.state for one in self.log.open_transactions(partitions, PATIENCE_S)}
            if states and not states & {"PrepareCommit", "PrepareAbort"}:
                return  # the test left a transaction open
            assert time.monotonic() < deadline, states
            time.sleep(0.01)

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


# ---- records --------------------------------------------------------------------------------------------------------


def records(topic: str, partition: int, *values: str) -> list[NewRecord]:
    return [NewRecord(topic, partition, b"key", value.encode()) for value in values]


def values(read: list[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in read]


def poll_some(reader: Reader, count: int) -> list[Record]:
    """At least `count` records."""
    read: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(read) < count:
        assert time.monotonic() < deadline, f"only {len(read)} of {count} records came"
        read += reader.poll(100, 0.5)
    return read


class Acks:
    """Collects answers of a sender; `names` are the threads they came on."""

    def __init__(self) -> None:
        self.acked: list[Acked] = []
        self.errors: list[LogError] = []
        self.names: set[str] = set()

    def __call__(self, acked: Acked | None, error: LogError | None) -> None:
        self.names.add(threading.current_thread().name)
        if acked is not None:
            self.acked.append(acked)
        if error is not None:
            self.errors.append(error)
