"""The desks of one writer and their store: folding records, and storing what changed."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

from commands.processor.desk import Desk
from ledger.log import Record, TopicPartition
from ledger.order import Order
from ledger.store import Store
from ledger.topics import Topics


class Desks(Mapping[int, Desk]):
    """By partition. Not thread-safe. `ids` are those of the log's topics, by name."""

    def __init__(self, store: Store, topics: Topics, ids: Mapping[str, bytes], owned: Sequence[int], partitions: int) -> None:
        self._store, self._topics, self._partitions = store, topics, partitions
        self._command_log, self._log_ids = ids[topics.commands], (ids[topics.events], ids[topics.refusals])
        self._desks = {p: self._desk(p) for p in owned}

    def _desk(self, partition: int) -> Desk:
        return Desk(self._store, partition, self._partitions, self._topics, self._command_log, self._log_ids)

    def __getitem__(self, partition: int) -> Desk:
        return self._desks[partition]

    def __iter__(self) -> Iterator[int]:
        return iter(self._desks)

    def __len__(self) -> int:
        return len(self._desks)

    def positions(self, but: Container[int] = ()) -> dict[TopicPartition, int]:
        """The next offsets to fold, without partitions of `but`."""
        return {
            TopicPartition(topic, p): position
            for p, desk in self._desks.items()
            if p not in but
            for topic, position in ((self._topics.events, desk.meta.events), (self._topics.refusals, desk.meta.refusals))
        }

    def fold(self, records: Sequence[Record]) -> None:
        """Fold records and store the result."""
        for record in records:
            self._desks[record.partition].fold(record)
        self.save()

    def thaw(self) -> list[Order]:
        """Fold what waits for frozen orders, if this program can now. Returns the orders that changed."""
        for desk in self._desks.values():
            desk.thaw()
        changed = [order for desk in self._desks.values() for order in desk.changed()]
        self.save()
        return changed

    def save(self) -> None:
        """Store everything that changed, in one write."""
        rows: dict[bytes, bytes | None] = {}
        for desk in self._desks.values():
            rows |= desk.rows()
        self._store.write(rows)
        for desk in self._desks.values():
            desk.written()

    def forget(self) -> None:
        """Drop decisions that are not stored: only the log knows whether they were committed."""
        self._desks = {p: self._desk(p) for p in self._desks}
