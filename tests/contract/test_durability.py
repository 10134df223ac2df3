"""How topics are replicated, in both adapters: one broker has one replica of everything."""

from __future__ import annotations

import pytest

from ledger.durability import Durability
from ledger.errors import LogError
from tests.support.stage import Stage


def test_one_broker_keeps_one_replica_and_a_missing_topic_is_named(stage: Stage) -> None:
    topic = stage.topic(partitions=2)
    topics = stage.log.durability([topic])
    assert topics[0] == Durability(topic, 1, 1, False)
    with pytest.raises(LogError, match="nowhere"):
        stage.log.durability([topic, "nowhere"])
