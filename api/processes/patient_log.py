"""The log for verbs that end by themselves: retries while the broker cannot answer, and says what it is waiting for."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from ledger.durability import Durability
from ledger.errors import LogUnavailable
from ledger.log import EventLog, Isolation, OpenTransaction, Reader, Record, TopicPartition

PATIENCE_S = 100.0  # for one request; a healthy cluster answers in 0.02 s, a starting one in 3 s
LEAST_PATIENCE_S = 20.0  # of `doctor`, which reports whether the cluster answers at all
FIRST_PAUSE_S, MOST_PAUSE_S = 0.1, 2.0
SILENT_S, SAY_AGAIN_S = 10.0, 60.0  # while a reader waits for an unreachable broker
READ_PATIENCE_S = 900.0

T = TypeVar("T")


def patient(
    event_log: EventLog,
    report: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    patience_s: float = PATIENCE_S,
    stopping: threading.Event | None = None,
    read_patience_s: float = READ_PATIENCE_S,
) -> EventLog:
    """`event_log` whose requests are retried on `LogUnavailable`, for `patience_s` or until `stopping`.

    Writers and senders are passed through: they recover by themselves. So do readers, but a reader that gets no answer says so,
    and raises `LogUnavailable` after `read_patience_s`. `report` receives each message as a line.
    """
    return cast("EventLog", _PatientLog(event_log, report, patience_s, stopping or threading.Event(), read_patience_s))


class _PatientLog:
    """Retries requests; passes everything else through."""

    def __init__(
        self,
        event_log: EventLog,
        report: Callable[[str], None],
        patience_s: float,
        stopping: threading.Event,
        read_patience_s: float,
    ) -> None:
        self._log, self._report, self._patience_s, self._stopping = event_log, report, patience_s, stopping
        self._read_patience_s = read_patience_s
        self._reported = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def reader(self, name: str, **how: Any) -> Reader:
        return cast("Reader", _PatientReader(self._log.reader(name, **how), self._report, self._read_patience_s))

    def durability(self, topics: Iterable[str]) -> list[Durability]:
        wanted = list(topics)
        return self._ask(lambda: self._log.durability(wanted))

    def partitions(self, topic: str) -> int:
        return self._ask(lambda: self._log.partitions(topic))

    def topic_id(self, topic: str) -> bytes:
        return self._ask(lambda: self._log.topic_id(topic))

    def check_topics(self, specs: Iterable[Any]) -> None:
        specs = list(specs)
        self._ask(lambda: self._log.check_topics(specs))

    def ensure_topics(self, specs: Iterable[Any], timeout_s: float = 30.0) -> list[str]:
        specs = list(specs)
        return self._ask(lambda: self._log.ensure_topics(specs, timeout_s))

    def replace_topic(self, spec: Any, timeout_s: float = 30.0) -> None:
        self._ask(lambda: self._log.replace_topic(spec, timeout_s))  # one without records: repeating it changes nothing

    def starts(self, partitions: Iterable[TopicPartition], timeout_s: float = 5.0) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        return self._ask(lambda: self._log.starts(wanted, timeout_s))

    def ends(
        self, partitions: Iterable[TopicPartition], isolation: Isolation = "read_committed", timeout_s: float = 5.0
    ) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        return self._ask(lambda: self._log.ends(wanted, isolation, timeout_s))

    def offset_at(self, partitions: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
        wanted = list(partitions)
        return self._ask(lambda: self._log.offset_at(wanted, timestamp_ms))

    def progress(self, group: str, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
        wanted = list(partitions)
        return self._ask(lambda: self._log.progress(group, wanted))

    def unheld(self, topic: str, group: str, timeout_s: float = 5.0) -> list[int]:
        return self._ask(lambda: self._log.unheld(topic, group, timeout_s))

    def open_transactions(self, partitions: Iterable[TopicPartition], timeout_s: float = 10.0) -> list[OpenTransaction]:
        wanted = list(partitions)
        return self._ask(lambda: self._log.open_transactions(wanted, timeout_s))

    def hidden_ids(self, transactional_ids: Iterable[str], timeout_s: float = 10.0) -> list[str]:
        asked = list(transactional_ids)
        return self._ask(lambda: self._log.hidden_ids(asked, timeout_s))

    def end_transaction(self, open_one: OpenTransaction, commit: bool, timeout_s: float = 10.0) -> None:
        self._ask(lambda: self._log.end_transaction(open_one, commit, timeout_s))  # without effect on one that has ended

    def _ask(self, question: Callable[[], T]) -> T:
        began, pause_s = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                return question()
            except LogUnavailable as exc:
                if self._stopping.is_set() or time.monotonic() - began > self._patience_s:
                    raise
                if not self._reported:
                    self._reported = True
                    self._report(f"Kafka does not answer, retrying for {self._patience_s:.0f} s: {exc}")
                self._stopping.wait(pause_s)
                pause_s = min(pause_s * 2, MOST_PAUSE_S)


class _PatientReader:
    """Reports when nothing arrives because no broker answers, which looks like a log without new records."""

    def __init__(self, reader: Reader, report: Callable[[str], None], patience_s: float) -> None:
        self._reader, self._report, self._patience_s = reader, report, patience_s
        self._say_at_s = SILENT_S

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        records = self._reader.poll(max_records, timeout_s)
        silent_s = self._reader.silent_s()
        if records or silent_s < SILENT_S:
            if self._say_at_s > SILENT_S and silent_s < SILENT_S:
                self._report("Kafka answers again")
                self._say_at_s = SILENT_S
        elif silent_s > self._patience_s:
            raise LogUnavailable(f"Kafka has not answered for {silent_s:.0f} s")
        elif silent_s >= self._say_at_s:
            self._say_at_s = silent_s + SAY_AGAIN_S
            self._report(f"Kafka has not answered for {silent_s:.0f} s, resuming as soon as it does")
        return records
