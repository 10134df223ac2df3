"""Shared by all Kafka clients: connection settings, client log, and the meaning of errors."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from ledger.errors import Discard, Fenced, Hole, LogError, LogUnavailable
from ledger.kafka.settings import KafkaSettings

log = logging.getLogger("ledger.kafka")

_KEPT_LINES = 20
_REPEATED_AFTER_S = 30.0

# A newer writer has this transactional id, or the coordinator ended the transaction and raised the epoch itself.
FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})

# The requested position is not in the log (any more): retention, deleted records, a truncated or another log.
GONE = frozenset({KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION})

# The object does not exist, or access is denied. Waiting does not help; librdkafka itself would wait for ever.
REFUSED = frozenset(
    {
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    }
)

# The record itself is always rejected. The last one: because of another record of the same batch.
REJECTED = frozenset(
    {
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.POLICY_VIOLATION,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError._INVALID_DIFFERENT_RECORD,
    }
)

# No answer, or from a broker that cannot serve at the moment. librdkafka keeps retrying by itself.
AWAY = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._NOENT,  # no broker leads the partition now: the answer of list_offsets while a broker has no session
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,  # as the last one: this client knows the new leader a moment before, or the old one still
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_CONTROLLER,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,  # metadata name a leader a moment before it knows itself
    }
)


def client_config(settings: KafkaSettings, name: str) -> dict[str, Any]:
    """Settings for every client, with librdkafka's names; `name` identifies this client in logs and requests."""
    return settings.client_config() | {
        "client.id": f"{settings.client_id}-{name}",
        "reconnect.backoff.ms": 20,  # at 100, the first answer to any new client comes 50 ms later
        "reconnect.backoff.max.ms": 500,
        "socket.timeout.ms": 4000,  # the default of 60 s hides a broker that accepts the request and never answers
        "log_level": 6,  # the connection lines that ClientLog needs have level 6
        "log.connection.close": True,
        "enable.metrics.push": False,  # broker-side telemetry: needless requests on the writer's connection
    }


class ClientLog:
    """The log lines of one client, kept and passed on to `logging`.

    To librdkafka, a closed connection or a repeated request after a time-out is not an error: it reaches no error callback, only
    the log. Lines arrive while the owner polls its client, on the owner's thread.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._logged_at: dict[str, float] = {}

    def log(self, level: int, template: str, *values: object) -> None:
        """`logging.Logger.log`, as confluent_kafka calls it."""
        self._note(template % values)

    def error(self, error: KafkaError) -> None:
        """The client's `error_cb`."""
        self._note(f"{error.name()}: {error.str()}")

    def _note(self, line: str) -> None:
        self.lines.append(line)
        # an outage repeats the same line many times a second, except for the milliseconds at its end
        message, now = line.partition(" (after ")[0], time.monotonic()
        if now > self._logged_at.get(message, -_REPEATED_AFTER_S) + _REPEATED_AFTER_S:
            if len(self._logged_at) > _KEPT_LINES:
                self._logged_at.clear()
            self._logged_at[message] = now
            log.info("%s: %s", self.name, line)

    def said(self) -> str:
        """The last line that contains a reason, for error messages; empty if there is none."""
        return next((f" ({line})" for line in reversed(self.lines) if "brokers are down" not in line), "")


def is_fatal(error: KafkaError) -> bool:
    """Whether its client can never work again. Which of the two signs an error has depends on how it arrived."""
    return error.fatal() or error.code() == KafkaError._FATAL


def kafka_error(exc: BaseException) -> KafkaError | None:
    """The Kafka error inside `exc`, if there is one.

    A fatal error raised while a Python callback runs surfaces as `SystemError` with the KafkaException as its cause.
    """
    if isinstance(exc, SystemError):
        exc = exc.__cause__ or exc
    if isinstance(exc, KafkaException) and exc.args and isinstance(exc.args[0], KafkaError):
        return exc.args[0]
    return None


def log_error(error: KafkaError, doing: str) -> LogError:
    """`error` as one of the ledger's: `Fenced`, `Hole`, `LogUnavailable`, else `LogError`."""
    text = f"{doing}: {error.name()}: {error.str()}"
    code = error.code()
    if code in FENCED:
        return Fenced(text)
    if code in GONE:
        return Hole(text)
    if code in AWAY:
        return LogUnavailable(text)
    return LogError(text)


def from_exception(exc: KafkaException | SystemError, doing: str) -> LogError:
    """`exc` as one of the ledger's errors. A SystemError without a Kafka error inside is a bug and is raised unchanged."""
    error = kafka_error(exc)
    if error is not None:
        return log_error(error, doing)
    if isinstance(exc, SystemError):
        raise exc
    return LogError(f"{doing}: {exc}")


def discard(exc: KafkaException | SystemError, doing: str) -> Discard:
    """`exc` as error of a transactional writer: `Fenced` if fatal, else `Discard`, regardless of its flags."""
    error = kafka_error(exc)
    if error is None:
        if isinstance(exc, SystemError):
            raise exc
        return Discard(f"{doing}: {exc}")
    text = f"{doing}: {error.name()}: {error.str()}"
    return Fenced(text) if is_fatal(error) or error.code() in FENCED else Discard(text)
