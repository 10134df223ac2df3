"""The state of an in-memory log: topics, slots, transactions, epochs. Call everything here under `lock`."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from ledger.durations import HOUR_MS
from ledger.errors import LogError, LogUnavailable, Rejected
from ledger.log import Isolation, NewRecord, OpenTransaction, Record, TopicPartition
from ledger.topics import TopicSpec


@dataclass(eq=False)
class Transaction:
    """A transaction and its first offset in each partition."""

    transactional_id: str
    epoch: int
    state: Literal["open", "committed", "aborted"] = "open"
    first: dict[TopicPartition, int] = field(default_factory=dict)


@dataclass(eq=False)
class Partition:
    """Slots from offset `start` on: a record with its transaction (None: written without one), or None for a marker.

    `aborted`: transactions that a marker from outside aborted in this partition only.
    """

    start: int = 0
    slots: list[tuple[Record, Transaction | None] | None] = field(default_factory=list)
    open: set[Transaction] = field(default_factory=set)
    aborted: set[Transaction] = field(default_factory=set)
    loses_marker: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.slots)


@dataclass(eq=False)
class Topic:
    """A topic and its slots."""

    spec: TopicSpec
    id: bytes
    partitions: list[Partition]


class State:
    """One log. `changed` guards everything and is notified of every change."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.topics: dict[str, Topic] = {}
        self.epochs: dict[str, int] = {}
        self.open: dict[str, Transaction] = {}
        self.markers_are_late = False
        self.skews_ms: dict[int, int] = {}  # by partition number
        self.unmarked: dict[str, Transaction] = {}  # ended for their writers, but without markers yet
        self.fail_next_commit: Literal["before", "after"] | None = None
        self.away_since: float | None = None
        self._clock_ms = clock_ms

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Take the lock if the log is reachable. Raises `LogUnavailable`."""
        with self.changed:
            if self.away_since is not None:
                raise LogUnavailable("the log is unreachable")
            yield

    def create(self, spec: TopicSpec) -> None:
        self.topics[spec.name] = Topic(spec, uuid.uuid4().bytes, [Partition() for _ in range(spec.partitions)])

    def recreate(self, name: str) -> None:
        for partition in self.topic(name).partitions:
            for transaction in partition.open:
                transaction.first = {tp: at for tp, at in transaction.first.items() if tp.topic != name}
        self.create(self.topic(name).spec)
        self.changed.notify_all()

    def mirror(self, name: str) -> None:
        self.topic(name).id = uuid.uuid4().bytes

    def lose_end(self, tp: TopicPartition, position: int) -> None:
        partition = self.partition(tp)
        del partition.slots[max(0, position - partition.start) :]
        self.changed.notify_all()

    def topic(self, name: str) -> Topic:
        try:
            return self.topics[name]
        except KeyError:
            raise LogError(f"there is no topic {name}") from None

    def partition(self, tp: TopicPartition) -> Partition:
        partitions = self.topic(tp.topic).partitions
        if not 0 <= tp.partition < len(partitions):
            raise LogError(f"there is no partition {tp.topic}/{tp.partition}")
        return partitions[tp.partition]

    def end(self, tp: TopicPartition, isolation: Isolation) -> int:
        partition = self.partition(tp)
        if isolation == "read_uncommitted":
            return partition.end
        return min((t.first[tp] for t in partition.open), default=partition.end)

    def offset_at(self, tp: TopicPartition, timestamp_ms: int) -> int:
        end = self.end(tp, "read_committed")
        for slot in self.partition(tp).slots:
            if slot is not None and slot[0].timestamp_ms >= timestamp_ms:
                return min(slot[0].offset, end)
        return end

    def truncate(self, tp: TopicPartition, before: int) -> None:
        partition = self.partition(tp)
        gone = max(0, min(before, partition.end) - partition.start)
        del partition.slots[:gone]
        partition.start += gone

    def delete_expired(self) -> None:
        """Delete what is older than its topic keeps it. Kafka deletes whole segments, and so no earlier than this."""
        for name, topic in self.topics.items():
            keep_ms = int(topic.spec.settings.get("retention.ms", "-1"))
            if keep_ms < 0:
                continue
            oldest = self._clock_ms() - keep_ms
            for number, partition in enumerate(topic.partitions):
                kept = (i for i, slot in enumerate(partition.slots) if slot is not None and slot[0].timestamp_ms >= oldest)
                self.truncate(TopicPartition(name, number), partition.start + next(kept, len(partition.slots)))

    def compact(self) -> None:
        """Delete all but the last record of each key, where the topic is compacted."""
        for topic in self.topics.values():
            if topic.spec.settings.get("cleanup.policy") != "compact":
                continue
            for partition in topic.partitions:
                last = {slot[0].key: i for i, slot in enumerate(partition.slots) if slot is not None}
                for i, slot in enumerate(partition.slots):
                    if slot is not None and last[slot[0].key] != i:
                        partition.slots[i] = None

    def append(self, record: NewRecord, transaction: Transaction | None) -> Record:
        tp = TopicPartition(record.topic, record.partition)
        partition = self.partition(tp)
        by_log = self.topics[tp.topic].spec.settings.get("message.timestamp.type") == "LogAppendTime"
        now = self._clock_ms() + self.skews_ms.get(tp.partition, 0)
        timestamp_ms = now if by_log or not record.timestamp_ms else record.timestamp_ms
        if timestamp_ms - now > int(self.topics[tp.topic].spec.settings.get("message.timestamp.after.max.ms", HOUR_MS)):
            raise Rejected(f"{tp.topic}/{tp.partition}: INVALID_TIMESTAMP: {timestamp_ms} is too far ahead of {now}")
        stored = Record(*tp, partition.end, timestamp_ms, record.key, record.value, tuple(record.headers))
        if transaction is not None and tp not in transaction.first:
            transaction.first[tp] = stored.offset
            partition.open.add(transaction)
        partition.slots.append((stored, transaction))
        self.changed.notify_all()
        return stored

    def fence(self, transactional_id: str) -> int:
        """A new epoch for `transactional_id`; its open transaction is aborted."""
        self.write_markers(transactional_id)
        self.epochs[transactional_id] = epoch = self.epochs.get(transactional_id, -1) + 1
        if transactional_id in self.open:
            self.finish(transactional_id, "aborted")
        return epoch

    def finish(self, transactional_id: str, state: Literal["committed", "aborted"]) -> None:
        """End the transaction; its markers follow immediately, or when they are written."""
        transaction = self.open.pop(transactional_id)
        transaction.state = state
        self.unmarked[transactional_id] = transaction
        if not self.markers_are_late:
            self.write_markers(transactional_id)

    def write_markers(self, transactional_id: str) -> None:
        """Write the markers of the last transaction of this id, if it has none yet."""
        transaction = self.unmarked.pop(transactional_id, None)
        if transaction is None:
            return
        for tp in transaction.first:
            partition = self.partition(tp)
            if partition.loses_marker:
                partition.loses_marker = False
                continue
            self.mark(partition, transaction, "committed" if transaction.state == "committed" else "aborted")
        self.changed.notify_all()

    def wait_for_markers(self, transactional_id: str, timeout_s: float) -> bool:
        """Whether the last transaction of this id has its markers: until then, a coordinator begins no other one."""
        return self.changed.wait_for(lambda: transactional_id not in self.unmarked, timeout_s)

    def mark(self, partition: Partition, transaction: Transaction, state: Literal["committed", "aborted"]) -> None:
        """Write a marker: it ends `transaction` in `partition`, and anything else the same producer left open there."""
        partition.slots.append(None)
        ended = {t for t in partition.open if t.transactional_id == transaction.transactional_id}
        partition.open -= ended
        if state == "aborted":
            partition.aborted |= ended

    def describe(self, transaction: Transaction, tp: TopicPartition) -> OpenTransaction:
        """`transaction`, which is open in `tp`, as a broker would report it."""
        name, slots = transaction.transactional_id, self.partition(tp).slots
        times = [slot[0].timestamp_ms for slot in slots if slot is not None and slot[1] is transaction]
        ending = self.unmarked.get(name) is transaction
        known = ending or self.open.get(name) is transaction
        state = {"open": "Ongoing", "committed": "CompleteCommit", "aborted": "CompleteAbort"}[transaction.state]
        state = state.replace("Complete", "Prepare") if ending else state
        return OpenTransaction(
            partition=tp,
            producer_id=list(self.epochs).index(name),
            producer_epoch=transaction.epoch,
            coordinator_epoch=0,
            start_offset=transaction.first[tp],
            last_timestamp_ms=max(times),
            transactional_id=name,
            state=state if known or self.epochs[name] == transaction.epoch else "Empty",
            timeout_ms=10_000,
            known=known,
        )
