"""The transactional writer: one transactional id, one transaction per batch, and a new producer after any doubt.

Why any doubt (ARCHITECTURE, Any doubt ends a producer): after a lost connection or a time-out, librdkafka repeats EndTxn by
itself and reports success, while the first EndTxn, arriving late, ends the *next* transaction halfway (KAFKA-17754; torn
transactions were seen on Kafka 4.4 without this rule, none with it). Only a new producer epoch fences that request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ledger.errors import Discard, LogError, Rejected
from ledger.kafka.connection import REJECTED, ClientLog, client_config, discard, from_exception
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord, TopicPartition, refuse_oversized

COMMIT_TIMEOUT_S = 10.0


def writer_config(settings: KafkaSettings, transactional_id: str) -> dict[str, object]:
    """Settings for quick and clear failures: a new writer takes less time than a long retry."""
    return client_config(settings, transactional_id) | {
        "transactional.id": transactional_id,
        "transaction.timeout.ms": 10_000,
        "message.timeout.ms": 9_000,  # must be below the transaction's
        "acks": "all",
        "linger.ms": 0,
        # zstd makes batches of 30-500 events 18-24 % smaller, but readers need up to three times the CPU (2.2 -> 6.4 us per
        # event at 50 per batch), which slows down a rebuild
        "compression.type": "lz4",
        "retry.backoff.ms": 1,
        "retry.backoff.max.ms": 5,
    }


class KafkaWriter:
    """`ledger.log.Writer` on Kafka. For one thread."""

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        self._id = transactional_id
        self._log = ClientLog(transactional_id)
        self._config = writer_config(settings, transactional_id) | {"error_cb": self._log.error}
        self._producer: Producer | None = None
        self._asked = False  # whether any transaction was begun
        self._dead: str | None = None

    def start(self, timeout_s: float) -> None:
        if self._producer is not None:
            raise LogError(f"writer {self._id} was already started: use a new one")
        deadline = time.monotonic() + timeout_s
        try:
            self._producer = producer = Producer(self._config, logger=self._log)
            # connects: without a live connection init_transactions waits for librdkafka's 500 ms timer, once or twice
            producer.list_topics(timeout=timeout_s)
            producer.init_transactions(max(0.1, deadline - time.monotonic()))
        except (KafkaException, SystemError) as exc:
            self._dead = "it failed to start"
            raise from_exception(exc, f"starting writer {self._id}{self._log.said()}") from exc

    def trouble(self) -> str | None:
        if self._producer is None or self._dead:
            return self._dead or "it was not started"
        try:
            self._producer.poll(0)  # delivers the log lines
        except (KafkaException, SystemError) as exc:
            return str(discard(exc, "polling"))
        if not self._asked:
            # before the first transaction only an InitProducerId can be late, and that can only fence this writer
            self._log.lines.clear()
        return self._log.lines[0] if self._log.lines else None

    def transact(self, records: Sequence[NewRecord]) -> dict[TopicPartition, int]:
        if not records:
            raise ValueError("a transaction needs at least one record")
        for record in records:
            refuse_oversized(record)
        trouble = self.trouble()
        if self._producer is None or trouble:
            raise self._discarded(Discard(f"writer {self._id} is in doubt: {trouble}"))
        positions: dict[TopicPartition, int] = {}
        self._asked = True
        doing = "beginning"
        try:
            self._producer.begin_transaction()
            doing = "producing"
            failed = self._produce(self._producer, records, positions)
            if self._producer.flush(COMMIT_TIMEOUT_S) or failed:
                rejected = next((error for error in failed if error.code() in REJECTED), None)
                if rejected is not None:
                    raise Rejected(f"writer {self._id}: {rejected.name()}: {rejected.str()}")
                reason = str(failed[0]) if failed else "no answer in time"
                raise Discard(f"writer {self._id}: not delivered: {reason}{self._log.said()}")
            doing = "committing"
            self._producer.commit_transaction(COMMIT_TIMEOUT_S)  # success, or only the log knows; never repeated
        except (KafkaException, SystemError) as exc:
            raise self._discarded(discard(exc, f"writer {self._id}: {doing}{self._log.said()}")) from exc
        except BufferError as exc:
            raise self._discarded(Discard(f"writer {self._id}: local queue full while {doing}")) from exc
        except BaseException as exc:
            self._dead = repr(exc)
            raise
        trouble = self.trouble()
        if trouble:
            raise self._discarded(Discard(f"writer {self._id}: committed, but in doubt: {trouble}"))
        return positions

    @staticmethod
    def _produce(producer: Producer, records: Sequence[NewRecord], positions: dict[TopicPartition, int]) -> list[KafkaError]:
        """Hand `records` to the producer; their answers go to `positions` and to the returned list of failures."""
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            if error is not None:
                failed.append(error)
            elif topic is None or partition is None or offset is None:
                failed.append(KafkaError(KafkaError._FAIL, "delivered without a position"))
            else:
                positions[TopicPartition(topic, partition)] = offset + 1

        for topic, partition, key, value, timestamp_ms, headers in records:
            producer.produce(
                topic, value, key, partition, on_delivery=delivered, timestamp=timestamp_ms, headers=list(headers) or None
            )
        return failed

    def _discarded(self, error: Discard) -> Discard:
        self._dead = str(error)
        return error

    def close(self) -> None:
        """Close without contacting the broker; the next writer's start ends an open transaction.

        `Producer.close()` would abort it, and an abort is an EndTxn that may arrive late like any other.
        """
        self._dead = self._dead or "it was closed"
        self._producer = None
