"""The partitioner is Java's: published vectors, and librdkafka's own choice on a real broker."""

from __future__ import annotations

import random

import pytest
from confluent_kafka import Producer

from ledger.kafka.log import KafkaLog
from ledger.kafka.settings import KafkaSettings
from ledger.log import TopicPartition
from ledger.partitioner import murmur2, partition_for
from ledger.topics import Topics, TopicSpec
from tests.support.patience import PATIENCE_S

# org.apache.kafka.common.utils.UtilsTest.testMurmur2
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), VECTORS.items())
def test_murmur2_gives_the_published_values(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF
    assert partition_for(key, 12) == (signed & 0x7FFFFFFF) % 12


@pytest.mark.kafka
def test_keys_land_where_librdkafka_puts_them(kafka: KafkaSettings, topics: Topics) -> None:
    log, topic = KafkaLog(kafka), f"{topics.prefix}keys"
    log.ensure_topics([TopicSpec(topic, 12)])
    rng = random.Random(2)
    keys = {rng.randbytes(rng.randint(0, 40)) for _ in range(2000)} | {b"", b"\xff" * 25}
    producer = Producer(kafka.client_config() | {"partitioner": "murmur2_random", "log_level": 0})
    # an empty key counts as none for murmur2_random, and is spread at random
    for key in keys - {b""}:
        producer.produce(topic, value=b"", key=key)
    assert producer.flush(PATIENCE_S) == 0
    reader = log.reader("reader", eof=True)
    reader.assign({TopicPartition(topic, p): 0 for p in range(12)})
    placed: dict[bytes, int] = {}
    while len(reader.reached_end()) < 12:
        placed |= {record.key or b"": record.partition for record in reader.poll(500, 1)}
    reader.close()
    assert placed == {key: partition_for(key, 12) for key in keys - {b""}}
