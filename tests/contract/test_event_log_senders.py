"""The contract of `ledger.log`: senders, against both adapters; and faults of a Kafka producer."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from ledger.errors import EncodeError, LogError, LogUnavailable
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import Acked, NewRecord, OnAck, TopicPartition
from ledger.supervision import workers
from ledger.topics import MAX_RECORD_BYTES, Topics, TopicSpec
from tests.support.patience import PATIENCE_S, until
from tests.support.stage import Acks, Stage, values


def test_every_record_sent_is_answered_once_with_its_position_and_time(stage: Stage) -> None:
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


def test_a_callback_may_send_again(stage: Stage) -> None:
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


def test_closing_answers_everything_and_nothing_is_accepted_afterwards(stage: Stage) -> None:
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


def test_a_callback_that_raises_withholds_no_other_answer_and_stops_the_sender(stage: Stage) -> None:
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
        while sent < 200_000:  # the sender's thread waits in the first answer, so nothing leaves the queue
            sender.send(NewRecord(topic, 0, None, b"x"), acks)
            sent += 1
    except LogUnavailable:
        go.set()
    sender.close()
    assert len(acks.acked) == sent
    assert 1000 <= sent < 200_000


@pytest.mark.kafka
def test_a_sender_whose_producer_had_a_fatal_error_continues_with_another(kafka: KafkaSettings, topics: Topics) -> None:
    log, topic = KafkaLog(kafka), f"{topics.prefix}topic"
    log.ensure_topics([TopicSpec(topic, 1)], PATIENCE_S)
    sender, acks = log.sender("sender"), Acks()
    for n in range(100):
        sender.send(NewRecord(topic, 0, None, b"%d" % n), acks)
    old = sender._client
    old._error(KafkaError(KafkaError._FATAL, "as an idempotent producer reports it", True))
    until(lambda: sender._client is not old)
    assert sender.flush(PATIENCE_S) == 0
    before = len(acks.acked) + len(acks.errors)
    sender.send(NewRecord(topic, 0, None, b"after"), acks)
    assert sender.flush(PATIENCE_S) == 0
    sender.close()
    assert before == 100
    assert log.ends([TopicPartition(topic, 0)], timeout_s=PATIENCE_S) == {TopicPartition(topic, 0): acks.acked[-1].offset + 1}


class EndedProducer:
    """A producer after a fatal error, before anybody has noticed: it accepts nothing."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer

    def produce(self, *_: object, **__: object) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "Unable to produce message: Local: Fatal error", True))

    def __len__(self) -> int:
        return len(self._producer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)


@pytest.mark.kafka
def test_a_record_sent_after_a_fatal_error_reaches_the_next_producer(kafka: KafkaSettings, topics: Topics) -> None:
    """Also from the answer to a record that the error failed: that used to raise inside it, which stopped the sender for good."""
    log, topic = KafkaLog(kafka), f"{topics.prefix}topic"
    log.ensure_topics([TopicSpec(topic, 1)], PATIENCE_S)
    sender, acks = log.sender("sender"), Acks()

    def again(acked: Acked | None, error: LogError | None) -> None:
        sender._client.producer = EndedProducer(sender._client.producer)  # type: ignore[assignment]
        sender.send(NewRecord(topic, 0, None, b"again"), acks)

    sender.send(NewRecord(topic, 0, None, b"first"), again)
    assert sender.flush(PATIENCE_S) == 0
    sender.send(NewRecord(topic, 0, None, b"after"), acks)
    assert sender.flush(PATIENCE_S) == 0
    sender.close()
    assert (len(acks.acked), acks.errors) == (2, [])


class FaultyProducer:
    """A producer whose first polls raise unexpected errors."""

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
def test_a_sender_whose_thread_had_an_error_still_answers(kafka: KafkaSettings, topics: Topics) -> None:
    """Its thread used to end, and no record ever got an answer."""
    log, topic = KafkaLog(kafka), f"{topics.prefix}topic"
    log.ensure_topics([TopicSpec(topic, 1)], PATIENCE_S)
    sender, acks = log.sender(f"{topics.prefix}sender"), Acks()
    faulty = sender._client.producer = FaultyProducer(sender._client.producer, 2)  # type: ignore[assignment]
    until(lambda: faulty.faults == 0)
    for n in range(10):
        sender.send(NewRecord(topic, 0, None, b"%d" % n), acks)
    assert sender.flush(PATIENCE_S) == 0
    assert (len(acks.acked), acks.errors) == (10, [])
    assert [worker.restarts for worker in workers() if worker.name == f"sender {topics.prefix}sender"] == [2]
    sender.close()
