"""Topics and offsets. Every request uses a new client, which lives until the answers have arrived.

A client that has seen a restart of the broker may answer `FENCED_LEADER_EPOCH` for minutes, and an AdminClient that is garbage
collected cancels its futures. A new one costs 10-20 ms.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka import TopicPartition as KafkaTopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ConfigSource, NewTopic, OffsetSpec, TopicMetadata  # type: ignore[attr-defined]

from ledger.errors import LogError, LogUnavailable
from ledger.kafka.connection import AWAY, ClientLog, client_config, from_exception, kafka_error
from ledger.kafka.settings import KafkaSettings
from ledger.log import Isolation, NoLeader, TopicPartition, compare_topic
from ledger.topics import TopicSpec

REQUEST_TIMEOUT_S = 10.0
EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
LEVELS = {"read_committed": IsolationLevel.READ_COMMITTED, "read_uncommitted": IsolationLevel.READ_UNCOMMITTED}


@contextmanager
def asking(settings: KafkaSettings, doing: str) -> Iterator[AdminClient]:
    """A new client. Its errors become those of the ledger, with the last message of librdkafka about the connection."""
    log = ClientLog("admin")
    client = None
    try:
        client = AdminClient(client_config(settings, "admin") | {"error_cb": log.error}, logger=log)
        yield client
    except FutureTimeoutError as exc:
        raise LogUnavailable(f"{doing}: no answer from {settings.bootstrap_servers}{log.said()}") from exc
    except (KafkaException, SystemError) as exc:
        if client is not None:
            client.poll(0)  # delivers the log lines
        raise from_exception(exc, f"{doing} at {settings.bootstrap_servers}{log.said()}") from exc


def _answer(future: Future[Any], timeout_s: float = REQUEST_TIMEOUT_S) -> Any:
    return future.result(timeout_s + 1)


def partitions(settings: KafkaSettings, topic: str) -> int:
    """See `EventLog.partitions`."""
    with asking(settings, f"looking up topic {topic}") as client:
        metadata = client.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        return len(metadata.partitions)


def topic_id(settings: KafkaSettings, topic: str) -> bytes:
    """See `EventLog.topic_id`."""
    with asking(settings, f"reading the id of topic {topic}") as client:
        futures = client.describe_topics(TopicCollection([topic]), request_timeout=REQUEST_TIMEOUT_S)
        uuid = _answer(futures[topic]).topic_id
        return struct.pack(">qq", uuid.get_most_significant_bits(), uuid.get_least_significant_bits())


def starts(settings: KafkaSettings, wanted: Iterable[TopicPartition], timeout_s: float) -> dict[TopicPartition, int]:
    """See `EventLog.starts`."""
    return _offsets(settings, wanted, EARLIEST, "read_committed", timeout_s)


def ends(
    settings: KafkaSettings, wanted: Iterable[TopicPartition], isolation: Isolation, timeout_s: float
) -> dict[TopicPartition, int]:
    """See `EventLog.ends`."""
    return _offsets(settings, wanted, LATEST, isolation, timeout_s)


def offset_at(settings: KafkaSettings, wanted: Iterable[TopicPartition], timestamp_ms: int) -> dict[TopicPartition, int]:
    """See `EventLog.offset_at`."""
    # ends first: records written between the two requests are then behind that end, and not missed
    wanted = list(wanted)
    known_ends = ends(settings, wanted, "read_committed", REQUEST_TIMEOUT_S)
    offsets = _offsets(settings, wanted, OffsetSpec.for_timestamp(timestamp_ms), "read_committed", REQUEST_TIMEOUT_S)
    return {tp: offset if offset >= 0 else known_ends[tp] for tp, offset in offsets.items()}


def _offsets(
    settings: KafkaSettings, wanted: Iterable[TopicPartition], spec: OffsetSpec, isolation: Isolation, timeout_s: float
) -> dict[TopicPartition, int]:
    """The offset for `spec` in each partition; -1 if it is a time and no record is that recent.

    Raises `NoLeader`, or `LogUnavailable` if a partition gives no valid answer now.
    """
    timed = spec not in (EARLIEST, LATEST)
    asked = {KafkaTopicPartition(t, p): TopicPartition(t, p) for t, p in wanted}
    if not asked:
        return {}
    deadline = time.monotonic() + timeout_s
    with asking(settings, "reading offsets") as client:
        # Connects first: otherwise one call in 25 hangs for 1-3 s while librdkafka waits for its first metadata.
        topics = client.list_topics(timeout=timeout_s).topics
        if missing := leaderless(topics, asked.values()):
            raise NoLeader(missing)  # list_offsets would wait for them until its time-out, and answer for none
        futures = client.list_offsets(dict.fromkeys(asked, spec), isolation_level=LEVELS[isolation], request_timeout=timeout_s)
        offsets = {asked[tp]: _answer(f, max(0.0, deadline - time.monotonic())).offset for tp, f in futures.items()}
    return refuse_unknown(offsets, least=-1 if timed else 0)


def leaderless(topics: Mapping[str, TopicMetadata], wanted: Iterable[TopicPartition]) -> list[TopicPartition]:
    """Those of `wanted` that exist and have no leader, as the metadata says."""
    known = {TopicPartition(name, p): one for name, topic in topics.items() for p, one in topic.partitions.items()}
    return [tp for tp in wanted if tp in known and known[tp].leader < 0]


def refuse_unknown(offsets: dict[TopicPartition, int], least: int) -> dict[TopicPartition, int]:
    """`offsets`, if every offset is at least `least`. Raises `LogUnavailable` otherwise.

    During a leader change, an answer may have no error but the offset -1001 (librdkafka's `OFFSET_INVALID`), which says
    nothing about the log.
    """
    if unknown := [f"{tp.topic}/{tp.partition}" for tp, offset in offsets.items() if offset < least]:
        raise LogUnavailable(f"no offset returned for {', '.join(unknown)}")
    return offsets


def ensure_topics(settings: KafkaSettings, specs: Sequence[TopicSpec], timeout_s: float) -> list[str]:
    """Create missing topics, check all, wait until every partition has a leader. See `EventLog.ensure_topics`."""
    deadline = time.monotonic() + timeout_s
    with asking(settings, "looking up topics") as client:
        present = client.list_topics(timeout=timeout_s).topics
        created = _create(client, [spec for spec in specs if spec.name not in present], settings.replication_factor)
        _wait_for_leaders(client, [spec.name for spec in specs], deadline)
        # new topics are checked, too: a broker-side policy may have changed their settings
        _check(client, specs)
    return created


def check_topics(settings: KafkaSettings, specs: Sequence[TopicSpec]) -> None:
    """Compare, create nothing. See `EventLog.check_topics`."""
    with asking(settings, "looking up topics") as client:
        _check(client, specs)


def _check(client: AdminClient, specs: Sequence[TopicSpec]) -> None:
    topics = client.list_topics(timeout=REQUEST_TIMEOUT_S).topics
    if missing := [spec.name for spec in specs if spec.name not in topics]:
        raise LogError(f"missing topics: {', '.join(missing)}")
    resources = {spec.name: ConfigResource(ConfigResource.Type.TOPIC, spec.name) for spec in specs}
    futures = client.describe_configs(list(resources.values()), request_timeout=REQUEST_TIMEOUT_S)
    for spec in specs:
        settings = {name: entry.value for name, entry in _answer(futures[resources[spec.name]]).items()}
        compare_topic(spec, len(topics[spec.name].partitions), settings)


def replace_topic(settings: KafkaSettings, spec: TopicSpec, timeout_s: float) -> None:
    """See `EventLog.replace_topic`."""
    deadline = time.monotonic() + timeout_s
    with asking(settings, f"replacing topic {spec.name}") as client:
        present = client.list_topics(timeout=timeout_s).topics
        if spec.name in present:
            tps = [TopicPartition(spec.name, p) for p in present[spec.name].partitions]
            first, end = starts(settings, tps, timeout_s), ends(settings, tps, "read_uncommitted", timeout_s)
            if any(end[tp] > first[tp] for tp in tps):
                raise LogError(f"topic {spec.name} has records: it is not replaced")
            spec = replace(spec, settings=_own_settings(client, spec.name) | dict(spec.settings))
            _answer(
                client.delete_topics([spec.name], operation_timeout=timeout_s, request_timeout=timeout_s)[spec.name], timeout_s
            )
        # A deletion is answered before every broker has done it; until then the name is taken.
        while spec.name not in _create(client, [spec], settings.replication_factor):
            if time.monotonic() > deadline:
                raise LogUnavailable(f"topic {spec.name} could not be created again within {timeout_s:.0f} s")
            time.sleep(0.05)
        _wait_for_leaders(client, [spec.name], deadline)


def _own_settings(client: AdminClient, topic: str) -> dict[str, str]:
    """The settings of a topic that are not those of the brokers, such as a `min.insync.replicas` that an operator set."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    entries = _answer(client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource])
    own = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    return {name: entry.value for name, entry in entries.items() if entry.source == own}


def _create(client: AdminClient, missing: list[TopicSpec], replication_factor: int) -> list[str]:
    """Names of the topics created here; one that another process creates at the same time is also fine."""
    if not missing:
        return []
    new = [NewTopic(s.name, s.partitions, replication_factor, config=dict(s.settings)) for s in missing]
    created = []
    for name, future in client.create_topics(new, request_timeout=REQUEST_TIMEOUT_S, operation_timeout=REQUEST_TIMEOUT_S).items():
        try:
            _answer(future)
            created.append(name)
        except KafkaException as exc:
            error = kafka_error(exc)
            if error is None or error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise LogError(f"topic {name} could not be created: {error or exc}") from exc
    return created


def _wait_for_leaders(client: AdminClient, names: list[str], deadline: float) -> None:
    """Wait until a leader answers for every partition: metadata name a leader a moment before it knows itself."""
    while True:
        topics = client.list_topics(timeout=REQUEST_TIMEOUT_S).topics
        waiting = [name for name in names if name not in topics or not _has_leaders(topics[name])]
        if not waiting:
            asked = [KafkaTopicPartition(name, p) for name in names for p in topics[name].partitions]
            try:
                for future in client.list_offsets(dict.fromkeys(asked, EARLIEST)).values():
                    _answer(future)
                return
            except KafkaException as exc:
                error = kafka_error(exc)
                # One broker has already listed it, but another does not know it yet.
                if error is None or error.code() not in AWAY | {KafkaError.UNKNOWN_TOPIC_OR_PART}:
                    raise
                waiting = names
        if time.monotonic() > deadline:
            raise LogUnavailable(f"topics without a leader for every partition: {', '.join(waiting)}")
        time.sleep(0.05)


def _has_leaders(topic: TopicMetadata) -> bool:
    return topic.error is None and bool(topic.partitions) and all(p.leader >= 0 for p in topic.partitions.values())
