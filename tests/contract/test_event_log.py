"""The contract of `ledger.log`, sentence by sentence, against both adapters: transactions, topics, offsets.

Readers, senders and groups have files of their own beside this one.
"""

from __future__ import annotations

import time

import pytest

from ledger.errors import Discard, EncodeError, LogError, Rejected
from ledger.log import NewRecord, Record, TopicPartition
from ledger.topics import MAX_RECORD_BYTES, Topics, TopicSpec
from tests.support.patience import PATIENCE_S
from tests.support.stage import Stage, records, values

# ---- transactions and what readers see ------------------------------------------------------------------------------


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
    assert stage.ends([tp]) == {tp: 5}


def test_an_open_transaction_is_not_read_and_holds_back_later_records(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    tps = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    stage.transact(*records(topic, 0, "before"))
    stage.backstage.leave_open(stage.name("crashed"), records(topic, 0, "open"))
    stage.transact(*records(topic, 0, "behind"), *records(topic, 1, "elsewhere"))
    assert values(stage.read_to_end({tps[0]: 0})) == ["before"]
    assert values(stage.read_to_end({tps[1]: 0})) == ["elsewhere"]
    assert values(stage.read_to_end({tps[0]: 0}, isolation="read_uncommitted")) == ["before", "open", "behind"]
    assert stage.ends(tps) == {tps[0]: 2, tps[1]: 2}
    assert stage.ends(tps, "read_uncommitted") == {tps[0]: 5, tps[1]: 2}


def test_a_successor_ends_the_open_transaction_and_its_records_are_never_read(stage: Stage) -> None:
    topic, transactional_id = stage.topic(), stage.name("writer")
    tp = TopicPartition(topic, 0)
    stage.backstage.leave_open(transactional_id, records(topic, 0, "torn"))
    successor = stage.log.writer(transactional_id)
    successor.start(PATIENCE_S)
    # final from here on: the fold of a take-over relies on it
    assert stage.ends([tp]) == stage.ends([tp], "read_uncommitted") == {tp: 2}
    successor.transact(records(topic, 0, "whole"))
    successor.close()
    assert values(stage.read_to_end({tp: 0})) == ["whole"]
    assert values(stage.read_to_end({tp: 0}, isolation="read_uncommitted")) == ["torn", "whole"]


def test_a_fenced_writer_commits_nothing_and_accepts_nothing_more(stage: Stage) -> None:
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
    with pytest.raises(LogError, match="already started"):
        writer.start(PATIENCE_S)
    with pytest.raises(ValueError, match="at least one"):
        writer.transact([])
    writer.close()
    with pytest.raises(Discard, match="closed"):
        writer.transact(records(topic, 0, "late"))
    assert stage.read_to_end({TopicPartition(topic, 0): 0}) == []


def test_a_record_too_large_is_refused_and_the_writer_continues(stage: Stage) -> None:
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


def test_a_record_that_the_log_refuses_is_named_and_the_next_writer_continues(stage: Stage) -> None:
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


def test_the_ledgers_own_topics_accept_any_time(stage: Stage, topics: Topics) -> None:
    stage.log.ensure_topics(topics.specs(1, 1))
    far_ms = 253_402_300_799_000  # the year 9999
    for topic in (topics.events, topics.refusals, topics.contacts):
        stage.transact(NewRecord(topic, 0, b"k", b"ahead", far_ms), NewRecord(topic, 0, b"k", b"long ago", 1))
        assert [r.timestamp_ms for r in stage.read_to_end({TopicPartition(topic, 0): 0})] == [far_ms, 1]


# ---- questions ------------------------------------------------------------------------------------------------------


def test_offset_at_finds_the_first_record_not_older(stage: Stage) -> None:
    topic = stage.topic(partitions=2, message_timestamp_type="CreateTime")
    stage.transact(*[NewRecord(topic, 0, b"", b"", t) for t in (1000, 2000, 2000, 3000)])
    tps = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    assert stage.log.offset_at(tps, 0) == {tps[0]: 0, tps[1]: 0}
    assert stage.log.offset_at(tps, 1500) == {tps[0]: 1, tps[1]: 0}
    assert stage.log.offset_at(tps, 3000) == {tps[0]: 3, tps[1]: 0}
    # a marker has a time of its own: the answer is after the last record, before or at the end
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


def test_a_topic_that_is_deleted_and_created_again_has_another_id_and_is_empty(stage: Stage) -> None:
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
    assert stage.ends([tp]) == {tp: 0}


def test_a_topic_without_records_is_replaced_by_one_with_other_partitions(stage: Stage) -> None:
    topic = stage.topic(partitions=3)
    before = stage.log.topic_id(topic)
    for partitions in (5, 2):
        stage.log.replace_topic(TopicSpec(topic, partitions))
        assert stage.log.partitions(topic) == partitions
    assert stage.log.topic_id(topic) != before
    stage.transact(*records(topic, 1, "a"))
    with pytest.raises(LogError, match="has records"):
        stage.log.replace_topic(TopicSpec(topic, 4))
    assert values(stage.read_to_end({TopicPartition(topic, 1): 0})) == ["a"]
    new = stage.name("new")
    stage.log.replace_topic(TopicSpec(new, 2))
    assert stage.log.partitions(new) == 2
