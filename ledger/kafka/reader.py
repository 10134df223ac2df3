"""The manually assigned reader: bounded prefetch, records as tuples, and whether the broker still answers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaTopicPartition

from ledger.errors import LogError
from ledger.kafka.connection import AWAY, REFUSED, ClientLog, client_config, from_exception, is_fatal, log, log_error
from ledger.kafka.settings import KafkaSettings
from ledger.log import Isolation, Record, TopicPartition

STATISTICS_INTERVAL_MS = 1000


def reader_config(settings: KafkaSettings, name: str, isolation: Isolation, eof: bool, max_wait_ms: int) -> dict[str, object]:
    """Settings of a hand-assigned reader. Holds secrets."""
    return client_config(settings, name) | {
        "group.id": f"{settings.client_id}-unused",  # librdkafka requires one; nothing is subscribed or committed
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": isolation,
        "auto.offset.reset": "error",  # a missing position must be judged by a person, not skipped
        "enable.partition.eof": eof,
        "check.crcs": True,
        "topic.metadata.propagation.max.ms": 10_000,  # how long an unknown topic may still be propagating
        "fetch.wait.max.ms": max_wait_ms,
        "fetch.min.bytes": 1,
        # At most 32 MiB (plus one fetch) wait in this process, and fetching resumes as soon as there is space again: with the
        # default pause of 1 s after a full queue, a bulk read gets 26 k records/s instead of 130 k.
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 32 * 1024,
        "fetch.queue.backoff.ms": 5,
        "fetch.error.backoff.ms": 100,
        "statistics.interval.ms": STATISTICS_INTERVAL_MS,
    }


class KafkaReader:
    """`ledger.log.Reader` on Kafka. librdkafka handles a broker that goes away and returns; see `silent_s`."""

    def __init__(
        self, settings: KafkaSettings, name: str, isolation: Isolation, eof: bool, max_wait_ms: int, headers: bool
    ) -> None:
        self._name = name
        self._headers = headers
        self._log = ClientLog(name)
        self._ends: dict[TopicPartition, int] = {}
        self._assigned: list[TopicPartition] = []
        self._answered = self._one_answered = time.monotonic()
        self._failure: LogError | None = None
        callbacks = {"error_cb": self._error, "stats_cb": self._note_statistics}
        self._config = reader_config(settings, name, isolation, eof, max_wait_ms) | callbacks
        self._consumer: Consumer | None = None

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        self._assigned = list(positions)
        self._ends, self._failure = {}, None
        self._answered = self._one_answered = time.monotonic()
        if not positions and self._consumer is None:
            return
        try:
            # Not earlier: librdkafka requests metadata of known topics when it connects, and of later ones only once a second, so
            # a consumer that connects before its first assignment gets its first record 1 s later.
            self._consumer = self._consumer or Consumer(self._config, logger=self._log)
            self._consumer.assign([KafkaTopicPartition(t, p, offset) for (t, p), offset in positions.items()])
        except (KafkaException, SystemError) as exc:
            raise from_exception(exc, f"reader {self._name}: assigning {dict(positions)}") from exc

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        if self._failure is not None:
            raise self._failure
        if self._consumer is None:
            time.sleep(timeout_s)
            return []
        try:
            # in two steps, because consume() with a time-out waits until it has *all* the messages it may return
            first = self._consumer.poll(timeout_s)
            messages = [first] if first is not None else []
            if messages and max_records > 1:
                messages += self._consumer.consume(max_records - 1, 0)
        except (KafkaException, SystemError) as exc:
            raise from_exception(exc, f"reader {self._name}{self._log.said()}") from exc
        records: list[Record] = []
        append = records.append
        for m in messages:
            if m.error() is None:
                headers = tuple(m.headers() or ()) if self._headers else ()
                # the message is a record, so none of these is None
                append(Record(m.topic(), m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), headers))  # type: ignore[arg-type]
            else:
                self._note_error(m)
        if self._failure is not None and not records:
            raise self._failure
        return records  # records before a failure are valid; the next call raises the failure

    def _error(self, error: KafkaError) -> None:
        self._log.error(error)
        if self._failure is None and (error.code() in REFUSED or is_fatal(error)):
            self._failure = log_error(error, f"reader {self._name}")

    def _note_error(self, message: Message) -> None:
        error, topic, partition, offset = message.error(), message.topic(), message.partition(), message.offset()
        if error is None:
            return
        if error.code() == KafkaError._PARTITION_EOF and topic is not None and partition is not None and offset is not None:
            self._ends[TopicPartition(topic, partition)] = offset
        elif error.code() in AWAY and not is_fatal(error):
            log.info("%s: %s", self._name, error)
        elif self._failure is None:
            self._failure = log_error(error, f"reader {self._name}: {topic}/{partition}")

    def reached_end(self) -> Mapping[TopicPartition, int]:
        return dict(self._ends)

    def silent_s(self, any_leader: bool = False) -> float:
        if not self._assigned:
            return 0.0
        return time.monotonic() - (self._one_answered if any_leader else self._answered)

    def _note_statistics(self, text: str) -> None:
        """Note when the leaders of all assigned partitions last answered, and when one did; librdkafka reports once a second.

        A leader answers at least every `max_wait_ms`, with or without records, unless the local queue is full: then there are
        no requests, and the state of the connection is used instead.
        """
        statistics = json.loads(text)
        leaders = {b["nodeid"]: b for b in statistics["brokers"].values()}
        topics = statistics["topics"]
        assigned = [topics.get(topic, {}).get("partitions", {}).get(str(partition)) for topic, partition in self._assigned]
        unread = any(p and p["fetchq_cnt"] for p in assigned)
        now = time.monotonic()
        silent_us: list[int | None] = []
        for partition_statistics in assigned:
            leader = leaders.get(partition_statistics["leader"]) if partition_statistics else None
            if leader is None or leader["rxidle"] < 0:
                silent_us.append(None)  # no leader, or an unknown one: nothing to note
            else:
                silent_us.append(0 if unread and leader["state"] == "UP" else leader["rxidle"])
        known = [one for one in silent_us if one is not None]
        if known:
            self._one_answered = max(self._one_answered, now - min(known) / 1e6)
        if len(known) == len(silent_us):
            self._answered = max(self._answered, now - max(known, default=0) / 1e6)

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            # The client and this reader reference each other: left to the garbage collector, a closed one would keep its
            # thread-local key, of which a process has 1,024.
            self._consumer = None
            self._config = {}
