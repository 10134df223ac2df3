"""A commit that arrives after its own repetition ends a later transaction in the middle, unless its producer was discarded.

A connection that breaks during EndTxn is enough: librdkafka repeats the request on the next connection and reports success, and
the first one is still on its way (KAFKA-17754).
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer

from ledger.errors import LogError
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord
from ledger.topics import TopicSpec
from tests.support import checker
from tests.support.kafka_proxy import Api, Fate, Rule, Rules
from tests.support.patience import PATIENCE_S, until
from tests.support.proxied import Proxied, proxied_broker

pytestmark = pytest.mark.kafka
PARTITIONS, HALVES = 3, 2
LATE = 8


def late(most: int | None, delays_s: tuple[float, float] = (0.03, 0.5)) -> Rules:
    """A third of the commits. The ledger's writer, and librdkafka with its settings, need 20 ms for the next connection."""
    return Rules(5, {Api.END_TXN: Rule(0.3, (Fate.LATE,), delays_s, most)})


def copies(kafka: Proxied, topic: str) -> Counter[int]:
    """How many records of each transaction were committed."""
    return Counter(int(raw.value or b"") for raw in checker.read_topic(kafka.direct, topic))


def torn(there: Counter[int]) -> list[str]:
    """Transactions that were committed in part."""
    return [f"{number}: {count} of {PARTITIONS * HALVES}" for number, count in there.items() if count != PARTITIONS * HALVES]


def transact_trusting(kafka: Proxied, topic: str) -> list[str]:
    """Each transaction in two halves; its producer is used until it fails. Returns transactions that were torn.

    Between the halves it waits until no commit is late any more: one that still is then ends the first half.
    """
    quick = {"reconnect.backoff.ms": 20, "retry.backoff.ms": 1, "retry.backoff.max.ms": 5, "linger.ms": 0, "log_level": 0}

    def producer() -> Producer:
        new = Producer({"bootstrap.servers": kafka.through, "transactional.id": "trusting"} | quick)
        new.init_transactions(PATIENCE_S)
        return new

    tally = kafka.proxy.tally
    current, number, deadline = producer(), 0, time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        number += 1
        try:
            current.begin_transaction()
            for _ in range(HALVES):
                for partition in range(PARTITIONS):
                    current.produce(topic, b"%d" % number, partition=partition)
                current.flush(PATIENCE_S)
                until(lambda: tally.drawn[Api.END_TXN, Fate.LATE] == tally.done[Api.END_TXN, Fate.LATE])
                time.sleep(0.05)
            current.commit_transaction(PATIENCE_S)
        except KafkaException:
            current = producer()
            if halves := torn(copies(kafka, topic)):
                return halves
    return []


def transact_with_the_writer(kafka: Proxied, topic: str) -> tuple[set[int], int]:
    """The ledger's writer. Returns the transactions that it says were committed, and how many writers were discarded."""
    log = KafkaLog(KafkaSettings(bootstrap_servers=kafka.through))
    committed, discarded, number, deadline = set[int](), 0, 0, time.monotonic() + PATIENCE_S
    while not kafka.proxy.tally.is_complete():
        assert time.monotonic() < deadline, kafka.proxy.tally.done
        writer = log.writer("careful")
        try:
            writer.start(10)
            while not kafka.proxy.tally.is_complete():
                assert time.monotonic() < deadline, kafka.proxy.tally.done
                number += 1
                records = [NewRecord(topic, p, None, b"%d" % number) for _ in range(HALVES) for p in range(PARTITIONS)]
                writer.transact(records)
                committed.add(number)
        except LogError:
            discarded += 1
        finally:
            writer.close()
    return committed, discarded


def test_a_late_commit_tears_a_transaction_of_a_trusting_producer_and_none_of_the_writer(tmp_path: Path) -> None:
    with proxied_broker(tmp_path) as kafka:
        log = KafkaLog(KafkaSettings(bootstrap_servers=kafka.direct))
        log.ensure_topics([TopicSpec("trusting", PARTITIONS), TopicSpec("careful", PARTITIONS)], PATIENCE_S)
        kafka.proxy.obey(late(None, (0.3, 3.0)))
        trusting = transact_trusting(kafka, "trusting")
        kafka.proxy.obey(late(LATE))
        committed, discarded = transact_with_the_writer(kafka, "careful")
        kafka.proxy.obey(Rules())
        last = log.writer("careful")
        last.start(PATIENCE_S)  # ends what is still open
        last.close()
        careful = copies(kafka, "careful")
    print(f"\ntorn: {trusting}; after {LATE} late commits of the writer: {torn(careful)}")
    assert trusting, "the proxy tears nothing"
    assert torn(careful) == []
    assert committed <= careful.keys()
    assert discarded
