"""Open transactions as the brokers see them, and the marker that ends one that Kafka left open (KIP-664).

confluent_kafka does not offer this, but kafka-python does. A client lives for one request, with its own thread. It can only
abort. A marker that commits is the same request with another flag, so this module uses private names of kafka-python, which
`tests/unit/test_kafka_python.py` checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kafka import errors
from kafka.admin import KafkaAdminClient
from kafka.admin import ProducerState as Producer
from kafka.protocol.producer import WriteTxnMarkersRequest
from kafka.structs import TopicPartition as KafkaTopicPartition

from ledger.errors import LogError, LogUnavailable, NotAllowed
from ledger.kafka.admin import asking
from ledger.kafka.settings import KafkaSettings
from ledger.log import OpenTransaction, TopicPartition

# In these states, a coordinator will still end the transaction, in all its partitions.
ENDING = frozenset({"Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence"})


# Its names of the settings in `KafkaSettings.client_config`.
KAFKA_PYTHON = {
    "bootstrap.servers": "bootstrap_servers",
    "client.id": "client_id",
    "security.protocol": "security_protocol",
    "ssl.ca.location": "ssl_cafile",
    "ssl.certificate.location": "ssl_certfile",
    "ssl.key.location": "ssl_keyfile",
    "ssl.key.password": "ssl_password",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
}


class _Admin(KafkaAdminClient):  # type: ignore[misc]  # it has no type information
    """A client whose thread also ends if nothing answers during its creation."""

    def __init__(self, **configs: Any) -> None:
        try:
            super().__init__(**configs)
        except BaseException:
            if hasattr(self, "_client"):
                self._client.close()
            raise


def admin_config(settings: KafkaSettings, timeout_s: float) -> dict[str, Any]:
    """The connection settings with kafka-python's names. Contains secrets."""
    timeout_ms = int(timeout_s * 1000)
    config = {KAFKA_PYTHON[name]: value for name, value in settings.client_config().items()}
    return config | {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "client_id": f"{settings.client_id}-transactions",
        "bootstrap_timeout_ms": timeout_ms,
        "request_timeout_ms": timeout_ms,
    }


@contextmanager
def asking_admin(settings: KafkaSettings, doing: str, timeout_s: float) -> Iterator[Any]:
    """A new client of kafka-python. Its errors become those of the ledger."""
    with asking(settings, doing) as known:
        known.list_topics(timeout=timeout_s)  # kafka-python does not close a refused socket
    try:
        client = _Admin(**admin_config(settings, timeout_s))
        try:
            yield client
        finally:
            client.close()
    except errors.AuthorizationError as exc:
        raise NotAllowed(f"{doing}: {exc}") from exc
    except errors.RetriableError as exc:
        raise LogUnavailable(f"{doing} at {settings.bootstrap_servers}: {exc}") from exc
    except errors.KafkaError as exc:
        raise LogError(f"{doing} at {settings.bootstrap_servers}: {exc}") from exc


def open_transactions(settings: KafkaSettings, partitions: Iterable[TopicPartition], timeout_s: float) -> list[OpenTransaction]:
    """See `EventLog.open_transactions`."""
    wanted = [KafkaTopicPartition(*tp) for tp in partitions]
    with asking_admin(settings, "reading open transactions", timeout_s) as client:
        before = _open_producers(client, wanted)
        if not before:
            return []
        described = [_described(client, place, producer) for place, producer in before.items()]
        # If a coordinator no longer knows a transaction, all its markers were acknowledged: one that is open before and after
        # that answer is open although the coordinator is done with it.
        after = _open_producers(client, {tp for tp, _, _ in before})
    return [one for one, place in zip(described, before, strict=True) if place in after]


def _open_producers(client: Any, wanted: Iterable[KafkaTopicPartition]) -> dict[tuple[KafkaTopicPartition, int, int], Producer]:
    """Producers with an open transaction, by partition, producer id and first offset."""
    return {
        (tp, producer.producer_id, producer.current_transaction_start_offset): producer
        for tp, state in client.describe_producers(wanted).items()
        for producer in state.active_producers
        if producer.current_transaction_start_offset >= 0
    }


def _described(client: Any, place: tuple[KafkaTopicPartition, int, int], producer: Producer) -> OpenTransaction:
    tp, producer_id, start_offset = place
    name, state, timeout_ms, known = None, "", 0, False
    listed = client.list_transactions(producer_id_filters=[producer_id])
    for name in sorted({one.transactional_id for ones in listed.values() for one in ones}):  # at most one
        try:
            answer = client.describe_transactions([name])[name]
        except errors.TransactionalIdNotFoundError:  # forgotten between the two requests
            continue
        state, timeout_ms = answer.state.value, answer.transaction_timeout_ms
        known = answer.producer_id == producer_id and state in ENDING and tp in answer.topic_partitions
    return OpenTransaction(
        partition=TopicPartition(tp.topic, tp.partition),
        producer_id=producer_id,
        producer_epoch=producer.producer_epoch,
        coordinator_epoch=producer.coordinator_epoch,
        start_offset=start_offset,
        last_timestamp_ms=producer.last_timestamp,
        transactional_id=name,
        state=state,
        timeout_ms=timeout_ms,
        known=known,
    )


def hidden_ids(settings: KafkaSettings, transactional_ids: Iterable[str], timeout_s: float) -> list[str]:
    """See `EventLog.hidden_ids`. `list_transactions` leaves such ids out without a word, `describe_transactions` does not."""
    hidden = []
    with asking_admin(settings, "describing transactional ids", timeout_s) as client:
        for name in transactional_ids:
            try:
                client.describe_transactions([name])
            except errors.TransactionalIdNotFoundError:
                continue  # it was never used, or is forgotten
            except errors.TransactionalIdAuthorizationFailedError:
                hidden.append(name)
    return hidden


def end_transaction(settings: KafkaSettings, open_one: OpenTransaction, commit: bool, timeout_s: float) -> None:
    """See `EventLog.end_transaction`. Does what Kafka's own tool does for an abort, with the epochs of the partition."""
    tp = KafkaTopicPartition(*open_one.partition)
    doing = f"{'committing' if commit else 'aborting'} the transaction in {open_one}"
    with asking_admin(settings, doing, timeout_s) as client:
        if (tp, open_one.producer_id, open_one.start_offset) not in _open_producers(client, [tp]):
            return  # it has ended
        answer = client._manager.run(_send_marker, client, tp, open_one, commit)
        for marker in answer.markers:
            for topic in marker.topics:
                for partition in topic.partitions:
                    error = errors.for_code(partition.error_code)
                    if error is not errors.NoError:
                        raise error


async def _send_marker(client: Any, tp: KafkaTopicPartition, open_one: OpenTransaction, commit: bool) -> Any:
    marker = WriteTxnMarkersRequest.WritableTxnMarker
    leader = next(iter(await client._async_get_leader_for_partitions([tp])))
    request = WriteTxnMarkersRequest(
        markers=[
            marker(
                producer_id=open_one.producer_id,
                producer_epoch=open_one.producer_epoch,
                transaction_result=commit,
                topics=[marker.WritableTxnMarkerTopic(name=tp.topic, partition_indexes=[tp.partition])],
                # there is none while the partition has seen no marker of the transaction
                coordinator_epoch=max(0, open_one.coordinator_epoch),
            )
        ]
    )
    return await client._manager.send(request, node_id=leader)
