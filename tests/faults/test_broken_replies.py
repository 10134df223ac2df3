"""Replies of Kafka that come late, twice or never: `commands` loses nothing and decides nothing twice; a naive client does."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import Producer

from ledger.errors import LogUnavailable
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition
from ledger.topics import Topics, TopicSpec
from tests.support import checker
from tests.support.folds import desk_differences
from tests.support.kafka_proxy import Api, Fate, Rule, Rules
from tests.support.patience import PATIENCE_S, until
from tests.support.processes import LedgerNode
from tests.support.proxied import Proxied, proxied_broker
from tests.support.topic_load import TopicLoad, wait_answered

pytestmark = pytest.mark.kafka
PARTITIONS = 4
NAIVE = 300
NAIVE_TIMEOUT_S = 1.0
OF_EACH_FATE = 34  # three fates: a hundred disturbed replies of each kind of request
QUIET_ROUNDS = 50  # of a hundred orders each, without a disturbed reply
# A JoinGroup without a reply is given up only after `max.poll.interval.ms`, half a minute.
COMES = (Fate.DELAY, Fate.DUPLICATE)


def rules(seed: int, most: int, longest_s: float, join: tuple[Fate, ...]) -> Rules:
    """Each fate of each API `most` times. A batch has one transaction; few requests initialise a producer or join a group."""

    def rule(share: float, fates: tuple[Fate, ...] = (Fate.DELAY, Fate.DROP, Fate.DUPLICATE)) -> Rule:
        return Rule(share, fates, (0.05, longest_s), most)

    return Rules(
        seed,
        {
            Api.PRODUCE: rule(0.05),
            Api.FETCH: rule(0.02),
            Api.ADD_PARTITIONS_TO_TXN: rule(0.5),
            Api.END_TXN: rule(0.5),
            Api.INIT_PRODUCER_ID: rule(0.9),
            Api.JOIN_GROUP: rule(1.0, join),
        },
    )


def produce_naively(bootstrap: str, topic: str) -> None:
    """Numbers, one request each, by a producer that is sure to deliver: it repeats whatever is not acknowledged."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": "naive",
            "acks": "all",
            "enable.idempotence": False,
            "retries": 1_000,
            "linger.ms": 0,
            "socket.timeout.ms": int(NAIVE_TIMEOUT_S * 1000),
            "message.timeout.ms": int(PATIENCE_S * 1000),
            "log_level": 0,
        }
    )
    for number in range(NAIVE):
        producer.produce(topic, b"%d" % number, partition=0)
        assert producer.flush(PATIENCE_S) == 0


def broken_promises(bootstrap: str, topic: str) -> list[str]:
    """What of the numbers is lost or there twice."""
    copies = Counter(int(raw.value or b"") for raw in checker.read_topic(bootstrap, topic))
    return [f"{number}: {copies[number]} times" for number in range(NAIVE) if copies[number] != 1]


def decide_disturbed(folder: Path, kafka: Proxied, topics: Topics, chosen: Rules) -> str:
    """Commands through the proxy until every fate of `chosen` has happened. Returns figures."""
    log = KafkaLog(KafkaSettings(bootstrap_servers=kafka.direct))
    log.ensure_topics(topics.specs(PARTITIONS, 1), PATIENCE_S)
    through = KafkaLog(KafkaSettings(bootstrap_servers=kafka.through))
    node = LedgerNode(folder, kafka.through, topics, 1, PARTITIONS)
    processor = node.child("commands")
    orders, durable, began = 0, set[tuple[str, bytes]](), time.monotonic()
    last, quiet = -1, 0
    kafka.proxy.obey(chosen)
    outcomes = [TopicPartition(topic, p) for topic in (topics.events, topics.refusals) for p in range(PARTITIONS)]

    def decided() -> int:
        while True:
            time.sleep(0.1)
            with suppress(LogUnavailable):  # on a busy machine, a broker loses its own session at times
                return sum(log.ends(outcomes, timeout_s=PATIENCE_S).values())

    try:
        processor.start()
        while not kafka.proxy.tally.is_complete():
            before, disturbed = decided(), kafka.proxy.tally.done.total()
            quiet = 0 if disturbed > last else quiet + 1
            assert quiet < QUIET_ROUNDS, f"{kafka.proxy.tally.done} {node.tails()}"
            last = disturbed
            load = TopicLoad(through, topics, PARTITIONS, orders=100, per_s=400, seed=orders, first=orders)
            load.start()
            load.join(PATIENCE_S)
            assert not load.is_alive(), f"{kafka.proxy.tally.done} {node.tails()}"
            assert load.error is None
            assert processor.ended() is None, node.tails()
            durable |= {(command.command_id, command.fingerprint) for command in load.durable}
            orders += 100
            print(orders, _words(kafka.proxy.tally.done))
            # Otherwise it never gets that far, and a late reply finds its client gone.
            until(lambda before=before: (decided() > before and not kafka.proxy.tally.pending()) or processor.ended() is not None)
            processor.kill()  # its next start joins the group and initialises its producer
            processor.start()
        tally = kafka.proxy.tally
        kafka.proxy.obey(Rules())
        ledger = wait_answered(kafka.direct, topics.prefix)
        assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
        assert processor.ended() is None, node.tails()
        assert processor.stop() == 0, node.tails()
        answered = {(d.fields["command_id"], d.fields["fingerprint"]) for d in (*ledger.events, *ledger.refusals)}
        assert durable <= answered
        assert len(ledger.orders) == orders
        rows = desk_differences(node.state_dir("one"), kafka.direct, log, topics, 1, PARTITIONS)
        assert rows == [], checker.describe(rows)
    finally:
        node.end()
    return f"{len(ledger.commands)} commands, {orders} orders, {time.monotonic() - began:.0f} s: {_words(tally.done)}"


def _words(done: Counter[tuple[Api, Fate]]) -> str:
    return ", ".join(f"{api.name} {fate} {count}" for (api, fate), count in sorted(done.items()))


def test_commands_keep_every_promise_where_a_naive_client_breaks_one(tmp_path: Path, topics: Topics) -> None:
    with proxied_broker(tmp_path) as kafka:
        log = KafkaLog(KafkaSettings(bootstrap_servers=kafka.direct))
        log.ensure_topics([TopicSpec("naive", 1)], PATIENCE_S)
        kafka.proxy.obey(Rules(7, {Api.PRODUCE: Rule(0.02, most=1)}))
        produce_naively(kafka.through, "naive")
        assert kafka.proxy.tally.is_complete()
        broken = broken_promises(kafka.direct, "naive")
        assert broken, "it lost nothing and wrote nothing twice: the proxy disturbs nobody"
        print(f"\nnaive, {NAIVE} records: {', '.join(broken)}")
        print(decide_disturbed(tmp_path, kafka, topics, rules(7, 1, 0.5, COMES)))


@pytest.mark.campaign
@pytest.mark.timeout(4 * 3600)
def test_commands_keep_every_promise_after_a_hundred_disturbed_replies_of_each_kind(tmp_path: Path, topics: Topics) -> None:
    with proxied_broker(tmp_path) as kafka:
        print(decide_disturbed(tmp_path, kafka, topics, rules(11, OF_EACH_FATE, 6.0, (*COMES, Fate.DROP))))


@pytest.mark.campaign
@pytest.mark.timeout(4 * 3600)
def test_commands_keep_every_promise_when_connections_are_cut_and_requests_come_late(tmp_path: Path, topics: Topics) -> None:
    """A request that arrives after its client has repeated it ends the next transaction, if anything can."""
    chosen = rules(13, 100, 0.5, (Fate.CUT,))
    cut = {api: rule._replace(fates=(Fate.CUT, Fate.LATE)) for api, rule in chosen.of.items() if api is not Api.JOIN_GROUP}
    with proxied_broker(tmp_path) as kafka:
        print(decide_disturbed(tmp_path, kafka, topics, Rules(chosen.seed, cut)))
