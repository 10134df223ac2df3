"""Topics are created as the ledger needs them, and others are refused, on a real broker."""

from __future__ import annotations

import threading

import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions

from ledger.errors import LogError, LogUnavailable, TopicMismatch
from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition
from ledger.topics import Topics, TopicSpec
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.kafka


def change(kafka: KafkaSettings, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient(kafka.client_config())
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(PATIENCE_S)


def test_all_topics_of_a_ledger_are_created_and_then_accepted(kafka: KafkaSettings, topics: Topics) -> None:
    log, specs = KafkaLog(kafka), topics.specs(partitions=4, writers=2)
    assert log.ensure_topics(specs) == [spec.name for spec in specs]
    assert log.ensure_topics(specs) == []
    assert [log.partitions(spec.name) for spec in specs] == [4, 4, 4, 4, 1, 2, 1, 1]
    assert len({log.topic_id(spec.name) for spec in specs}) == len(specs)
    # every partition answers immediately: it has a leader
    tps = [TopicPartition(spec.name, p) for spec in specs for p in range(spec.partitions)]
    assert log.ends(tps, timeout_s=PATIENCE_S) == dict.fromkeys(tps, 0)


@pytest.mark.parametrize(
    ("which", "setting", "value"),
    [
        ("events", "cleanup.policy", "compact"),
        ("events", "retention.ms", "604800000"),
        ("events", "retention.bytes", "1000000"),
        ("commands", "message.timestamp.type", "CreateTime"),
        ("contacts", "max.compaction.lag.ms", "9223372036854775807"),
    ],
)
def test_a_topic_with_another_setting_is_refused_by_name(
    kafka: KafkaSettings, topics: Topics, which: str, setting: str, value: str
) -> None:
    log, specs = KafkaLog(kafka), topics.specs(partitions=1, writers=1)
    log.ensure_topics(specs)
    topic = getattr(topics, which)
    change(kafka, topic, setting, value)
    wanted = next(spec for spec in specs if spec.name == topic).settings[setting]
    with pytest.raises(TopicMismatch) as caught:
        log.ensure_topics(specs)
    assert str(caught.value) == f"topic {topic}: {setting}: wanted {wanted}, found {value}"


def test_a_topic_with_another_number_of_partitions_is_refused(kafka: KafkaSettings, topics: Topics) -> None:
    log = KafkaLog(kafka)
    log.ensure_topics(topics.specs(partitions=2, writers=1))
    with pytest.raises(TopicMismatch, match=r"order-commands: partitions: wanted 3, found 2"):
        log.ensure_topics(topics.specs(partitions=3, writers=1))
    admin = AdminClient(kafka.client_config())
    for future in admin.create_partitions([NewPartitions(topics.writers, 2)]).values():
        future.result(PATIENCE_S)
    with pytest.raises(TopicMismatch, match=r"order-writers: partitions: wanted 1, found 2"):
        log.ensure_topics(topics.specs(partitions=2, writers=1))


def test_several_processes_may_create_the_topics_together(kafka: KafkaSettings, topics: Topics) -> None:
    specs = topics.specs(partitions=3, writers=1)
    created: list[str] = []
    errors: list[BaseException] = []

    def process() -> None:
        try:
            created.extend(KafkaLog(kafka).ensure_topics(specs))
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=process) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(created) == sorted(spec.name for spec in specs)


def test_a_topic_that_cannot_be_created_is_a_named_error(kafka: KafkaSettings, topics: Topics) -> None:
    three = kafka.model_copy(update={"replication_factor": 3})
    with pytest.raises(LogError, match=r"t\S*order-commands could not be created.*REPLICATION"):
        KafkaLog(three).ensure_topics(topics.specs(partitions=1, writers=1))
    with pytest.raises(LogError, match="could not be created"):
        KafkaLog(kafka).ensure_topics([TopicSpec(f"{topics.prefix}odd", 1, {"no.such.setting": "1"})])


def test_no_broker_is_a_named_error_in_time() -> None:
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1 .*refused"):
        KafkaLog(KafkaSettings(bootstrap_servers="127.0.0.1:1")).ensure_topics([TopicSpec("t", 1)], timeout_s=5)


def test_a_replaced_topic_keeps_what_an_operator_set_for_it(kafka: KafkaSettings, topics: Topics) -> None:
    log, specs = KafkaLog(kafka), topics.specs(partitions=1, writers=1)
    log.ensure_topics(specs)
    change(kafka, topics.writers, "min.insync.replicas", "2")
    log.replace_topic(next(spec for spec in topics.specs(1, 3) if spec.name == topics.writers))
    assert log.partitions(topics.writers) == 3
    (of_writers, *_) = log.durability([topics.writers])
    assert of_writers.in_sync == 2
    log.check_topics(topics.specs(1, 3))
