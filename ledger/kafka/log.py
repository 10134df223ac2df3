"""The EventLog on Apache Kafka (4.0 or later). The clients are in `ledger.kafka`, one file per role."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ledger.durability import Durability
from ledger.kafka import admin
from ledger.kafka.bookmark import KafkaBookmark
from ledger.kafka.durability import durability
from ledger.kafka.lease import KafkaLease
from ledger.kafka.reader import KafkaReader
from ledger.kafka.sender import KafkaSender
from ledger.kafka.settings import KafkaSettings
from ledger.kafka.writer import KafkaWriter
from ledger.log import Isolation, OpenTransaction, TopicPartition
from ledger.partitioner import partition_for
from ledger.topics import TopicSpec


class KafkaLog:
    """`ledger.log.EventLog` on the cluster of `settings`. Connects lazily; thread-safe."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def ensure_topics(self, specs: Iterable[TopicSpec], timeout_s: float = 30.0) -> list[str]:
        return admin.ensure_topics(self._settings, list(specs), timeout_s)

    def check_topics(self, specs: Iterable[TopicSpec]) -> None:
        admin.check_topics(self._settings, list(specs))

    def replace_topic(self, spec: TopicSpec, timeout_s: float = 30.0) -> None:
        admin.replace_topic(self._settings, spec, timeout_s)

    def durability(self, topics: Iterable[str]) -> list[Durability]:
        return durability(self._settings, topics)

    def partitions(self, topic: str) -> int:
        return admin.partitions(self._settings, topic)

    def topic_id(self, topic: str) -> bytes:
        return admin.topic_id(self._settings, topic)

    def partition_for(self, key: bytes, partitions: int) -> int:
        return partition_for(key, partitions)

    def starts(self, partitions: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        return admin.starts(self._settings, partitions, timeout_s)

    def ends(
        self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed", timeout_s: float = 5.0
    ) -> dict[TopicPartition, int]:
        return admin.ends(self._settings, partitions, isolation, timeout_s)

    def offset_at(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        return admin.offset_at(self._settings, partitions, timestamp_ms)

    def progress(self, group: str, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        from ledger.kafka import groups  # a second Kafka client: loaded only if it is needed

        return groups.progress(self._settings, group, partitions)

    def unheld(self, topic: str, group: str, timeout_s: float = 5.0) -> list[int]:
        from ledger.kafka import groups

        return groups.unheld(self._settings, topic, group, timeout_s)

    def open_transactions(self, partitions: Iterable[TopicPartition], timeout_s: float = 10.0) -> list[OpenTransaction]:
        from ledger.kafka import transactions

        return transactions.open_transactions(self._settings, partitions, timeout_s)

    def hidden_ids(self, transactional_ids: Iterable[str], timeout_s: float = 10.0) -> list[str]:
        from ledger.kafka import transactions

        return transactions.hidden_ids(self._settings, transactional_ids, timeout_s)

    def end_transaction(self, open_one: OpenTransaction, commit: bool, timeout_s: float = 10.0) -> None:
        from ledger.kafka import transactions

        transactions.end_transaction(self._settings, open_one, commit, timeout_s)

    def bookmark(self, group: str) -> KafkaBookmark:
        return KafkaBookmark(self._settings, group)

    def reader(
        self,
        name: str,
        *,
        isolation: Isolation = "read_committed",
        eof: bool = False,
        max_wait_ms: int = 100,
        headers: bool = False,
    ) -> KafkaReader:
        return KafkaReader(self._settings, name, isolation, eof, max_wait_ms, headers)

    def writer(self, transactional_id: str) -> KafkaWriter:
        return KafkaWriter(self._settings, transactional_id)

    def sender(self, name: str, linger_ms: float = 0) -> KafkaSender:
        return KafkaSender(self._settings, name, linger_ms)

    def lease(
        self,
        topic: str,
        group: str,
        instance: str,
        on_taken: Callable[[list[int]], None],
        on_revoked: Callable[[list[int]], None],
        on_lost: Callable[[list[int]], None],
    ) -> KafkaLease:
        return KafkaLease(self._settings, topic, group, instance, on_taken, on_revoked, on_lost)
