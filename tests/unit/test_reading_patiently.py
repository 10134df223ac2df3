"""A verb that reads the log while its broker is unreachable says so: silence would look like a log without news."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator

import pytest

from api.processes import patient_log
from api.processes.patient_log import patient
from ledger.errors import LogUnavailable
from ledger.log import NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.reading import committed, committed_within
from ledger.topics import Topics
from tests.support.patience import PATIENCE_S

TOPICS = Topics()
TP = TopicPartition(TOPICS.events, 0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryLog]:
    monkeypatch.setattr(patient_log, "SILENT_S", 0.05)
    monkeypatch.setattr(patient_log, "SAY_AGAIN_S", 0.1)
    created = MemoryLog()
    created.ensure_topics(TOPICS.specs(1, 1))
    writer = created.writer("w")
    writer.start(1)
    writer.transact([NewRecord(*TP, b"k", b"%d" % n) for n in range(3)])
    yield created
    created.away(False)


def read(log: MemoryLog, said: list[str], patience_s: float, stopping: threading.Event) -> list[bytes | None]:
    reader = patient(log, said.append, read_patience_s=patience_s, stopping=stopping).reader("r", eof=True, max_wait_ms=10)
    try:
        return [record.value for record in committed(reader, {TP: 0}, {TP: 4}, stopping)]
    finally:
        reader.close()


def test_a_reader_whose_broker_left_says_so_and_resumes_when_it_is_back(log: MemoryLog) -> None:
    """It used to wait for ever without a line."""
    said: list[str] = []

    def note(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            log.away(False)

    log.away(True)
    reader = patient(log, note).reader("r", eof=True)
    values = [record.value for record in committed(reader, {TP: 0}, {TP: 4}, threading.Event())]
    reader.close()
    assert values == [b"0", b"1", b"2"]
    assert [line.split(" for ")[0] for line in said[:3]] == ["Kafka has not answered"] * 3
    assert said[3:] in ([], ["Kafka answers again"])  # the first records show it too


def test_a_verb_that_ends_gives_up_and_one_that_follows_does_not(log: MemoryLog) -> None:
    log.away(True)
    with pytest.raises(LogUnavailable, match="has not answered for"):
        read(log, [], 0.3, threading.Event())
    stopping, said = threading.Event(), list[str]()
    reader = patient(log, said.append, read_patience_s=math.inf).reader("r", eof=True)
    polls = committed(reader, {TP: 0}, None, stopping, lambda: len(said) >= 4)
    assert list(polls) == []
    assert len(said) == 4


def test_a_log_without_news_is_not_silent(log: MemoryLog) -> None:
    said: list[str] = []
    reader = patient(log, said.append).reader("r", eof=True)
    reader.assign({TP: 4})
    for _ in range(5):
        assert reader.poll(10, 0.05) == []
    assert said == []


def test_a_read_that_took_too_long_never_looks_like_a_whole_one(log: MemoryLog) -> None:
    reader = log.reader("r", eof=True)
    values = [record.value for record in committed_within(reader, {TP: 0}, {TP: 4}, PATIENCE_S)]
    assert values == [b"0", b"1", b"2"]
    log.away(True)
    with pytest.raises(LogUnavailable, match=r"order-events could not be read within 0 s"):
        list(committed_within(reader, {TP: 0}, {TP: 4}, 0.1))
    reader.close()
