"""kafkajs reads the topic: not without a codec for LZ4, but with one, and where the topic has another compression."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.memory.log import MemoryLog
from ledger.topics import Topics
from tests.benchmarks.lives import write_lives
from tests.support.harness import RunningLedger, running_ledger
from tests.support.node import Workbench
from tests.support.patience import PATIENCE_S

pytestmark = [pytest.mark.node, pytest.mark.kafka, pytest.mark.timeout(1_800)]
PARTITIONS, COUNT = 2, 400


@pytest.fixture(scope="module")
def registry() -> Iterator[RunningLedger]:
    """Where the schemas are: the same for every ledger without a prefix."""
    with running_ledger(MemoryLog(), Topics()) as running:
        yield running


def tailed(
    bench: Workbench, kafka: KafkaSettings, topic: str, registry: RunningLedger, *codec: str
) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, events and last words of the consumer."""
    arguments = (kafka.bootstrap_servers, topic, registry.url, registry.tokens["reader"], str(COUNT), *codec)
    done = bench.node("tail_orders.mjs", *arguments)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def check_whole(events: list[dict[str, Any]]) -> None:
    """All of them, each order's in order."""
    assert len({(event["partition"], event["offset"]) for event in events}) == len(events) == COUNT
    versions: dict[str, list[int]] = {}
    for event in events:
        versions.setdefault(event["order_id"], []).append(event["version"])
        assert event["ce_id"] == f"{event['order_id']}/{event['version']}"
    assert all(seen == list(range(1, len(seen) + 1)) for seen in versions.values())


def test_lz4_stops_plain_kafkajs_and_a_codec_lets_it_read_every_event(
    kafka: KafkaSettings, topics: Topics, registry: RunningLedger, tmp_path: Path
) -> None:
    bench, log = Workbench(tmp_path / "node"), KafkaLog(kafka)
    write_lives(log, topics, PARTITIONS, COUNT)
    code, events, said = tailed(bench, kafka, topics.events, registry)
    assert (code, len(events) < COUNT) == (1, True)
    assert "LZ4 compression not implemented" in said
    code, events, said = tailed(bench, kafka, topics.events, registry, "lz4")
    assert code == 0, said
    check_whole(events)


def test_a_topic_with_another_compression_is_read_by_plain_kafkajs(
    kafka: KafkaSettings, topics: Topics, registry: RunningLedger, tmp_path: Path
) -> None:
    bench, log = Workbench(tmp_path / "node"), KafkaLog(kafka)
    log.ensure_topics(topics.specs(PARTITIONS, 1), PATIENCE_S)
    entry = ConfigEntry("compression.type", "gzip", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topics.events, incremental_configs=[entry])
    admin = AdminClient(kafka.client_config())
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE_S)
    write_lives(log, topics, PARTITIONS, COUNT)  # which accepts the topic with this setting
    code, events, said = tailed(bench, kafka, topics.events, registry)
    assert code == 0, said
    check_whole(events)
