"""A fold that counts how often it saw each record, over topics of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ledger.kafka.log import KafkaLog
from ledger.log import NewRecord, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.store import Store
from ledger.topics import TopicSpec
from tests.support.patience import PATIENCE_S

TOPICS = ("a", "b")
PARTITIONS = 3


class Counter:
    """Counts how often each record was folded, in a store that also has the positions."""

    def __init__(self, store: Store, topics: Sequence[str] = TOPICS, partitions: int = PARTITIONS) -> None:
        self.store = store
        self._positions = {
            TopicPartition(t, p): int(store.get(b"p/%b/%d" % (t.encode(), p)) or 0) for t in topics for p in range(partitions)
        }
        self.slices: list[int] = []
        self.before_write: Callable[[Sequence[Record]], None] = lambda _: None

    def positions(self) -> Mapping[TopicPartition, int]:
        return self._positions

    def apply_chunk(self, records: Sequence[Record]) -> None:
        rows: dict[bytes, bytes | None] = {}
        positions = dict(self._positions)
        for r in records:
            tp = TopicPartition(r.topic, r.partition)
            if r.offset < positions[tp]:
                continue
            key = b"n/" + (r.value or b"")
            rows[key] = b"%d" % (int(rows.get(key) or self.store.get(key) or 0) + 1)
            positions[tp] = r.offset + 1
            rows[b"p/%b/%d" % (tp.topic.encode(), tp.partition)] = b"%d" % positions[tp]
        self.before_write(records)
        self.store.write(rows)
        self._positions = positions
        self.slices.append(len(records))

    def counts(self) -> dict[bytes, int]:
        return {key[2:]: int(value) for key, value in self.store.scan(b"n/")}


def memory_log() -> MemoryLog:
    log = MemoryLog()
    log.ensure_topics([TopicSpec(topic, PARTITIONS) for topic in TOPICS])
    return log


def write(log: MemoryLog | KafkaLog, numbers: Sequence[int], topics: Sequence[str] = TOPICS, per_transaction: int = 7) -> None:
    """Writes numbers as values, spread over topics and partitions, in several transactions."""
    writer = log.writer("test")
    writer.start(PATIENCE_S)
    for i in range(0, len(numbers), per_transaction):
        batch = numbers[i : i + per_transaction]
        writer.transact([NewRecord(topics[n % len(topics)], n % PARTITIONS, b"k", b"%d" % n) for n in batch])
    writer.close()
