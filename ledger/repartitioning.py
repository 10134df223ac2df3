"""A ledger with more partitions: every event as it was, in the chain of its new partition. Pure.

The new number of partitions is a multiple of the old one. Then each new partition has events of one old partition alone, in their
order, and everything that is said per partition stays true: the order of commands, the epochs of writers, the times. Only
`prev_hash` is another one, because the predecessors are others. `Content` proves that nothing else changed.

Offsets of commands belong to the old topic of commands, whose id every event names: in the new ledger they mean nothing.
"""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from ledger.contacts import BARRIER_KEY, order_of
from ledger.erasures import is_erasure
from ledger.events import NO_HASH, OrderEvent
from ledger.log import NewRecord, Record
from ledger.partitioner import partition_for
from ledger.schemas.codec import event_codec, link_of
from ledger.topics import Topics


class Content:
    """What events say, without their places: two ledgers with the same content have the same events."""

    def __init__(self) -> None:
        self.events = 0
        self._sum = 0  # of the hashes: the order of partitions does not matter, and each event counts once
        self._encode = event_codec().encode

    def add(self, event: OrderEvent) -> None:
        digest = hashlib.sha256(self._encode(replace(event, prev_hash=NO_HASH))).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % 2**256
        self.events += 1

    @property
    def digest(self) -> str:
        """In hex."""
        return f"{self._sum:064x}"


class Repartitioning:
    """Makes the records of the new ledger, in the order in which those of each old partition are given."""

    def __init__(self, before: int, after: int, topics: Topics) -> None:
        """From `before` partitions to `after`, a multiple; `topics` are those of the new ledger. Raises `ValueError`."""
        if after <= before or after % before:
            raise ValueError(f"{after} is not a multiple of {before}, the number of partitions now")
        self._after, self._topics = after, topics
        self._chains = [NO_HASH] * after
        self._events = event_codec()
        self.content = Content()

    def event(self, record: Record) -> NewRecord:
        """Raises `DecodeError`."""
        event = self._events.decode(record.value)
        self.content.add(event)
        partition = partition_for(event.order_id.encode(), self._after)
        value = self._events.encode(replace(event, prev_hash=self._chains[partition]))
        self._chains[partition] = link_of(value)
        return NewRecord(self._topics.events, partition, record.key, value, record.timestamp_ms, record.headers)

    def refusal(self, record: Record) -> NewRecord:
        """Of an order, where its events are; of a command without a key, in the partition with the same number."""
        partition = record.partition if record.key is None else partition_for(record.key, self._after)
        return NewRecord(self._topics.refusals, partition, record.key, record.value, record.timestamp_ms, record.headers)

    def contact(self, record: Record) -> NewRecord | None:
        """None for a record that says nothing."""
        key = record.key or b""
        if key == BARRIER_KEY:
            return None
        partition = partition_for(key if is_erasure(key) else order_of(key).encode(), self._after)
        return NewRecord(self._topics.contacts, partition, key, record.value, record.timestamp_ms)
