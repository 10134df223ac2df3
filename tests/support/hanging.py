"""A real transaction that hangs, on a real broker.

Kafka itself does this only under overload, or with producers older than KIP-890: records reach a partition after the coordinator
has ended their transaction, so nobody will ever write the marker that ends them there. Here a raw Produce request with the id
and the epoch of the real producer goes to a broker whose check against just that is off. Each test has such a broker of its
own: switching the check on a shared one fails the transactions of others at that moment (INVALID_TXN_STATE).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka.admin import KafkaAdminClient
from kafka.protocol.producer import ProduceRequest
from kafka.record import MemoryRecordsBuilder
from kafka.structs import TopicPartition as KafkaTopicPartition

from ledger.broker.node import EmbeddedBroker
from ledger.kafka.settings import KafkaSettings
from ledger.log import NewRecord

OLD_PRODUCE = 11  # with later versions the broker adds the partition to a transaction by itself


@contextmanager
def unchecking_broker(folder: Path) -> Iterator[EmbeddedBroker]:
    """A broker that never asks the coordinator whether the transaction of a record is open."""
    properties = {"transaction.partition.verification.enable": "false"}
    with EmbeddedBroker(folder / "data", log_file=folder / "broker.log", jit="quick", properties=properties) as broker:
        yield broker


def leave_hanging(settings: KafkaSettings, transactional_id: str, records: Sequence[NewRecord]) -> None:
    """Append `records`, all of one partition, as the producer of that id would, after its last transaction ended.

    The broker is one of `unchecking_broker`.
    """
    tp = KafkaTopicPartition(records[0].topic, records[0].partition)
    client = KafkaAdminClient(bootstrap_servers=settings.bootstrap_servers, client_id="hanging")
    try:
        transaction = client.describe_transactions([transactional_id])[transactional_id]
        producers = client.describe_producers([tp])[tp].active_producers
        mine = next((p for p in producers if p.producer_id == transaction.producer_id), None)
        epoch = transaction.producer_epoch if mine is None else mine.producer_epoch
        batch = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=1_000_000)
        batch.set_producer_state(transaction.producer_id, epoch, 0 if mine is None else mine.last_sequence + 1, True)
        for record in records:
            batch.append(record.timestamp_ms or int(time.time() * 1000), record.key, record.value, list(record.headers))
        batch.close()
        topic = ProduceRequest.TopicProduceData
        data = topic(name=tp.topic, partition_data=[topic.PartitionProduceData(index=tp.partition, records=batch.buffer())])
        request = ProduceRequest(
            transactional_id=transactional_id, acks=-1, timeout_ms=10_000, topic_data=[data], max_version=OLD_PRODUCE
        )
        assert client._manager.run(_produce, client, tp, request) == 0
    finally:
        client.close()


async def _produce(client: Any, tp: KafkaTopicPartition, request: ProduceRequest) -> int:
    leader = next(iter(await client._async_get_leader_for_partitions([tp])))
    answer = await client._manager.send(request, node_id=leader)
    return int(answer.responses[0].partition_responses[0].error_code)
