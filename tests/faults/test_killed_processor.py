"""A processor killed in the middle of its work: nothing durable is lost, nothing is decided twice, its rows are the fold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.topics import Topics
from tests.support import checker
from tests.support.folds import desk_differences
from tests.support.patience import PATIENCE_S
from tests.support.processes import Killer, LedgerNode
from tests.support.topic_load import TopicLoad, wait_answered

pytestmark = pytest.mark.kafka
PARTITIONS = 4


def run_kills(folder: Path, kafka: KafkaSettings, topics: Topics, kills: int, orders: int, per_s: float, writers: int) -> None:
    log = KafkaLog(kafka)
    log.ensure_topics(topics.specs(PARTITIONS, writers), PATIENCE_S)
    node = LedgerNode(folder, kafka.bootstrap_servers, topics, writers, PARTITIONS)
    choice = random.Random(20)
    try:
        processor = node.child("commands")
        processor.start()
        load = TopicLoad(log, topics, PARTITIONS, orders, per_s, seed=7)
        killer = Killer(processor, [choice.uniform(1.0, 3.0) for _ in range(kills)])
        load.start()
        killer.start()
        load.join(900)
        killer.join(900)
        assert not load.is_alive()
        assert not killer.is_alive()
        assert load.error is None
        assert killer.unexpected == [], node.tails()
        ledger = wait_answered(kafka.bootstrap_servers, topics.prefix)
        assert ledger.problems == [], checker.describe(ledger.problems) + node.tails()
        assert processor.stop() == 0, node.tails()
        answered = {(d.fields["command_id"], d.fields["fingerprint"]) for d in (*ledger.events, *ledger.refusals)}
        assert {(c.command_id, c.fingerprint) for c in load.durable} <= answered
        assert len(ledger.orders) == orders
        rows = desk_differences(node.state_dir("one"), kafka.bootstrap_servers, log, topics, writers, PARTITIONS)
        assert rows == [], checker.describe(rows)
        print(f"{kills} kills: {len(ledger.commands)} commands, {len(ledger.events)} events, {len(ledger.refusals)} refusals")
    finally:
        node.end()


def test_a_processor_killed_five_times_loses_nothing_and_decides_nothing_twice(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics
) -> None:
    run_kills(tmp_path, kafka, topics, kills=5, orders=600, per_s=450, writers=1)


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("writers", [1, 2])
def test_a_processor_killed_twenty_times_loses_nothing_and_decides_nothing_twice(
    tmp_path: Path, kafka: KafkaSettings, topics: Topics, writers: int
) -> None:
    run_kills(tmp_path, kafka, topics, kills=20, orders=4000, per_s=800, writers=writers)
