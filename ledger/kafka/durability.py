"""How the cluster replicates topics, and the log of its transactions. See `EventLog.durability`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource  # type: ignore[attr-defined]

from ledger.durability import Durability
from ledger.errors import LogError
from ledger.kafka.admin import REQUEST_TIMEOUT_S, asking
from ledger.kafka.connection import kafka_error, log
from ledger.kafka.settings import KafkaSettings

TRANSACTIONS = "__transaction_state"  # a commit is as durable as its record there
NOT_SHOWN = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})


def durability(settings: KafkaSettings, topics: Iterable[str]) -> list[Durability]:
    """Raises `LogError` if a topic is missing, or not shown to this user."""
    with asking(settings, "reading how topics are replicated") as client:
        metadata = client.list_topics(timeout=REQUEST_TIMEOUT_S)
        wanted = list(topics)
        if missing := [name for name in wanted if name not in metadata.topics]:
            raise LogError(f"missing topics: {', '.join(missing)}")
        return [*(_of_topic(client, metadata, name) for name in wanted), *_of_transactions(client, metadata)]


def _of_topic(client: AdminClient, metadata: ClusterMetadata, name: str) -> Durability:
    config = _config(client, ConfigResource(ConfigResource.Type.TOPIC, name))
    replicas = min(len(partition.replicas) for partition in metadata.topics[name].partitions.values())
    return Durability(name, replicas, int(config["min.insync.replicas"]), config["unclean.leader.election.enable"] == "true")


def _of_transactions(client: AdminClient, metadata: ClusterMetadata) -> Iterator[Durability]:
    """The topic, or before the first transaction, the settings from which the cluster will create it."""
    try:
        if TRANSACTIONS in metadata.topics:
            yield _of_topic(client, metadata, TRANSACTIONS)
            return
        config = _config(client, ConfigResource(ConfigResource.Type.BROKER, str(min(metadata.brokers))))
        yield Durability(
            TRANSACTIONS,
            int(config["transaction.state.log.replication.factor"]),
            int(config["transaction.state.log.min.isr"]),
            config["unclean.leader.election.enable"] == "true",
        )
    except KafkaException as exc:
        error = kafka_error(exc)
        if error is None or error.code() not in NOT_SHOWN:
            raise
        log.warning("the replication of %s is not shown to this user: not checked", TRANSACTIONS)


def _config(client: AdminClient, resource: ConfigResource) -> Mapping[str, str]:
    future: Future[Any] = client.describe_configs([resource], request_timeout=REQUEST_TIMEOUT_S)[resource]
    return {name: entry.value for name, entry in future.result(REQUEST_TIMEOUT_S + 1).items()}
