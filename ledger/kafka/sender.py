"""The sender of single records: an idempotent producer and the thread that handles its answers."""

from __future__ import annotations

import threading
import time

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from ledger.errors import LogError, LogUnavailable
from ledger.kafka.connection import ClientLog, client_config, from_exception, is_fatal, kafka_error, log, log_error
from ledger.kafka.settings import KafkaSettings
from ledger.log import Acked, NewRecord, OnAck, refuse_oversized
from ledger.supervision import WorkerThread

MESSAGE_TIMEOUT_S = 9.0
QUEUED_RECORDS = 20_000


def sender_config(settings: KafkaSettings, name: str, linger_ms: float) -> dict[str, object]:
    """Settings of an idempotent producer. Holds secrets."""
    return client_config(settings, name) | {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": linger_ms,
        "message.timeout.ms": int(MESSAGE_TIMEOUT_S * 1000),
        "compression.type": "none",  # a batch with one command does not shrink
        "retry.backoff.ms": 1,
        "retry.backoff.max.ms": 50,
        "queue.buffering.max.messages": QUEUED_RECORDS,
        "queue.buffering.max.kbytes": 64 * 1024,
    }


class KafkaSender:
    """`ledger.log.Sender` on Kafka. `send` may be called from any thread; every `on_ack` runs on the sender's own.

    After a fatal error, an idempotent producer accepts nothing more; it is replaced, and its records are called back with the
    error. An exception in an `on_ack` is a bug: the other callbacks still run, and further sends are refused with it.
    """

    def __init__(self, settings: KafkaSettings, name: str, linger_ms: float) -> None:
        self._name = name
        self._log = ClientLog(name)
        self._config = sender_config(settings, name, linger_ms) | {"error_cb": self._error}
        self._producer = self._new_producer()
        self._unanswered = 0
        self._changed = threading.Condition()
        self._fatal: KafkaError | None = None
        self._bug: BaseException | None = None
        self._closing = False
        self._ending = threading.Event()
        self._thread = WorkerThread(f"sender {name}", self._serve, self._stopped, again=True, stopping=self._ending)
        self._thread.start()

    def _stopped(self, exc: BaseException) -> None:
        self._bug = exc  # raised by the next send

    def _new_producer(self) -> Producer:
        try:
            return Producer(self._config, logger=self._log)
        except KafkaException as exc:
            raise from_exception(exc, f"sender {self._name}") from exc

    def _error(self, error: KafkaError) -> None:
        self._log.error(error)
        if is_fatal(error):
            self._fatal = error

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        refuse_oversized(record)
        if self._closing:
            raise LogError(f"sender {self._name} is closed")
        if self._bug is not None:
            raise LogError(f"sender {self._name} stopped: an on_ack raised {self._bug!r}") from self._bug
        topic, partition, key, value, timestamp_ms, headers = record
        producer = self._producer
        with self._changed:
            self._unanswered += 1
        try:
            producer.produce(
                topic,
                value,
                key,
                partition,
                on_delivery=lambda error, message: self._answer(on_ack, error, message),
                timestamp=timestamp_ms,
                headers=list(headers) or None,
            )
        except BaseException as exc:
            self._answered()
            if isinstance(exc, BufferError):
                raise LogUnavailable(
                    f"{QUEUED_RECORDS} records or 64 MiB are waiting in sender {self._name}{self._log.said()}"
                ) from exc
            if isinstance(exc, (KafkaException, SystemError)):
                error = kafka_error(exc)
                if error is not None and is_fatal(error) and producer is self._producer:
                    self._fatal = error
                raise from_exception(exc, f"sender {self._name}: {topic}/{partition}") from exc
            raise

    def _answer(self, on_ack: OnAck, error: KafkaError | None, message: Message) -> None:
        try:
            partition, offset = message.partition(), message.offset()
            if error is not None or partition is None or offset is None:
                on_ack(None, self._why(error, message))
            else:
                on_ack(Acked(partition, offset, message.timestamp()[1]), None)
        except BaseException as exc:
            # raised here, it would be lost in librdkafka's C frames, together with the answers behind it
            self._bug = exc
            log.exception("%s: on_ack raised", self._name)
        finally:
            self._answered()

    def _why(self, error: KafkaError | None, message: Message) -> LogError:
        doing = f"sender {self._name}: {message.topic()}/{message.partition()}{self._log.said()}"
        return log_error(error, doing) if error is not None else LogError(f"{doing}: acknowledged without an offset")

    def _answered(self) -> None:
        with self._changed:
            self._unanswered -= 1
            if not self._unanswered:
                self._changed.notify_all()

    def _serve(self) -> None:
        while not (self._closing and not self._unanswered):
            try:
                self._producer.poll(0.1)
                if self._fatal is not None:
                    self._replace(self._fatal)
            except (KafkaException, SystemError) as exc:
                error = kafka_error(exc)
                if error is None:
                    raise
                self._fatal = error
            if not self._unanswered:
                self._log.lines.clear()  # old trouble does not explain a new failure

    def _replace(self, error: KafkaError) -> None:
        log.warning("%s: new producer after fatal %s", self._name, error)
        # from here on, other threads send to the new producer; the old one refuses late sends
        old, self._producer, self._fatal = self._producer, self._new_producer(), None
        old.purge()
        while len(old):
            old.poll(0.1)

    def flush(self, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._unanswered and (wait_s := deadline - time.monotonic()) > 0:
                self._changed.wait(wait_s)
            return self._unanswered

    def close(self) -> None:
        """Run all callbacks, then stop. Takes up to the message time-out if the broker is unreachable."""
        if self._closing:
            return
        self._closing = True
        if self.flush(MESSAGE_TIMEOUT_S + 1):
            self._producer.purge()  # the thread delivers these answers, too
        self._ending.set()
        self._thread.join(5)
        if self._thread.is_alive():
            raise LogError(f"sender {self._name}: {self._unanswered} records without an answer at close")
