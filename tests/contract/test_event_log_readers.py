"""The contract of `ledger.log`: readers, against both adapters."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import pytest

from ledger.errors import Hole, LogError
from ledger.log import Reader, Record, TopicPartition
from tests.support.patience import PATIENCE_S, until
from tests.support.stage import Stage, poll_some, records, values


def read_for_ever(reader: Reader, into: list[Record]) -> None:
    while True:
        into += reader.poll(10, 10)


def test_a_reader_begins_in_the_middle_and_follows_new_records(stage: Stage) -> None:
    topic = stage.topic()
    stage.transact(*records(topic, 0, "a", "b", "c"))
    reader = stage.reader({TopicPartition(topic, 0): 1}, max_wait_ms=10)
    assert values(poll_some(reader, 2)) == ["b", "c"]
    assert reader.poll(10, 0.05) == []
    stage.transact(*records(topic, 0, "d"))
    assert values(poll_some(reader, 1)) == ["d"]
    until(lambda: reader.poll(10, 0.05) == [] and reader.silent_s() < 3)


def test_a_reader_of_nothing_waits_and_reads_once_it_is_assigned(stage: Stage) -> None:
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
        batch = reader.poll(7, PATIENCE_S)
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
    assert values(reader.poll(10, PATIENCE_S)) == ["lone"]
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


def test_the_end_reached_is_the_end_of_the_log_also_behind_an_aborted_tail(stage: Stage) -> None:
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
    assert reader.reached_end() == stage.ends([tp]) == {tp: 5}


def test_the_end_is_reached_again_after_new_records(stage: Stage) -> None:
    topic = stage.topic()
    tp = TopicPartition(topic, 0)
    reader = stage.reader({tp: 0}, eof=True, max_wait_ms=10)
    deadline = time.monotonic() + PATIENCE_S
    while reader.reached_end() != {tp: 0}:
        assert time.monotonic() < deadline
        assert reader.poll(10, 0.5) == []
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
    assert stage.log.starts([tp], PATIENCE_S) == {tp: 2}
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


def test_records_read_before_a_hole_are_returned_first(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    stage.transact(*records(topic, 0, *"abc"), *records(topic, 1, "x"))
    reader = stage.reader({TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 100})
    read: list[Record] = []
    with pytest.raises(Hole):
        read_for_ever(reader, read)
    assert values(read) in (list("abc"), [])  # everything fetched before, or nothing: the order of partitions is free


def test_a_reader_of_a_missing_topic_says_so(stage: Stage) -> None:
    reader = stage.reader({TopicPartition(stage.name("missing"), 0): 0})
    with pytest.raises(LogError):
        poll_some(reader, 1)
