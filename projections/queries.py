"""Queries: one order, its past, pages of orders, outcomes, daily totals. Read-only, from this node's fold.

Pages are merged across partitions, newest first (`projections.lists`). A cursor contains the last key of each partition, so an
order that a lagging partition folds later is not lost between two pages.

Queries that may take longer than a millisecond run in steps (`ledger.turns`). If the databases are switched between two steps,
the query continues in the new ones, at the same position.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from ledger.contact_rows import email_prefix
from ledger.errors import LedgerError
from ledger.events import OrderEvent
from ledger.evolve import evolve
from ledger.order import Order
from ledger.outcomes import Outcome, decode_outcome, outcome_key, reused_key
from ledger.partitioner import partition_for
from ledger.schemas.codec import event_codec
from ledger.transitions import Status
from ledger.turns import Steps
from projections import read_models
from projections.databases import Databases
from projections.lists import ContactList, MergedList, OrderList
from projections.projector import Projector


class VersionNotFound(LedgerError):
    """The order has no such version, or did not exist at that time."""

    code = "version_not_found"


class InvalidCursor(LedgerError):
    """The cursor was not issued by this API, or belongs to other filters."""

    code = "invalid_cursor"


class Past(Struct, frozen=True):
    """One event of an order with its position in the log."""

    event: OrderEvent
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """The orders of a page; None does not restrict. Times are ms since the epoch, both ends inclusive."""

    status: str | None = None
    customer_id: str | None = None
    placed_from_ms: int | None = None
    placed_to_ms: int | None = None
    attention: bool | None = None
    reference: str | None = None  # not together with `status` or `attention`
    email_digest: bytes | None = None  # alone

    def prefix(self) -> bytes:
        """The list with exactly these orders, apart from times."""
        if self.email_digest is not None:
            return email_prefix(self.email_digest)
        if self.reference is not None:
            return read_models.reference_prefix(self.reference, self.customer_id)
        return read_models.list_prefix(self.customer_id, self.status, bool(self.attention))


class Resume(Struct, frozen=True, array_like=True):
    """Content of a cursor: a digest of the filter, and the last key of each partition."""

    filter_digest: bytes
    last: dict[int, bytes]


_decode_resume = msgspec.msgpack.Decoder(Resume).decode


@dataclass(frozen=True, slots=True)
class Page:
    """`resume` is None on the last page."""

    orders: list[Order]
    resume: dict[int, bytes] | None


class PartitionRows(Iterator[tuple[bytes, bytes]]):
    """Rows of one partition from `start` on; continues in the new databases after a switch."""

    def __init__(self, projector: Projector, partition: int, prefix: bytes, start: bytes) -> None:
        self._projector, self._partition, self._prefix, self._start = projector, partition, prefix, start
        self._databases: Databases | None = None

    def __next__(self) -> tuple[bytes, bytes]:
        if self._projector.databases is not self._databases:
            self._databases = self._projector.databases
            self._rows = self._projector.store(self._partition).scan(self._prefix, self._start)
        row = next(self._rows)
        self._start = row[0] + b"\0"
        return row


class Queries:
    """Queries of one node, on the event loop that folds."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._events = event_codec()

    def order(self, partition: int, order_id: str) -> Order | None:
        """The current order."""
        raw = self._projector.store(partition).get(read_models.order_key(order_id))
        return read_models.decode_order(raw) if raw else None

    def by_number(self, number: str) -> Order | None:
        """The order with this number."""
        key = read_models.number_key(number)
        for p in range(self._projector.partitions):
            if (raw := self._projector.store(p).get(key)) is not None:
                return self.order(p, raw.decode())
        return None

    def frozen(self, partition: int, order_id: str) -> read_models.Frozen | None:
        """Why and where the fold of this order stopped, if it did."""
        raw = self._projector.store(partition).get(read_models.frozen_key(order_id))
        return read_models.decode_frozen(raw) if raw else None

    def history(self, partition: int, order_id: str, after: int = 0, limit: int | None = None) -> Steps[list[Past]]:
        """Events with version > `after`, oldest first, at most `limit`."""
        past_events: list[Past] = []
        for past in self._past(partition, order_id, after):
            past_events.append(past)
            if limit is not None and len(past_events) >= limit:
                break
            yield
        return past_events

    def _past(self, partition: int, order_id: str, after: int) -> Iterator[Past]:
        for _, row in PartitionRows(
            self._projector, partition, read_models.history_prefix(order_id), read_models.history_key(order_id, after + 1)
        ):
            offset, value = read_models.read_history_value(row)
            yield Past(self._events.decode(value), partition, offset)

    def event(self, partition: int, order_id: str, version: int) -> Past | None:
        """The event of this version of the order."""
        raw = self._projector.store(partition).get(read_models.history_key(order_id, version))
        if raw is None:
            return None
        offset, value = read_models.read_history_value(raw)
        return Past(self._events.decode(value), partition, offset)

    def as_of_version(self, partition: int, order_id: str, version: int) -> Steps[Order]:
        """The order after its `version`-th event. Raises `VersionNotFound`."""
        current = self.order(partition, order_id)
        if current is not None and current.version == version:
            return current
        folded = min(version, current.version if current is not None else 0)
        order = self._snapshot(partition, order_id, folded)
        begun = order.version if order else 0
        for past in itertools.islice(self._past(partition, order_id, begun), version - begun):
            order = evolve(order, past.event)
            yield
        if order is None or order.version != version:
            raise VersionNotFound(f"order {order_id} has no version {version}")
        return order

    def as_of_time(self, partition: int, order_id: str, at_ms: int) -> Steps[Order]:
        """The order at `at_ms` (events at that time are included). Raises `VersionNotFound`."""
        current = self.order(partition, order_id)
        order = self._snapshot_before(partition, order_id, current.version if current is not None else 0, at_ms)
        for past in self._past(partition, order_id, order.version if order else 0):
            if past.event.occurred_at > at_ms:
                break
            order = evolve(order, past.event)
            yield
        if order is None:
            raise VersionNotFound(f"order {order_id} did not exist at that time")
        return order

    def _snapshot(self, partition: int, order_id: str, version: int) -> Order | None:
        """The last snapshot at or before `version`, which is folded."""
        kept = version - version % read_models.SNAPSHOT_EVERY
        raw = self._projector.store(partition).get(read_models.snapshot_key(order_id, kept)) if kept else None
        return read_models.decode_order(raw) if raw else None

    def _snapshot_before(self, partition: int, order_id: str, version: int, at_ms: int) -> Order | None:
        """The last snapshot at or before `at_ms`: times of an order never decrease."""
        latest, low, high = None, 1, version // read_models.SNAPSHOT_EVERY
        while low <= high:
            middle = (low + high) // 2
            order = self._snapshot(partition, order_id, middle * read_models.SNAPSHOT_EVERY)
            if order is not None and order.updated_at <= at_ms:
                latest, low = order, middle + 1
            else:
                high = middle - 1
        return latest

    def outcome(self, partition: int, command_id: str, fingerprint: bytes | None = None) -> Outcome | None:
        """The outcome of a command.

        With a `fingerprint` other than the first one: its refusal, or None while that is not recorded; the caller sees that the
        id is taken by calling `outcome` without fingerprint.
        """
        store = self._projector.store(partition)
        raw = store.get(outcome_key(command_id))
        first = decode_outcome(raw) if raw else None
        if fingerprint is None or first is None or first.fingerprint == fingerprint:
            return first
        raw = store.get(reused_key(command_id, fingerprint))
        return decode_outcome(raw) if raw else None

    def page(self, wanted: OrderFilter, limit: int, resume: dict[int, bytes] | None = None) -> Steps[Page]:
        """At most `limit` orders, newest first, after `resume`."""
        prefix = wanted.prefix()
        start = prefix + read_models.newest_first(wanted.placed_to_ms) if wanted.placed_to_ms is not None else prefix
        merged: OrderList
        if wanted.email_digest is not None:
            merged = ContactList(self._projector, prefix, self._partition_of, resume or {})
        else:
            merged = MergedList(self._projector, prefix, start, resume or {})
        orders: list[Order] = []
        while True:
            last = dict(merged.reached)
            row = yield from merged.following()
            if row is None:
                return Page(orders, None)
            if len(orders) >= limit:
                return Page(orders, last)
            partition, place = row
            if wanted.placed_from_ms is not None and read_models.placed_at_of(place) < wanted.placed_from_ms:
                return Page(orders, None)  # everything after it is even older
            order = self.order(partition, read_models.order_id_of(place))
            if order is not None:
                orders.append(order)
            yield

    def count(self, wanted: OrderFilter, most: int) -> Steps[int]:
        """Number of orders, ignoring times, without reading any of them; at most `most`."""
        merged = MergedList(self._projector, wanted.prefix(), wanted.prefix(), {})
        count = 0
        while count < most and (yield from merged.following()) is not None:
            count += 1
            yield
        return count

    def _partition_of(self, order_id: str) -> int:
        return partition_for(order_id.encode(), self._projector.partitions)

    def cursor(self, wanted: OrderFilter, resume: dict[int, bytes]) -> bytes:
        """Content of an opaque cursor, to be signed by the caller."""
        return msgspec.msgpack.encode(Resume(self._digest(wanted), resume))

    def read_cursor(self, wanted: OrderFilter, cursor: bytes) -> dict[int, bytes]:
        """Raises `InvalidCursor` if it is not a cursor or belongs to another filter."""
        try:
            resume = _decode_resume(cursor)
        except msgspec.MsgspecError:
            raise InvalidCursor("not a cursor") from None
        prefix = wanted.prefix()  # an older version may have read these orders from another list
        if resume.filter_digest != self._digest(wanted) or not all(key.startswith(prefix) for key in resume.last.values()):
            raise InvalidCursor("the cursor belongs to another filter")
        return resume.last

    @staticmethod
    def _digest(wanted: OrderFilter) -> bytes:
        return msgspec.msgpack.encode(
            [
                wanted.status,
                wanted.customer_id,
                wanted.placed_from_ms,
                wanted.placed_to_ms,
                wanted.attention,
                wanted.reference,
                wanted.email_digest,
            ]
        )

    def daily(
        self, from_day: int, to_day: int, currency: str | None = None
    ) -> Steps[dict[tuple[int, str], read_models.DailyTotals]]:
        """Totals by (UTC day since the epoch, currency), both days inclusive, for all partitions."""
        totals: dict[tuple[int, str], read_models.DailyTotals] = {}
        for p in range(self._projector.partitions):
            for key, row in PartitionRows(self._projector, p, read_models.daily_prefix(), read_models.daily_key(from_day, "")):
                day, of = read_models.read_daily_key(key)
                if day > to_day:
                    break
                if currency is None or of == currency:
                    _sum(totals.setdefault((day, of), read_models.DailyTotals()), read_models.decode_daily(row))
                yield
        return totals

    def counts(self) -> dict[str, int]:
        """Number of orders by displayed status, for all partitions."""
        return {
            str(status): sum(
                int.from_bytes(store.get(read_models.count_key(status)) or b"", "big") for store in self._projector.stores
            )
            for status in Status
        }


def _sum(total: read_models.DailyTotals, part: read_models.DailyTotals) -> None:
    for name in part.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(part, name))
