"""Open transactions in both adapters: some that their coordinator ends, some that nobody ends, and how those are ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.broker.node import EmbeddedBroker
from ledger.errors import LogUnavailable
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord, TopicPartition
from tests.support.hanging import unchecking_broker
from tests.support.patience import PATIENCE_S
from tests.support.stage import Stage


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with unchecking_broker(tmp_path_factory.mktemp("unchecking")) as broker:
        yield broker


@pytest.fixture(scope="module")
def kafka(broker: EmbeddedBroker) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=broker.bootstrap_servers, client_id="tests")


def records(topic: str, partition: int, *values: str) -> list[NewRecord]:
    return [NewRecord(topic, partition, b"key", value.encode()) for value in values]


def values(stage: Stage, tp: TopicPartition) -> list[bytes | None]:
    return [record.value for record in stage.read_to_end({tp: 0})]


def test_a_log_without_open_transactions_lists_none(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    stage.transact(*records(topic, 0, "a"), *records(topic, 1, "b"))
    assert stage.log.open_transactions([TopicPartition(topic, p) for p in range(2)]) == []
    assert stage.log.open_transactions([]) == []
    assert stage.log.hidden_ids([stage.name("writer")]) == []


def test_a_transaction_that_its_coordinator_will_end_is_known(stage: Stage) -> None:
    topic, transactional_id = stage.topic(partitions=2), stage.name("writer")
    stage.backstage.leave_open(transactional_id, [*records(topic, 0, "x"), *records(topic, 1, "y", "z")])
    transactions = stage.log.open_transactions([TopicPartition(topic, p) for p in range(2)])
    assert sorted((one.partition.partition, one.start_offset) for one in transactions) == [(0, 0), (1, 0)]
    assert {(one.transactional_id, one.state, one.known) for one in transactions} == {(transactional_id, "Ongoing", True)}
    assert all(one.timeout_ms >= 10_000 and one.last_timestamp_ms > 0 for one in transactions)


@pytest.mark.parametrize("commit", [True, False])
def test_a_transaction_that_nobody_ends_hangs_until_it_is_ended_from_outside(stage: Stage, commit: bool) -> None:
    topic, transactional_id = stage.topic(partitions=2), stage.name("writer")
    tp = TopicPartition(topic, 0)
    stage.transact(*records(topic, 0, "before"))
    stage.backstage.leave_hanging(transactional_id, records(topic, 0, "lost", "too"))
    stage.transact(*records(topic, 1, "elsewhere"))

    successor = stage.log.writer(transactional_id)
    successor.start(PATIENCE_S)  # ends the transactions that its coordinator knows, so not this one
    successor.close()
    assert stage.ends([tp]) == {tp: 2}
    assert stage.ends([tp], "read_uncommitted") == {tp: 4}
    assert values(stage, tp) == [b"before"]

    (hanging,) = stage.log.open_transactions([tp, TopicPartition(topic, 1)])
    assert (hanging.partition, hanging.start_offset, hanging.transactional_id, hanging.known) == (tp, 2, transactional_id, False)
    assert f"{topic}/0 from offset 2, of {transactional_id}" in str(hanging)

    stage.log.end_transaction(hanging, commit)
    assert stage.log.open_transactions([tp]) == []
    assert stage.ends([tp]) == stage.ends([tp], "read_uncommitted") == {tp: 5}
    assert values(stage, tp) == [b"before", *([b"lost", b"too"] if commit else [])]
    stage.log.end_transaction(hanging, not commit)  # it has already ended
    assert stage.ends([tp], "read_uncommitted") == {tp: 5}

    writer = stage.log.writer(transactional_id)
    writer.start(PATIENCE_S)
    writer.transact(records(topic, 0, "after"))
    writer.close()
    assert values(stage, tp)[-1] == b"after"


def test_two_hanging_transactions_are_ended_one_by_one(stage: Stage) -> None:
    topic, first, second = stage.topic(), stage.name("writer"), stage.name("writer")
    tp = TopicPartition(topic, 0)
    stage.backstage.leave_hanging(first, records(topic, 0, "a"))
    stage.backstage.leave_hanging(second, records(topic, 0, "b"))
    hanging = {one.transactional_id: one for one in stage.log.open_transactions([tp])}
    assert set(hanging) == {first, second}
    stage.log.end_transaction(hanging[second], commit=True)
    assert stage.ends([tp]) == {tp: 0}
    stage.log.end_transaction(hanging[first], commit=False)
    assert values(stage, tp) == [b"b"]


@pytest.mark.kafka
def test_where_no_broker_answers_an_error_says_so_and_no_thread_is_left() -> None:
    log = KafkaLog(KafkaSettings(bootstrap_servers="127.0.0.1:1"))
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1"):
        log.open_transactions([TopicPartition("t", 0)], timeout_s=1)
