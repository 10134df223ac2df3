"""The contract of `ledger.log`, sentence by sentence, against both adapters."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from ledger.errors import Discard, EncodeError, Fenced, Hole, LogError, LogUnavailable, Rejected
from ledger.kafka import lease
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Acked, Lease, NewRecord, OnAck, Reader, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.supervision import workers
from ledger.topics import MAX_RECORD_BYTES, Topics, TopicSpec
from tests.support.patience import PATIENCE_S
from tests.support.stage import Stage


def records(topic: str, partition: int, *values: str) -> list[NewRecord]:
    return [NewRecord(topic, partition, b"key", value.encode()) for value in values]


def values(read: list[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in read]


def poll_some(reader: Reader, count: int) -> list[Record]:
    """At least `count` records, within 20 s."""
    read: list[Record] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(read) < count:
        assert time.monotonic() < deadline, f"only {len(read)} of {count} records came"
        read += reader.poll(100, 0.5)
    return read


def read_for_ever(reader: Reader, into: list[Record]) -> None:
    while True:
        into += reader.poll(10, 10)


# ---- transactions and what readers see -----------------------------------------------------------------------------------
def test_a_committed_transaction_is_read_whole_and_in_order_per_partition(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    stage.transact(*records(topic, 0, "a", "b"), *records(topic, 1, "c"), *records(topic, 0, "d"))
    read = stage.read_to_end({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0})
    assert [r.value for r in read if r.partition == 0] == [b"a", b"b", b"d"]
    assert [(r.topic, r.offset, r.key, r.value) for r in read if r.partition == 1] == [(topic, 0, b"key", b"c")]


def test_positions_of_a_transaction_lead_to_the_next_one(stage: Stage) -> None:
    topic = stage.topic(partitions=3)
    writer = stage.log.writer(stage.name("writer"))
    writer.start(PATIENCE_S)
    first = writer.transact([*records(topic, 0, "a", "b"), *records(topic, 2, "c")])
    assert first == {TopicPartition(topic, 0): 2, TopicPartition(topic, 2): 1}
    second = writer.transact(records(topic, 0, "d"))
    assert set(second) == {TopicPartition(topic, 0)}
    assert values(stage.read_to_end({TopicPartition(topic, 0): first[TopicPartition(topic, 0)]})) == ["d"]
    assert stage.read_to_end({TopicPartition(topic, 0): second[TopicPartition(topic, 0)]}) == []
    writer.close()


def test_transactions_leave_gaps_in_the_offsets(stage: Stage) -> None:
    topic = stage.topic()
    stage.transact(*records(topic, 0, "a", "b"))
    stage.transact(*records(topic, 0, "c"))
    tp = TopicPartition(topic, 0)
    assert [r.offset for r in stage.read_to_end({tp: 0})] == [0, 1, 3]
    assert stage.log.ends([tp]) == {tp: 5}


def test_an_open_transaction_is_not_read_and_holds_back_what_follows(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    tps = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    stage.transact(*records(topic, 0, "before"))
    stage.backstage.leave_open(stage.name("crashed"), records(topic, 0, "open"))
    stage.transact(*records(topic, 0, "behind"), *records(topic, 1, "elsewhere"))
    assert values(stage.read_to_end({tps[0]: 0})) == ["before"]
    assert values(stage.read_to_end({tps[1]: 0})) == ["elsewhere"]
    assert values(stage.read_to_end({tps[0]: 0}, isolation="read_uncommitted")) == ["before", "open", "behind"]
    assert stage.log.ends(tps) == {tps[0]: 2, tps[1]: 2}
    assert stage.log.ends(tps, "read_uncommitted") == {tps[0]: 5, tps[1]: 2}


def test_a_successor_ends_the_open_transaction_and_its_records_are_never_read(stage: Stage) -> None:
    topic, transactional_id = stage.topic(), stage.name("writer")
    tp = TopicPartition(topic, 0)
    stage.backstage.leave_open(transactional_id, records(topic, 0, "torn"))
    successor = stage.log.writer(transactional_id)
    successor.start(PATIENCE_S)
    # final from here on: this is what the fold of a take-over relies on
    assert stage.log.ends([tp]) == stage.log.ends([tp], "read_uncommitted") == {tp: 2}
    successor.transact(records(topic, 0, "whole"))
    successor.close()
    assert values(stage.read_to_end({tp: 0})) == ["whole"]
    assert values(stage.read_to_end({tp: 0}, isolation="read_uncommitted")) == ["torn", "whole"]


def test_a_fenced_writer_commits_nothing_and_takes_nothing_more(stage: Stage) -> None:
    topic, transactional_id = stage.topic(), stage.name("writer")
    old, new = stage.log.writer(transactional_id), stage.log.writer(transactional_id)
    old.start(PATIENCE_S)
    old.transact(records(topic, 0, "mine"))
    new.start(PATIENCE_S)
    with pytest.raises(Discard):
        old.transact(records(topic, 0, "stale"))
    with pytest.raises(Discard):
        old.transact(records(topic, 0, "stale again"))
    assert old.trouble()
    new.transact(records(topic, 0, "yours"))
    assert values(stage.read_to_end({TopicPartition(topic, 0): 0})) == ["mine", "yours"]
    old.close()
    new.close()


def test_a_writer_starts_once_and_not_without_a_start(stage: Stage) -> None:
    topic = stage.topic()
    writer = stage.log.writer(stage.name("writer"))
    with pytest.raises(Discard, match="not started"):
        writer.transact(records(topic, 0, "early"))
    writer = stage.log.writer(stage.name("writer"))
    writer.start(PATIENCE_S)
    assert writer.trouble() is None
    with pytest.raises(LogError, match="started before"):
        writer.start(PATIENCE_S)
    with pytest.raises(ValueError, match="at least one"):
        writer.transact([])
    writer.close()
    with pytest.raises(Discard, match="closed"):
        writer.transact(records(topic, 0, "late"))
    assert stage.read_to_end({TopicPartition(topic, 0): 0}) == []


def test_a_record_too_large_is_refused_and_the_writer_goes_on(stage: Stage) -> None:
    topic = stage.topic()
    writer = stage.log.writer(stage.name("writer"))
    writer.start(PATIENCE_S)
    with pytest.raises(EncodeError, match=str(MAX_RECORD_BYTES)):
        writer.transact([NewRecord(topic, 0, b"", b"x" * (MAX_RECORD_BYTES + 1))])
    assert writer.transact([NewRecord(topic, 0, b"", b"x" * MAX_RECORD_BYTES)]) == {TopicPartition(topic, 0): 1}
    writer.close()


def test_a_transaction_of_records_that_are_each_as_large_as_allowed_commits(stage: Stage) -> None:
    topic = stage.topic()
    stage.transact(*[NewRecord(topic, 0, b"", bytes([n]) * MAX_RECORD_BYTES) for n in range(12)])
    assert len(stage.read_to_end({TopicPartition(topic, 0): 0})) == 12


def test_key_value_headers_and_time_arrive_as_written(stage: Stage) -> None:
    topic = stage.topic(message_timestamp_type="CreateTime")
    headers = (("ce_id", b"o/1"), ("ce_type", b"OrderPlaced"), ("ce_id", b"twice"))
    stage.transact(NewRecord(topic, 0, b"k", b"v", 1_700_000_000_123, headers), NewRecord(topic, 0, None, None, 5))
    tp = TopicPartition(topic, 0)
    assert stage.read_to_end({tp: 0}, headers=True) == [
        Record(topic, 0, 0, 1_700_000_000_123, b"k", b"v", headers),
        Record(topic, 0, 1, 5, None, None, ()),
    ]
    assert [r.headers for r in stage.read_to_end({tp: 0})] == [(), ()]


def test_log_append_time_is_the_logs_own(stage: Stage) -> None:
    topic = stage.topic(message_timestamp_type="LogAppendTime")
    stage.transact(NewRecord(topic, 0, b"k", b"v", 1_700_000_000_123))
    [read] = stage.read_to_end({TopicPartition(topic, 0): 0})
    assert abs(read.timestamp_ms - time.time() * 1000) < 60_000


def test_a_record_that_the_log_refuses_is_named_and_the_next_writer_goes_on(stage: Stage) -> None:
    topic = stage.topic(message_timestamp_type="CreateTime", message_timestamp_after_max_ms="3600000")
    writer = stage.log.writer(name := stage.name("writer"))
    writer.start(60)
    ahead_ms = int(time.time() * 1000) + 2 * 3_600_000
    with pytest.raises(Rejected, match="INVALID_TIMESTAMP"):
        writer.transact([NewRecord(topic, 0, b"k", b"now"), NewRecord(topic, 0, b"k", b"ahead", ahead_ms)])
    writer.close()
    successor = stage.log.writer(name)
    successor.start(60)
    successor.transact([NewRecord(topic, 0, b"k", b"next")])
    successor.close()
    assert [r.value for r in stage.read_to_end({TopicPartition(topic, 0): 0})] == [b"next"]


def test_the_ledgers_own_topics_take_any_time(stage: Stage, topics: Topics) -> None:
    stage.log.ensure_topics(topics.specs(1, 1))
    far_ms = 253_402_300_799_000  # the year 9999
    for topic in (topics.events, topics.refusals, topics.contacts):
        stage.transact(NewRecord(topic, 0, b"k", b"ahead", far_ms), NewRecord(topic, 0, b"k", b"long ago", 1))
        assert [r.timestamp_ms for r in stage.read_to_end({TopicPartition(topic, 0): 0})] == [far_ms, 1]


# ---- readers -------------------------------------------------------------------------------------------------------------
def test_a_reader_begins_in_the_middle_and_follows_new_records(stage: Stage) -> None:
    topic = stage.topic()
    stage.transact(*records(topic, 0, "a", "b", "c"))
    reader = stage.reader({TopicPartition(topic, 0): 1}, max_wait_ms=10)
    assert values(poll_some(reader, 2)) == ["b", "c"]
    assert reader.poll(10, 0.05) == []
    stage.transact(*records(topic, 0, "d"))
    assert values(poll_some(reader, 1)) == ["d"]
    until(lambda: reader.poll(10, 0.05) == [] and reader.silent_s() < 3)


def test_a_reader_of_nothing_waits_and_reads_once_it_is_told_what(stage: Stage) -> None:
    topic = stage.topic()
    stage.transact(*records(topic, 0, "a"))
    reader = stage.reader({})
    began = time.monotonic()
    assert reader.poll(10, 0.1) == []
    assert time.monotonic() - began > 0.09
    assert reader.silent_s() < 0.05
    reader.assign({TopicPartition(topic, 0): 0})
    assert values(poll_some(reader, 1)) == ["a"]
    reader.assign({})
    assert reader.poll(10, 0.1) == []
    assert reader.silent_s() < 0.05


def test_poll_returns_no_more_than_asked_for_and_loses_nothing(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    stage.transact(*records(topic, 0, *map(str, range(50))), *records(topic, 1, *map(str, range(50))))
    reader = stage.reader({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0})
    by_partition = defaultdict(list)
    while sum(map(len, by_partition.values())) < 100:
        batch = reader.poll(7, 5)
        assert 0 < len(batch) <= 7
        for record in batch:
            by_partition[record.partition].append(int(record.value or b""))
    assert by_partition == {0: list(range(50)), 1: list(range(50))}


def test_poll_does_not_wait_for_a_full_batch(stage: Stage) -> None:
    topic = stage.topic()
    reader = stage.reader({TopicPartition(topic, 0): 0}, max_wait_ms=10)
    assert reader.poll(1000, 0.3) == []
    stage.transact(*records(topic, 0, "lone"))
    began = time.monotonic()
    assert values(reader.poll(1000, 2 * PATIENCE_S)) == ["lone"]
    assert time.monotonic() - began < PATIENCE_S


def test_a_poll_that_waits_is_woken_by_a_record(stage: Stage) -> None:
    topic = stage.topic()
    reader = stage.reader({TopicPartition(topic, 0): 0}, max_wait_ms=10)
    reader.poll(1, 0.3)
    later = threading.Timer(0.3, stage.transact, records(topic, 0, "lone"))
    later.start()
    assert values(reader.poll(10, 10)) == ["lone"]
    later.join()


def test_assign_replaces_the_assignment(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    stage.transact(*records(topic, 0, "a", "b"), *records(topic, 1, "c"))
    reader = stage.reader({TopicPartition(topic, 0): 0}, eof=True)
    assert values(poll_some(reader, 2)) == ["a", "b"]
    while not reader.reached_end():
        reader.poll(10, 0.2)
    reader.assign({TopicPartition(topic, 1): 0})
    assert reader.reached_end() == {}
    assert values(poll_some(reader, 1)) == ["c"]
    reader.assign({TopicPartition(topic, 0): 1})
    assert values(poll_some(reader, 1)) == ["b"]


def test_the_end_reached_is_the_end_told_also_behind_an_aborted_tail(stage: Stage) -> None:
    topic, transactional_id = stage.topic(), stage.name("writer")
    tp = TopicPartition(topic, 0)
    stage.transact(*records(topic, 0, "a"))
    stage.backstage.leave_open(transactional_id, records(topic, 0, "x", "y"))
    stage.log.writer(transactional_id).start(PATIENCE_S)
    reader = stage.reader({tp: 0}, eof=True)
    read: list[Record] = []
    while not reader.reached_end():
        read += reader.poll(10, 0.5)
    assert values(read) == ["a"]
    assert reader.reached_end() == stage.log.ends([tp]) == {tp: 5}


def test_an_end_is_met_again_after_new_records(stage: Stage) -> None:
    topic = stage.topic()
    tp = TopicPartition(topic, 0)
    reader = stage.reader({tp: 0}, eof=True, max_wait_ms=10)
    assert reader.poll(10, 10) == []
    assert reader.reached_end() == {tp: 0}
    stage.transact(*records(topic, 0, "a"))
    assert values(poll_some(reader, 1)) == ["a"]
    deadline = time.monotonic() + PATIENCE_S
    while reader.reached_end() != {tp: 2}:
        assert time.monotonic() < deadline
        assert reader.poll(10, 0.5) == []


def test_a_position_that_was_removed_is_a_hole(stage: Stage) -> None:
    topic = stage.topic()
    tp = TopicPartition(topic, 0)
    stage.transact(*records(topic, 0, "a", "b", "c"))
    stage.backstage.truncate(tp, 2)
    assert stage.log.starts([tp]) == {tp: 2}
    reader = stage.reader({tp: 1})
    with pytest.raises(Hole):
        poll_some(reader, 1)
    with pytest.raises(Hole):
        reader.poll(1, 0.1)
    assert values(stage.read_to_end({tp: 2})) == ["c"]


def test_a_position_behind_the_end_is_a_hole(stage: Stage) -> None:
    topic = stage.topic()
    stage.transact(*records(topic, 0, "a"))
    with pytest.raises(Hole):
        poll_some(stage.reader({TopicPartition(topic, 0): 100}), 1)


def test_what_was_read_before_a_hole_is_returned_first(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    stage.transact(*records(topic, 0, *"abc"), *records(topic, 1, "x"))
    reader = stage.reader({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 100})
    read: list[Record] = []
    with pytest.raises(Hole):
        read_for_ever(reader, read)
    assert values(read) in (list("abc"), [])  # all that was fetched before, or nothing: the order of partitions is free


def test_a_reader_of_nothing_there_says_so(stage: Stage) -> None:
    reader = stage.reader({TopicPartition(stage.name("missing"), 0): 0})
    with pytest.raises(LogError):
        poll_some(reader, 1)


# ---- questions -----------------------------------------------------------------------------------------------------------
def test_offset_at_finds_the_first_record_not_older(stage: Stage) -> None:
    topic = stage.topic(partitions=2, message_timestamp_type="CreateTime")
    stage.transact(*[NewRecord(topic, 0, b"", b"", t) for t in (1000, 2000, 2000, 3000)])
    tps = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    assert stage.log.offset_at(tps, 0) == {tps[0]: 0, tps[1]: 0}
    assert stage.log.offset_at(tps, 1500) == {tps[0]: 1, tps[1]: 0}
    assert stage.log.offset_at(tps, 3000) == {tps[0]: 3, tps[1]: 0}
    # a marker has a time of its own: behind the last record, before or at the end
    behind = stage.log.offset_at(tps, 3001)
    assert 4 <= behind[tps[0]] <= 5
    assert stage.read_to_end(behind) == []
    assert stage.log.offset_at(tps, int(time.time() * 1000) + 60_000) == {tps[0]: 5, tps[1]: 0}


def test_topics_are_created_once_and_counted(stage: Stage) -> None:
    spec = TopicSpec(stage.name("topic"), 3, {"cleanup.policy": "delete"})
    assert stage.log.ensure_topics([spec]) == [spec.name]
    assert stage.log.ensure_topics([spec]) == []
    assert stage.log.partitions(spec.name) == 3
    with pytest.raises(LogError):
        stage.log.partitions(stage.name("missing"))
    with pytest.raises(LogError):
        stage.log.topic_id(stage.name("missing"))
    with pytest.raises(LogError):
        stage.log.ends([TopicPartition(stage.name("missing"), 0)])
    assert stage.log.ends([]) == stage.log.starts([]) == {}


def test_a_topic_made_anew_has_another_id_and_is_empty(stage: Stage) -> None:
    spec = TopicSpec(stage.name("topic"), 1)
    stage.log.ensure_topics([spec])
    before = stage.log.topic_id(spec.name)
    assert (len(before), stage.log.topic_id(spec.name)) == (16, before)
    stage.transact(*records(spec.name, 0, "a"))
    stage.backstage.recreate(spec)
    after = stage.log.topic_id(spec.name)
    assert len(after) == 16
    assert after != before
    tp = TopicPartition(spec.name, 0)
    assert stage.log.ends([tp]) == {tp: 0}


# ---- the sender ----------------------------------------------------------------------------------------------------------
class Acks:
    """Collects answers; `names` are the threads they came on."""

    def __init__(self) -> None:
        self.acked: list[Acked] = []
        self.errors: list[LogError] = []
        self.names: set[str] = set()

    def __call__(self, acked: Acked | None, error: LogError | None) -> None:
        self.names.add(threading.current_thread().name)
        if acked is not None:
            self.acked.append(acked)
        if error is not None:
            self.errors.append(error)


def test_every_record_sent_is_answered_once_with_where_and_when_it_landed(stage: Stage) -> None:
    topic = stage.topic(partitions=2, message_timestamp_type="LogAppendTime")
    sender, acks = stage.log.sender("sender-under-test"), Acks()
    for n in range(300):
        sender.send(NewRecord(topic, n % 2, b"k", str(n).encode(), 0, (("h", b"1"),)), acks)
    assert sender.flush(PATIENCE_S) == 0
    read = stage.read_to_end({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0}, headers=True)
    assert sorted(acks.acked) == sorted(Acked(r.partition, r.offset, r.timestamp_ms) for r in read)
    assert [int(r.value or b"") for r in read if r.partition == 0] == list(range(0, 300, 2))
    assert (len(read), acks.errors, acks.names) == (300, [], {"sender sender-under-test"})
    assert {r.headers for r in read} == {(("h", b"1"),)}
    sender.close()


def test_an_answer_may_send_again(stage: Stage) -> None:
    topic = stage.topic()
    sender, acks = stage.log.sender(stage.name("sender")), Acks()

    def then(value: bytes, on_ack: OnAck) -> OnAck:
        def answered(acked: Acked | None, error: LogError | None) -> None:
            acks(acked, error)
            sender.send(NewRecord(topic, 0, None, value), on_ack)

        return answered

    sender.send(NewRecord(topic, 0, None, b"1"), then(b"2", then(b"3", acks)))
    deadline = time.monotonic() + PATIENCE_S
    while len(acks.acked) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [a.offset for a in acks.acked] == [0, 1, 2]
    assert values(stage.read_to_end({TopicPartition(topic, 0): 0})) == ["1", "2", "3"]
    sender.close()


def test_closing_answers_everything_and_nothing_is_taken_afterwards(stage: Stage) -> None:
    topic = stage.topic()
    sender, acks = stage.log.sender(stage.name("sender")), Acks()
    for n in range(1000):
        sender.send(NewRecord(topic, 0, None, str(n).encode()), acks)
    sender.close()
    assert len(acks.acked) == 1000
    with pytest.raises(LogError, match="closed"):
        sender.send(NewRecord(topic, 0, None, b"late"), acks)


def test_a_record_too_large_is_refused_before_it_is_sent(stage: Stage) -> None:
    topic = stage.topic()
    sender, acks = stage.log.sender(stage.name("sender")), Acks()
    with pytest.raises(EncodeError):
        sender.send(NewRecord(topic, 0, b"k", b"x" * MAX_RECORD_BYTES), acks)
    assert sender.flush(1) == 0
    assert (acks.acked, acks.errors) == ([], [])
    sender.close()


def test_a_callback_that_raises_keeps_no_answer_from_others_and_stops_the_sender(stage: Stage) -> None:
    topic = stage.topic()
    sender, acks = stage.log.sender(stage.name("sender")), Acks()

    def broken(acked: Acked | None, error: LogError | None) -> None:
        raise ZeroDivisionError("a bug")

    sender.send(NewRecord(topic, 0, None, b"1"), broken)
    sender.send(NewRecord(topic, 0, None, b"2"), acks)
    assert sender.flush(PATIENCE_S) == 0
    assert len(acks.acked) == 1
    with pytest.raises(LogError, match="a bug"):
        sender.send(NewRecord(topic, 0, None, b"3"), acks)
    sender.close()


def test_a_sender_takes_a_bounded_number_of_records(stage: Stage) -> None:
    topic = stage.topic()
    sender, acks, go = stage.log.sender(stage.name("sender")), Acks(), threading.Event()

    def waits(acked: Acked | None, error: LogError | None) -> None:
        assert go.wait(PATIENCE_S)

    sender.send(NewRecord(topic, 0, None, b"first"), waits)
    sent = 0
    try:
        while sent < 200_000:  # the sender's thread waits in the first answer, so nothing is taken off the queue
            sender.send(NewRecord(topic, 0, None, b"x"), acks)
            sent += 1
    except LogUnavailable:
        go.set()
    sender.close()
    assert len(acks.acked) == sent
    assert 1000 <= sent < 200_000


# ---- leases --------------------------------------------------------------------------------------------------------------
class Member:
    """A process that polls its lease and remembers what it was told."""

    def __init__(self, stage: Stage, topic: str, group: str, instance: str) -> None:
        self.held: set[int] = set()
        self.lost: list[int] = []
        self.error: LogError | None = None
        self._stop = threading.Event()
        self.lease: Lease = stage.log.lease(topic, group, instance, self.taken, self.revoked, self.gone)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def taken(self, partitions: list[int]) -> None:
        assert not self.held & set(partitions), "a partition was given that is held already"
        self.held |= set(partitions)

    def revoked(self, partitions: list[int]) -> None:
        self.held -= set(partitions)

    def gone(self, partitions: list[int]) -> None:
        self.lost += partitions
        self.held -= set(partitions)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self.lease.poll(0.1)
        except LogError as exc:
            self.error = exc

    def leave(self) -> None:
        self._stop.set()
        self._thread.join()
        self.lease.close()


def until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_two_members_share_the_writers_and_the_one_that_stays_takes_over(stage: Stage) -> None:
    topic, group = stage.topic(partitions=4), stage.name("group")
    a = Member(stage, topic, group, "a")
    until(lambda: a.held == {0, 1, 2, 3})
    b = Member(stage, topic, group, "b")
    until(lambda: len(a.held) == len(b.held) == 2)
    assert a.held | b.held == {0, 1, 2, 3}
    kept = set(a.held)
    b.leave()
    until(lambda: a.held == {0, 1, 2, 3})
    assert kept <= a.held
    assert a.lost == []
    a.leave()


def test_the_same_instance_gets_its_share_back_without_waiting_for_the_session(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_s, config = 2 * PATIENCE_S, lease.lease_config
    longer = dict.fromkeys(("session.timeout.ms", "max.poll.interval.ms"), int(session_s * 1000))
    monkeypatch.setattr(lease, "lease_config", lambda *about: config(*about) | longer)
    topic, group = stage.topic(partitions=2), stage.name("group")
    a, b = Member(stage, topic, group, "a"), Member(stage, topic, group, "b")
    until(lambda: len(a.held) == len(b.held) == 1)
    b.leave()
    began = time.monotonic()
    again = Member(stage, topic, group, "b")
    until(lambda: len(again.held) == 1)
    assert time.monotonic() - began < session_s
    a.leave()
    again.leave()


def test_a_second_process_of_the_same_name_ends_the_first_ones_lease_for_ever(stage: Stage) -> None:
    topic, group = stage.topic(partitions=2), stage.name("group")
    first = Member(stage, topic, group, "a")
    until(lambda: len(first.held) == 2)
    second = Member(stage, topic, group, "a")
    until(lambda: len(second.held) == 2)
    until(lambda: first.error is not None)
    assert "instance name" in str(first.error)
    second.leave()
    first.leave()


def test_what_nobody_holds_is_told_and_a_member_that_joins_again_makes_the_group_share_again(stage: Stage) -> None:
    topic, group = stage.topic(partitions=2), stage.name("group")
    assert stage.log.unheld(topic, group) == [0, 1]
    held: set[int] = set()
    lease = stage.log.lease(topic, group, "a", held.update, held.difference_update, held.difference_update)
    until(lambda: lease.poll(0.1) or held == {0, 1})
    until(lambda: lease.poll(0.1) or stage.log.unheld(topic, group) == [])
    lease.rejoin()
    assert held == set()
    until(lambda: lease.poll(0.1) or held == {0, 1}, 120)
    lease.close()


def test_what_a_callback_raises_comes_out_of_poll(stage: Stage) -> None:
    def broken(partitions: list[int]) -> None:
        raise ZeroDivisionError("a bug")

    topic = stage.topic()
    lease = stage.log.lease(topic, stage.name("group"), "a", broken, lambda _: None, lambda _: None)
    deadline = time.monotonic() + PATIENCE_S
    error: BaseException | None = None
    while error is None and time.monotonic() < deadline:
        try:
            lease.poll(0.1)
        except ZeroDivisionError as exc:
            error = exc
    assert isinstance(error, ZeroDivisionError)
    lease.close()


def test_a_bookmark_is_there_for_whoever_asks_next_and_none_where_none_was_written(stage: Stage) -> None:
    topic = stage.topic(partitions=3)
    tps = [TopicPartition(topic, p) for p in range(3)]
    group = stage.name("bookmark")
    first = stage.log.bookmark(group)
    assert first.read(tps) == dict.fromkeys(tps)
    first.write({tps[0]: 7, tps[1]: 0})
    first.write({tps[0]: 8})
    first.close()
    second = stage.log.bookmark(group)
    assert second.read(tps) == {tps[0]: 8, tps[1]: 0, tps[2]: None}
    assert second.read([]) == {}
    second.write({tps[0]: 3})  # back, too: it is a position and no high mark
    assert second.read(tps[:1]) == {tps[0]: 3}
    second.close()
    other = stage.log.bookmark(stage.name("other-bookmark"))
    assert other.read(tps) == dict.fromkeys(tps)
    other.close()


def test_progress_is_noted_for_monitors_at_any_time_and_harms_nobody(stage: Stage) -> None:
    topic, commands, group = stage.topic(partitions=2), stage.topic(partitions=2), stage.name("group")
    noted = {TopicPartition(commands, 0): 7, TopicPartition(commands, 1): 9}
    assert stage.log.progress(group, noted) == dict.fromkeys(noted, 0)
    held: set[int] = set()
    lease = stage.log.lease(topic, group, "a", held.update, held.difference_update, held.difference_update)
    lease.commit({TopicPartition(commands, 0): 3})  # before the group has let us in
    until(lambda: lease.poll(0.1) or held == {0, 1})
    lease.commit(noted)
    until(lambda: lease.poll(0.1) or stage.log.progress(group, noted) == noted)
    assert stage.log.progress(group, [TopicPartition(commands, 1)]) == {TopicPartition(commands, 1): 9}
    lease.close()


# ---- what only one adapter can show --------------------------------------------------------------------------------------
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


def test_memory_that_is_away_answers_nobody_and_comes_back_whole() -> None:
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


def test_memory_tells_a_member_that_did_not_poll_what_it_lost() -> None:
    log = MemoryLog()
    log.ensure_topics([TopicSpec("t", 2)])
    told: list[tuple[str, str, list[int]]] = []

    def member(name: str) -> Lease:
        def note(word: str) -> object:
            return lambda partitions: told.append((name, word, partitions))

        return log.lease("t", "g", name, note("taken"), note("revoked"), note("lost"))  # type: ignore[arg-type]

    a, b = member("a"), member("b")
    a.poll(0)
    b.poll(0)
    log.expire("g", "a")
    b.poll(0)
    a.poll(0)
    assert told == [("a", "taken", [0]), ("b", "taken", [1]), ("b", "taken", [0]), ("a", "lost", [0])]
    b.poll(0)
    a.poll(0)
    assert told[4:] == [("b", "revoked", [0]), ("a", "taken", [0])] or told[4:] == [("b", "revoked", [1]), ("a", "taken", [1])]
    a.commit({TopicPartition("t", 0): 7})
    assert log.progress("g", [TopicPartition("t", 0)]) == {TopicPartition("t", 0): 7}


@pytest.mark.kafka
def test_a_sender_whose_producer_met_a_fatal_error_goes_on_with_another(kafka: KafkaSettings, topics: Topics) -> None:
    log, topic = KafkaLog(kafka), f"{topics.prefix}topic"
    log.ensure_topics([TopicSpec(topic, 1)])
    sender, acks = log.sender("sender"), Acks()
    for n in range(100):
        sender.send(NewRecord(topic, 0, None, b"%d" % n), acks)
    old = sender._producer
    sender._error(KafkaError(KafkaError._FATAL, "as an idempotent producer reports it", True))
    until(lambda: sender._producer is not old)
    assert sender.flush(PATIENCE_S) == 0
    before = len(acks.acked) + len(acks.errors)
    sender.send(NewRecord(topic, 0, None, b"after"), acks)
    assert sender.flush(PATIENCE_S) == 0
    sender.close()
    assert before == 100
    assert log.ends([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): acks.acked[-1].offset + 1}


@pytest.mark.kafka
def test_nothing_listens_there_is_an_answer_in_time_that_says_so() -> None:
    log = KafkaLog(KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    began = time.monotonic()
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1.*refused"):
        log.ends([TopicPartition("t", 0)], timeout_s=1)
    with pytest.raises(LogUnavailable):
        log.writer("w").start(1)
    assert time.monotonic() - began < 60  # of the clients' own patience: without the limits it is minutes


@pytest.mark.kafka
def test_a_group_that_cannot_be_joined_just_now_is_joined_later(
    kafka: KafkaSettings, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease that asked for it goes on: it ended `commands`."""
    log, topic = KafkaLog(kafka), f"{topics.prefix}writers"
    log.ensure_topics([TopicSpec(topic, 2)])
    held: set[int] = set()
    member = log.lease(topic, f"{topics.prefix}group", "a", held.update, held.difference_update, held.difference_update)
    until(lambda: member.poll(0.1) or held == {0, 1})
    made, refused = lease.Consumer, 2

    def consumer(*arguments: object, **named: object) -> object:
        nonlocal refused
        if refused:
            refused -= 1
            raise KafkaException(KafkaError(KafkaError._CRIT_SYS_RESOURCE, "no thread can be made"))
        return made(*arguments, **named)

    monkeypatch.setattr(lease, "Consumer", consumer)
    monkeypatch.setattr(lease, "JOIN_AGAIN_S", 0.2)
    member.rejoin()
    assert held == set()
    until(lambda: member.poll(0.1) or held == {0, 1}, 120)
    assert refused == 0
    member.close()


class FaultyProducer:
    """A producer whose first polls raise what nobody thought of."""

    def __init__(self, producer: Any, faults: int) -> None:
        self._producer, self.faults = producer, faults

    def poll(self, timeout_s: float) -> int:
        if self.faults:
            self.faults -= 1
            raise ZeroDivisionError("a bug")
        return int(self._producer.poll(timeout_s))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


@pytest.mark.kafka
def test_a_sender_whose_thread_met_a_fault_answers_all_the_same(kafka: KafkaSettings, topics: Topics) -> None:
    """Its thread was gone, and every record without an answer for good."""
    log, topic = KafkaLog(kafka), f"{topics.prefix}topic"
    log.ensure_topics([TopicSpec(topic, 1)])
    sender, acks = log.sender(f"{topics.prefix}sender"), Acks()
    faulty = sender._producer = FaultyProducer(sender._producer, 2)  # type: ignore[assignment]
    until(lambda: faulty.faults == 0)
    for n in range(10):
        sender.send(NewRecord(topic, 0, None, b"%d" % n), acks)
    assert sender.flush(PATIENCE_S) == 0
    assert (len(acks.acked), acks.errors) == (10, [])
    assert [worker.restarts for worker in workers() if worker.name == f"sender {topics.prefix}sender"] == [2]
    sender.close()
