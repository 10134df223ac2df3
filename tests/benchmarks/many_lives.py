"""Large topics of events, quickly: decided lives, whole or their beginnings, copied under new order ids, in a chain of their own.

Everything a fold looks at is as a writer would have left it: dense versions, states that follow, places by the partitioner, the
chain. Only the ids are made up.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import struct
from collections.abc import Iterator
from typing import Any

import fastavro

from ledger.codec import event_codec
from ledger.envelope import headers
from ledger.events import NO_HASH, ORDER_DELIVERED
from ledger.kafka_log import KafkaLog
from ledger.log import NewRecord
from ledger.partitioner import partition_for
from ledger.schemas import EVENTS, versions_of
from ledger.topics import Topics
from tests.benchmarks.lives import decided_lives

POOL = 100  # different lives
TOGETHER = 100  # orders that live at the same time
BATCH = 2_000
CUSTOMER_ORDERS = 100  # per customer: pages of 50 are full
T0_MS = 1_700_000_000_000


def order_id_of(number: int) -> str:
    return "ord_" + base64.b32encode(hashlib.sha256(b"%d" % number).digest()[:16]).decode().rstrip("=").lower()


def customer_of(number: int, orders: int) -> str:
    return f"many-{number % max(1, orders // CUSTOMER_ORDERS)}"


def _pool() -> list[list[dict[str, Any]]]:
    """All events of each of `POOL` orders, from cart to door, as plain fields."""
    codec = event_codec()
    lives: dict[str, list[dict[str, Any]]] = {}
    for record in decided_lives(Topics(), 1, 10 * POOL, now_ms=T0_MS):
        fields = codec.decode_fields(record.value)
        lives.setdefault(fields["order_id"], []).append(fields)
    return [life for life in lives.values() if life[-1]["type"] == ORDER_DELIVERED]


def many_events(topics: Topics, partitions: int, orders: int, whole: bool) -> Iterator[NewRecord]:
    """Every event of each of `orders` orders (about eight and a half), or the first two or three (two and a half)."""
    pool = _pool()
    schema_version = versions_of(EVENTS)[-1]
    schema, prefix = fastavro.parse_schema(schema_version.parsed), struct.pack(">bI", 0, schema_version.id)
    links, offsets = [NO_HASH] * partitions, [0] * partitions
    typed = event_codec()
    clock = itertools.count(T0_MS)
    for first in range(0, orders, TOGETHER):
        numbers = range(first, min(first + TOGETHER, orders))
        for step in range(10 if whole else 3):
            for number in numbers:
                life = pool[number % len(pool)]
                if step >= len(life) if whole else step == 2 and number % 2:
                    continue
                fields = dict(life[step])
                order_id = order_id_of(number)
                p = partition_for(order_id.encode(), partitions)
                fields |= {
                    "order_id": order_id,
                    "customer_id": customer_of(number, orders),
                    "command_id": f"cmd_{order_id[4:]}{step}",
                    "occurred_at": next(clock),
                    "command_offset": offsets[p],
                    "batch_first": offsets[p],
                    "prev_hash": links[p],
                }
                offsets[p] += 1
                out = io.BytesIO()
                fastavro.schemaless_writer(out, schema, fields)
                body = out.getvalue()
                links[p] = hashlib.sha256(body).digest()
                named = (
                    ("ce_id", f"{order_id}/{step + 1}".encode()),
                    ("ce_type", fields["type"].encode()),
                    ("content-type", b"application/avro"),
                )
                if number == 0:
                    assert named == headers(typed.decode(prefix + body))
                yield NewRecord(topics.events, p, order_id.encode(), prefix + body, fields["occurred_at"], named)


def write_many(log: KafkaLog, topics: Topics, partitions: int, orders: int, whole: bool = False) -> int:
    """Commit the events of `orders` orders; how many they are."""
    log.ensure_topics(topics.specs(partitions, 1))
    writer = log.writer(f"{topics.prefix}benchmark-many")
    count = 0
    try:
        writer.start(10)
        records = many_events(topics, partitions, orders, whole)
        while batch := list(itertools.islice(records, BATCH)):
            writer.transact(batch)
            count += len(batch)
    finally:
        writer.close()
    return count
