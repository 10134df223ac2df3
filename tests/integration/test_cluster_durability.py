"""What a real cluster says about the replication of topics and of its log of transactions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.broker.node import EmbeddedBroker
from ledger.durability import Durability
from ledger.kafka.durability import TRANSACTIONS
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord
from ledger.topics import TopicSpec
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kafka


def test_the_log_of_transactions_is_judged_before_and_after_it_exists(tmp_path: Path) -> None:
    broker = EmbeddedBroker(tmp_path / "data", log_file=tmp_path / "broker.log", jit="quick")
    broker.start()
    try:
        log = KafkaLog(KafkaSettings(bootstrap_servers=broker.bootstrap_servers, client_id="tests"))
        weak = {"min.insync.replicas": "2", "unclean.leader.election.enable": "true"}
        log.ensure_topics([TopicSpec("plain", 1), TopicSpec("weak", 3, weak)])
        expected = [Durability("plain", 1, 1, False), Durability("weak", 1, 2, True), Durability(TRANSACTIONS, 1, 1, False)]
        assert log.durability(["plain", "weak"]) == expected
        writer = log.writer("w")
        writer.start(PATIENCE_S)
        writer.transact([NewRecord("plain", 0, b"k", b"v")])
        writer.close()
        assert log.durability(["plain", "weak"]) == expected
    finally:
        broker.stop()
