"""What only one adapter of `ledger.log` can show: faults on request of the log in memory, and an unreachable Kafka."""

from __future__ import annotations

import time

import pytest

from ledger.errors import Discard, Fenced, LogUnavailable
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Lease, NewRecord, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.topics import TopicSpec
from tests.support.stage import Acks, records, values


def test_memory_fails_a_commit_before_or_after_it_is_done() -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("t", 1)])
    tp = TopicPartition("t", 0)
    for when, end in (("before", 0), ("after", 4)):
        writer = log.writer("w")
        writer.start(1)
        log.fail_next_commit(when)  # type: ignore[arg-type]
        with pytest.raises(Discard) as caught:
            writer.transact(records("t", 0, when))
        assert not isinstance(caught.value, Fenced)
        assert log.ends([tp]) == {tp: end}


def test_memory_fences_on_request() -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("t", 1)])
    writer = log.writer("w")
    writer.start(1)
    log.fence("w")
    with pytest.raises(Fenced):
        writer.transact(records("t", 0, "x"))


def test_an_unreachable_memory_log_answers_nobody_and_comes_back_whole() -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("t", 1)])
    tp = TopicPartition("t", 0)
    reader, sender, writer, acks = log.reader("r"), log.sender("s"), log.writer("w"), Acks()
    reader.assign({tp: 0})
    writer.start(1)
    log.away(True)
    with pytest.raises(LogUnavailable):
        log.ends([tp])
    with pytest.raises(Discard):
        writer.transact(records("t", 0, "x"))
    sender.send(NewRecord("t", 0, None, b"y"), acks)
    sender.flush(1)
    assert [type(e) for e in acks.errors] == [LogUnavailable]
    assert reader.poll(1, 0.05) == []
    assert reader.silent_s() > 0.04
    log.away(False)
    sender.send(NewRecord("t", 0, None, b"z"), acks)
    assert values(reader.poll(1, 5)) == ["z"]
    assert reader.silent_s() == 0
    sender.close()


def test_memory_reports_lost_partitions_to_a_member_that_did_not_poll() -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("t", 2)])
    calls: list[tuple[str, str, list[int]]] = []

    def member(name: str) -> Lease:
        def note(word: str) -> object:
            return lambda partitions: calls.append((name, word, partitions))

        return log.lease("t", "g", name, note("taken"), note("revoked"), note("lost"))  # type: ignore[arg-type]

    a, b = member("a"), member("b")
    a.poll(0)
    b.poll(0)
    log.expire("g", "a")
    b.poll(0)
    a.poll(0)
    assert calls == [("a", "taken", [0]), ("b", "taken", [1]), ("b", "taken", [0]), ("a", "lost", [0]), ("a", "taken", [])]
    b.poll(0)
    a.poll(0)
    assert calls[5:] == [("b", "revoked", [0]), ("a", "taken", [0])] or calls[5:] == [("b", "revoked", [1]), ("a", "taken", [1])]
    a.commit({TopicPartition("t", 0): 7})
    assert log.progress("g", [TopicPartition("t", 0)]) == {TopicPartition("t", 0): 7}


@pytest.mark.kafka
def test_where_nothing_listens_an_error_says_so_in_time() -> None:
    log = KafkaLog(KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1.*refused"):
        log.ends([TopicPartition("t", 0)], timeout_s=5)
    with pytest.raises(LogUnavailable):
        log.writer("w").start(1)
    assert time.monotonic() - began < 60  # the clients' own limits; without them it takes minutes
