"""The EventLog in memory: the full contract of `ledger.log` within one process, for tests and experiments.

Through the port, it behaves like Kafka: transactions leave markers and so gaps in the offsets, an open transaction blocks
read_committed readers, aborted records keep their offsets and are never returned, a new writer fences the old one, a recreated
topic has another id. In addition, it can fail on request:

    log.fail_next_commit("before")     the next transaction stays open and its writer raises Discard
    log.fail_next_commit("after")      the next transaction commits, but its writer raises Discard
    log.delay_markers(True / False)    transactions end for their writers, but get their markers only when this is over
    log.lose_marker(tp)                the next transaction with records there hangs there, however it ends
    log.fence(transactional_id)        like the start of a successor (or the coordinator's time-out)
    log.truncate(tp, before)           records before an offset are deleted, as by retention
    log.skew(partition, ms)            the leader of these partitions has another clock
    log.clean()                        what is older than its topic keeps it is deleted, compacted topics are compacted
    log.recreate(topic)                the topic is deleted and created again
    log.mirror(topic)                  the topic has another id and the same records, as a copy of it would
    log.lose_end(tp, position)         records from an offset on are lost, as by an unclean leader election
    log.expire(group, instance)        the group removes a member that did not poll in time
    log.orphan(group, partition)       a partition loses its holder and is not assigned again
    log.away(True) / log.away(False)   the broker is unreachable / back
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

from ledger.clock import now_ms
from ledger.durability import Durability
from ledger.errors import LogError
from ledger.log import Isolation, OpenTransaction, TopicPartition, compare_topic
from ledger.memory.clients import MemoryBookmark, MemoryReader, MemorySender, MemoryWriter
from ledger.memory.lease import Group, MemoryLease, OnPartitions
from ledger.memory.state import State
from ledger.partitioner import partition_for
from ledger.topics import TopicSpec


class MemoryLog:
    """`ledger.log.EventLog` without a broker. Thread-safe; `clock_ms` is the log's own clock (log-append time)."""

    def __init__(self, clock_ms: Callable[[], int] = now_ms) -> None:
        self._state = State(clock_ms)
        self._groups: dict[str, Group] = {}
        self._bookmarks: dict[str, dict[TopicPartition, tuple[int, str]]] = {}

    # ---- failures on request -----------------------------------------------------------------------------------------
    def fail_next_commit(self, when: Literal["before", "after"]) -> None:
        """The next `transact` raises `Discard`; its transaction stays open ("before") or is committed ("after")."""
        self._state.fail_next_commit = when

    def fence(self, transactional_id: str) -> None:
        """Fence the writers of `transactional_id` and end their open transaction, as a successor would."""
        with self._state.changed:
            self._state.fence(transactional_id)

    def delay_markers(self, late: bool) -> None:
        """While `late`, a commit is answered before its markers are written, as in Kafka, where that takes milliseconds."""
        with self._state.changed:
            self._state.markers_are_late = late
            for transactional_id in [] if late else list(self._state.unmarked):
                self._state.write_markers(transactional_id)

    def lose_marker(self, tp: TopicPartition) -> None:
        """The next transaction with records in `tp` gets no marker there, ever."""
        with self._state.changed:
            self._state.partition(tp).loses_marker = True

    def truncate(self, tp: TopicPartition, before: int) -> None:
        """Remove the records of `tp` below offset `before`."""
        with self._state.changed:
            self._state.truncate(tp, before)

    def skew(self, partition: int, ms: int) -> None:
        """From now on, the clock of the leader of this partition of every topic is `ms` ahead of the log's own."""
        with self._state.changed:
            self._state.skews_ms[partition] = ms

    def clean(self) -> None:
        """Delete and compact as the settings of the topics say, by the log's clock."""
        with self._state.changed:
            self._state.delete_expired()
            self._state.compact()

    def recreate(self, topic: str) -> None:
        """Delete `topic` with all its records and create it again: empty, with another id."""
        with self._state.changed:
            self._state.recreate(topic)

    def mirror(self, topic: str) -> None:
        """Give `topic` another id; its records stay."""
        with self._state.changed:
            self._state.mirror(topic)

    def lose_end(self, tp: TopicPartition, position: int) -> None:
        """Remove the records of `tp` from offset `position` on. Later ones get these offsets."""
        with self._state.changed:
            self._state.lose_end(tp, position)

    def expire(self, group: str, instance: str) -> None:
        """Expire the session of `instance`: others get its partitions, and its next poll reports them as lost."""
        with self._state.changed:
            self._groups[group].expire(instance)
            self._state.changed.notify_all()

    def orphan(self, group: str, partition: int) -> None:
        """Take `partition` from its holder and leave it unassigned until somebody joins: a fault of the group protocol."""
        with self._state.changed:
            self._groups[group].orphan(partition)
            self._state.changed.notify_all()

    def away(self, away: bool) -> None:
        """Make the broker unreachable or reachable. Meanwhile nothing is answered, readers wait, writers are in doubt."""
        with self._state.changed:
            self._state.away_since = time.monotonic() if away else None
            self._state.changed.notify_all()

    # ---- the port ----------------------------------------------------------------------------------------------------
    def ensure_topics(self, specs: Iterable[TopicSpec], timeout_s: float = 30.0) -> list[str]:
        created = []
        with self._state.reachable():
            for spec in specs:
                topic = self._state.topics.get(spec.name)
                if topic is None:
                    self._state.create(spec)
                    created.append(spec.name)
                else:
                    compare_topic(spec, topic.spec.partitions, topic.spec.settings)
        return created

    def replace_topic(self, spec: TopicSpec, timeout_s: float = 30.0) -> None:
        with self._state.reachable():
            topic = self._state.topics.get(spec.name)
            if topic is not None and any(partition.end > partition.start for partition in topic.partitions):
                raise LogError(f"topic {spec.name} has records: it is not replaced")
            self._state.create(spec)

    def check_topics(self, specs: Iterable[TopicSpec]) -> None:
        with self._state.reachable():
            for spec in specs:
                topic = self._state.topic(spec.name)
                compare_topic(spec, topic.spec.partitions, topic.spec.settings)

    def partitions(self, topic: str) -> int:
        with self._state.reachable():
            return len(self._state.topic(topic).partitions)

    def topic_id(self, topic: str) -> bytes:
        with self._state.reachable():
            return self._state.topic(topic).id

    def partition_for(self, key: bytes, partitions: int) -> int:
        return partition_for(key, partitions)

    def starts(self, partitions: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        with self._state.reachable():
            return {tp: self._state.partition(tp).start for tp in partitions}

    def ends(
        self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed", timeout_s: float = 5.0
    ) -> dict[TopicPartition, int]:
        with self._state.reachable():
            return {tp: self._state.end(tp, isolation) for tp in partitions}

    def offset_at(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        with self._state.reachable():
            return {tp: self._state.offset_at(tp, timestamp_ms) for tp in partitions}

    def progress(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        with self._state.reachable():
            noted = self._groups[group].committed if group in self._groups else {}
            return {tp: noted.get(tp, 0) for tp in partitions}

    def durability(self, topics: Iterable[str]) -> list[Durability]:
        with self._state.reachable():
            return [Durability(self._state.topic(topic).spec.name, 1, 1, False) for topic in topics]

    def unheld(self, topic: str, group: str, timeout_s: float = 5.0) -> list[int]:
        with self._state.reachable():
            wanted = range(len(self._state.topic(topic).partitions))
            return self._groups[group].unheld() if group in self._groups else list(wanted)

    def open_transactions(self, partitions: Iterable[TopicPartition], timeout_s: float = 10.0) -> list[OpenTransaction]:
        with self._state.reachable():
            return [self._state.describe(t, tp) for tp in partitions for t in self._state.partition(tp).open]

    def hidden_ids(self, transactional_ids: Iterable[str], timeout_s: float = 10.0) -> list[str]:
        with self._state.reachable():
            return []  # there are no users

    def end_transaction(self, open_one: OpenTransaction, commit: bool, timeout_s: float = 10.0) -> None:
        with self._state.reachable():
            partition = self._state.partition(open_one.partition)
            for transaction in list(partition.open):
                if self._state.describe(transaction, open_one.partition)[1:5] == open_one[1:5]:
                    self._state.mark(partition, transaction, "committed" if commit else "aborted")
            self._state.changed.notify_all()

    def bookmark(self, group: str) -> MemoryBookmark:
        with self._state.changed:
            return MemoryBookmark(self._state, self._bookmarks.setdefault(group, {}))

    def reader(
        self,
        name: str,
        *,
        isolation: Isolation = "read_committed",
        eof: bool = False,
        max_wait_ms: int = 100,
        headers: bool = False,
    ) -> MemoryReader:
        return MemoryReader(self._state, name, isolation, eof, headers)

    def writer(self, transactional_id: str) -> MemoryWriter:
        return MemoryWriter(self._state, transactional_id)

    def sender(self, name: str, linger_ms: float = 0) -> MemorySender:
        return MemorySender(self._state, name)

    def lease(
        self,
        topic: str,
        group: str,
        instance: str,
        on_taken: OnPartitions,
        on_revoked: OnPartitions,
        on_lost: OnPartitions,
    ) -> MemoryLease:
        with self._state.reachable():
            partitions = len(self._state.topic(topic).partitions)
            members = self._groups.setdefault(group, Group(partitions))
            members.fit(partitions)
            return MemoryLease(self._state, members, instance, on_taken, on_revoked, on_lost)
