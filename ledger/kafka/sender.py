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


class _Client:
    """One producer, and the fatal error after which it accepts nothing more."""

    def __init__(self, config: dict[str, object], client_log: ClientLog) -> None:
        self.fatal: KafkaError | None = None
        self._log = client_log
        self.producer = Producer(config | {"error_cb": self._error}, logger=client_log)

    def _error(self, error: KafkaError) -> None:
        self._log.error(error)
        if is_fatal(error):
            self.fatal = error


class KafkaSender:
    """`ledger.log.Sender` on Kafka. `send` may be called from any thread; every `on_ack` runs on the sender's own.

    After a fatal error, an idempotent producer accepts nothing more; it is replaced, and its records are called back with the
    error. An `on_ack` that sends again then reaches the new one. An exception in an `on_ack` is a bug: the other callbacks still
    run, and further sends are refused with it.
    """

    def __init__(self, settings: KafkaSettings, name: str, linger_ms: float) -> None:
        self._name = name
        self._log = ClientLog(name)
        self._config = sender_config(settings, name, linger_ms)
        self._client = self._new_client()
        self._replaced: list[_Client] = []
        self._replacing = threading.RLock()
        self._unanswered = 0
        self._changed = threading.Condition()
        self._bug: BaseException | None = None
        self._closing = False
        self._ending = threading.Event()
        self._thread = WorkerThread(f"sender {name}", self._serve, self._stopped, again=True, stopping=self._ending)
        self._thread.start()

    def _stopped(self, exc: BaseException) -> None:
        self._bug = exc  # raised by the next send

    def _new_client(self) -> _Client:
        try:
            return _Client(self._config, self._log)
        except KafkaException as exc:
            raise from_exception(exc, f"sender {self._name}") from exc

    def send(self, record: NewRecord, on_ack: OnAck) -> None:
        refuse_oversized(record)
        if self._closing:
            raise LogError(f"sender {self._name} is closed")
        if self._bug is not None:
            raise LogError(f"sender {self._name} stopped: an on_ack raised {self._bug!r}") from self._bug
        with self._changed:
            self._unanswered += 1
        try:
            self._produce(record, on_ack)
        except BaseException as exc:
            self._answered()
            if isinstance(exc, BufferError):
                raise LogUnavailable(
                    f"{QUEUED_RECORDS} records or 64 MiB are waiting in sender {self._name}{self._log.said()}"
                ) from exc
            if isinstance(exc, (KafkaException, SystemError)):
                raise from_exception(exc, f"sender {self._name}: {record.topic}/{record.partition}") from exc
            raise

    def _produce(self, record: NewRecord, on_ack: OnAck) -> None:
        """Hand `record` to the producer; to a new one if a fatal error has ended this one."""
        client = self._client
        try:
            self._produce_with(client, record, on_ack)
        except (KafkaException, SystemError) as exc:
            error = kafka_error(exc)
            if error is None or not is_fatal(error):
                raise
            self._replace(client, error)
            self._produce_with(self._client, record, on_ack)

    def _produce_with(self, client: _Client, record: NewRecord, on_ack: OnAck) -> None:
        topic, partition, key, value, timestamp_ms, headers = record
        client.producer.produce(
            topic,
            value,
            key,
            partition,
            on_delivery=lambda error, message: self._answer(on_ack, error, message),
            timestamp=timestamp_ms,
            headers=list(headers) or None,
        )

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
            client = self._client
            try:
                client.producer.poll(0.1)
            except (KafkaException, SystemError) as exc:
                error = kafka_error(exc)
                if error is None:
                    raise
                client.fatal = error
            if client.fatal is not None:
                self._replace(client, client.fatal)
            self._drain()
            if not self._unanswered:
                self._log.lines.clear()  # old trouble does not explain a new failure

    def _replace(self, client: _Client, error: KafkaError) -> None:
        """Use a new producer from here on, unless another thread has replaced this one; it refuses late sends."""
        with self._replacing:
            if client is self._client:
                log.warning("%s: new producer after fatal %s", self._name, error)
                self._client = self._new_client()
                self._replaced.append(client)

    def _drain(self) -> None:
        """Call back the records of replaced producers."""
        while self._replaced:
            producer = self._replaced.pop().producer
            producer.purge()
            while len(producer):
                producer.poll(0.1)

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
            self._client.producer.purge()  # the thread delivers these answers, too
        self._ending.set()
        self._thread.join(5)
        if self._thread.is_alive():
            raise LogError(f"sender {self._name}: {self._unanswered} records without an answer at close")
