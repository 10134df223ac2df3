"""Large topics of events, quickly: decided lives, whole or their beginnings, copied under new order ids, in a chain of their own.

Everything that a fold reads is as a writer would have written it: dense versions, states that follow, partitions by the
partitioner, the chain. Only the ids are invented.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import struct
from collections.abc import Callable, Iterator
from typing import Any

import fastavro

from ledger.contacts import Address, OrderContact, contact_key
from ledger.envelope import EventHeaders
from ledger.events import NO_HASH, ORDER_DELIVERED
from ledger.kafka.log import KafkaLog
from ledger.log import Acked, NewRecord
from ledger.partitioner import partition_for
from ledger.rfc3339 import format_ms
from ledger.schemas.codec import contact_codec, event_codec
from ledger.schemas.versions import EVENTS, versions_of
from ledger.topics import Topics
from tests.benchmarks.bench import Incorrect
from tests.benchmarks.lives import CONTACT_DIGEST, decided_lives

POOL = 100  # different lives
TOGETHER = 100  # orders that are open at the same time
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


def many_events(
    topics: Topics,
    partitions: int,
    orders: int,
    whole: bool,
    customer: Callable[[int, int], str] = customer_of,
    began_ms: int = T0_MS,
) -> Iterator[NewRecord]:
    """Every event of each of `orders` orders (about eight and a half), or the first two or three (two and a half).

    `customer` gives the customer of an order by its number and how many orders there are.
    """
    pool = _pool()
    schema_version = versions_of(EVENTS)[-1]
    schema, prefix = fastavro.parse_schema(schema_version.parsed), struct.pack(">bI", 0, schema_version.id)
    links, offsets = [NO_HASH] * partitions, [0] * partitions
    typed = event_codec()
    clock = itertools.count(began_ms)
    for first in range(0, orders, TOGETHER):
        numbers = range(first, min(first + TOGETHER, orders))
        for step in range(10):
            for number in numbers:
                life = pool[number % len(pool)]
                if step >= (len(life) if whole else 3 - number % 2):
                    continue
                fields = dict(life[step])
                order_id = order_id_of(number)
                p = partition_for(order_id.encode(), partitions)
                fields |= {
                    "order_id": order_id,
                    "customer_id": customer(number, orders),
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
                    ("ce_specversion", b"1.0"),
                    ("ce_source", f"/{topics.events}".encode()),
                    ("ce_time", format_ms(fields["occurred_at"]).encode()),
                )
                if number == 0:
                    assert named == EventHeaders(topics.events).of(typed.decode(prefix + body))
                yield NewRecord(topics.events, p, order_id.encode(), prefix + body, fields["occurred_at"], named)


def write_many(log: KafkaLog, topics: Topics, partitions: int, orders: int, whole: bool = False, **more: Any) -> int:
    """Commit the events of `orders` orders. Returns their number."""
    log.ensure_topics(topics.specs(partitions, 1))
    writer = log.writer(f"{topics.prefix}benchmark-many")
    count = 0
    try:
        writer.start(10)
        records = many_events(topics, partitions, orders, whole, **more)
        while batch := list(itertools.islice(records, BATCH)):
            writer.transact(batch)
            count += len(batch)
    finally:
        writer.close()
    return count


def write_contacts(log: KafkaLog, topics: Topics, partitions: int, orders: int, customer: Callable[[int, int], str]) -> None:
    """The contacts that the events of `many_events` name. Raises `Incorrect` unless all of them are durable."""
    sender, acks = log.sender("benchmark-contacts"), list[Acked | None]()
    address = Address("1 Mill Lane", "Leeds", "LS1 1AA", "GB")
    try:
        for number in range(orders):
            order_id = order_id_of(number)
            contact = OrderContact(customer(number, orders), f"Ada {number}", f"ada.{number}@example.org", address)
            key, value = contact_key(order_id, CONTACT_DIGEST), contact_codec().encode(contact)
            record = NewRecord(topics.contacts, partition_for(order_id.encode(), partitions), key, value)
            sender.send(record, lambda acked, error: acks.append(acked))
            if number % BATCH == 0:
                sender.flush(60.0)
        sender.flush(60.0)
    finally:
        sender.close()
    if len(acks) != orders or None in acks:
        raise Incorrect("not every contact is durable")
