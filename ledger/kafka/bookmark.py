"""A reader's position, stored as the committed offsets of a group without members."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from ledger.errors import LogError
from ledger.kafka.connection import ClientLog, client_config, from_exception
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition

ANSWER_S = 10.0


class KafkaBookmark:
    """`ledger.log.Bookmark`. The consumer subscribes to nothing: it only talks to the group's coordinator."""

    def __init__(self, settings: KafkaSettings, group: str) -> None:
        self._label = f"position of {group}"
        log = ClientLog(f"bookmark-{group}")
        config = client_config(settings, f"bookmark-{group}") | {
            "group.id": group,
            "enable.auto.commit": False,
            "error_cb": log.error,
        }
        try:
            self._consumer = Consumer(config, logger=log)
        except KafkaException as exc:
            raise from_exception(exc, self._label) from exc

    def read(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int | None]:
        return {
            TopicPartition(tp.topic, tp.partition): tp.offset if tp.offset >= 0 else None for tp in self._committed(partitions)
        }

    def notes(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, str]:
        return {TopicPartition(tp.topic, tp.partition): tp.metadata or "" for tp in self._committed(partitions)}

    def _committed(self, partitions: Iterable[TopicPartition]) -> list[KafkaTopicPartition]:
        asked = [KafkaTopicPartition(t, p) for t, p in partitions]
        try:
            answered = self._consumer.committed(asked, timeout=ANSWER_S) if asked else []
        except (KafkaException, SystemError) as exc:
            raise from_exception(exc, f"{self._label}: reading") from exc
        self._check(answered)
        return answered

    def write(self, positions: Mapping[TopicPartition, int], notes: Mapping[TopicPartition, str] | None = None) -> None:
        beside = notes or {}
        offsets = [
            KafkaTopicPartition(tp.topic, tp.partition, offset, metadata=beside.get(tp, "")) for tp, offset in positions.items()
        ]
        try:
            answered = self._consumer.commit(offsets=offsets, asynchronous=False) if offsets else []
        except (KafkaException, SystemError) as exc:
            raise from_exception(exc, f"{self._label}: writing") from exc
        self._check(answered or [])

    def _check(self, answered: list[KafkaTopicPartition]) -> None:
        for tp in answered:
            if tp.error is not None:
                raise LogError(f"{self._label}: {tp.topic}/{tp.partition}: {tp.error}")

    def close(self) -> None:
        self._consumer.close()
