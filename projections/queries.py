"""What readers ask: one order, its past, pages of orders, outcomes, daily totals. Reads only; answers from this node's fold.

Pages are merged over partitions, newest first. A cursor holds, per partition, the last key looked at, so an order that a
lagging partition folds later is not lost between two pages.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from ledger.codec import event_codec
from ledger.errors import LedgerError
from ledger.events import OrderEvent
from ledger.order import Order, display, evolve
from ledger.outcomes import Outcome, decode_outcome, outcome_key, reused_key
from ledger.store import Store
from ledger.transitions import Status
from projections import read_models as rm
from projections.projector import Projector

# A page whose filter rejects almost everything ends early, with a cursor, instead of reading the whole ledger.
MAX_SCANNED = 5_000


class VersionNotFound(LedgerError):
    """The order has no such version, or did not exist at that time."""

    code = "version_not_found"


class InvalidCursor(LedgerError):
    """The cursor is not one of ours, or was made for other filters."""

    code = "invalid_cursor"


class Past(Struct, frozen=True):
    """One event of an order with its place in the log."""

    event: OrderEvent
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class OrderFilter:
    """Which orders a page holds; None does not restrict. Times are ms since the epoch, both ends inclusive."""

    status: str | None = None
    customer_id: str | None = None
    placed_from_ms: int | None = None
    placed_to_ms: int | None = None
    attention: bool | None = None

    def prefix(self) -> bytes:
        """The narrowest read model that holds all these orders."""
        if self.customer_id is not None:
            return rm.customer_prefix(self.customer_id)
        if self.attention:
            return rm.attention_prefix()
        if self.status is not None:
            return rm.status_prefix(self.status)
        return rm.all_prefix()

    def takes(self, order: Order) -> bool:
        return (
            (self.customer_id is None or order.customer_id == self.customer_id)
            and (self.status is None or display(order) == self.status)
            and (self.attention is None or bool(order.attention) == self.attention)
            and (self.placed_to_ms is None or order.placed_at <= self.placed_to_ms)
        )


class Resume(Struct, frozen=True, array_like=True):
    """Inside of a cursor: a digest of the filter, and the last key looked at in each partition."""

    filter_digest: bytes
    last: dict[int, bytes]


_decode_resume = msgspec.msgpack.Decoder(Resume).decode


@dataclass(frozen=True, slots=True)
class Page:
    """`resume` is None on the last page."""

    orders: list[Order]
    resume: dict[int, bytes] | None


@dataclass(slots=True)
class _Merge:
    """Rows of one index over all partitions, newest first, with the key reached in each."""

    projector: Projector
    prefix: bytes
    start: bytes | None
    last: dict[int, bytes] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, bytes, str]]:
        """(partition, key, order id) in the order of the merged list."""
        heads = [self._of(p, store) for p, store in enumerate(self.projector.stores)]
        for key, p in heapq.merge(*heads):
            yield p, key, key[len(self.prefix) + 8 :].decode()

    def _of(self, p: int, store: Store) -> Iterator[tuple[bytes, int]]:
        start = self.start
        if (reached := self.last.get(p)) is not None:
            start = reached + b"\0"
        for key, _ in store.scan(self.prefix, start):
            yield key, p


class Queries:
    """Reads of one node. Everything here is synchronous and touches only open databases."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._events = event_codec()

    def order(self, partition: int, order_id: str) -> Order | None:
        """The order now."""
        raw = self._projector.store(partition).get(rm.order_key(order_id))
        return rm.decode_order(raw) if raw else None

    def frozen(self, partition: int, order_id: str) -> rm.Frozen | None:
        """Why and where the fold of this order stopped, if it did."""
        raw = self._projector.store(partition).get(rm.frozen_key(order_id))
        return rm.decode_frozen(raw) if raw else None

    def all_frozen(self) -> list[tuple[int, rm.Frozen]]:
        """Every frozen order of this node with its partition."""
        return [(p, rm.decode_frozen(row)) for p, store in enumerate(self._projector.stores) for _, row in store.scan(b"f/")]

    def history(self, partition: int, order_id: str, after: int = 0, limit: int | None = None) -> list[Past]:
        """Events with version > `after`, oldest first, at most `limit`."""
        found: list[Past] = []
        prefix = rm.history_prefix(order_id)
        rows = self._projector.store(partition).scan(prefix, rm.history_key(order_id, after + 1))
        for _, row in rows:
            offset, value = rm.read_history_value(row)
            found.append(Past(self._events.decode(value), partition, offset))
            if limit is not None and len(found) >= limit:
                break
        return found

    def as_of_version(self, partition: int, order_id: str, version: int) -> Order:
        """The order as it was after its `version`-th event. Raises `VersionNotFound`."""
        current = self.order(partition, order_id)
        if current is not None and current.version == version:
            return current
        order: Order | None = None
        for past in self.history(partition, order_id, limit=version):
            order = evolve(order, past.event)
        if order is None or order.version != version:
            raise VersionNotFound(f"order {order_id} has no version {version}")
        return order

    def as_of_time(self, partition: int, order_id: str, at_ms: int) -> Order:
        """The order as it was at `at_ms` (events that occurred then are in). Raises `VersionNotFound`."""
        order: Order | None = None
        for past in self.history(partition, order_id):
            if past.event.occurred_at > at_ms:
                break
            order = evolve(order, past.event)
        if order is None:
            raise VersionNotFound(f"order {order_id} did not exist at that time")
        return order

    def outcome(self, partition: int, command_id: str, fingerprint: bytes | None = None) -> Outcome | None:
        """What became of a command. With another `fingerprint` than the first one: that refusal, or None while it is not
        recorded; the caller then knows the id is taken (`outcome` without fingerprint)."""
        store = self._projector.store(partition)
        raw = store.get(outcome_key(command_id))
        first = decode_outcome(raw) if raw else None
        if fingerprint is None or first is None or first.fingerprint == fingerprint:
            return first
        raw = store.get(reused_key(command_id, fingerprint))
        return decode_outcome(raw) if raw else None

    def page(self, wanted: OrderFilter, limit: int, resume: dict[int, bytes] | None = None) -> Page:
        """At most `limit` orders, newest first, after `resume`."""
        prefix = wanted.prefix()
        start = prefix + rm.newest_first(wanted.placed_to_ms) if wanted.placed_to_ms is not None else None
        merge = _Merge(self._projector, prefix, start, dict(resume or {}))
        found: list[Order] = []
        last = dict(resume or {})
        rows = merge.rows()
        for scanned, (p, key, order_id) in enumerate(rows):
            if len(found) >= limit or scanned >= MAX_SCANNED:
                rows.close()  # type: ignore[attr-defined]  # a live RocksDB iterator would hold its files
                return Page(found, last)
            last[p] = key
            order = self.order(p, order_id)
            if order is None:
                continue
            if wanted.placed_from_ms is not None and order.placed_at < wanted.placed_from_ms:
                break  # everything behind it is older still
            if wanted.takes(order):
                found.append(order)
        return Page(found, None)

    def cursor(self, wanted: OrderFilter, resume: dict[int, bytes]) -> bytes:
        """Inside of an opaque cursor; whoever hands it out signs it."""
        return msgspec.msgpack.encode(Resume(self._digest(wanted), resume))

    def read_cursor(self, wanted: OrderFilter, cursor: bytes) -> dict[int, bytes]:
        """Raises `InvalidCursor` when it is no cursor or belongs to another filter."""
        try:
            resume = _decode_resume(cursor)
        except msgspec.MsgspecError:
            raise InvalidCursor("not a cursor") from None
        if resume.filter_digest != self._digest(wanted):
            raise InvalidCursor("this cursor was made for another filter")
        return resume.last

    @staticmethod
    def _digest(wanted: OrderFilter) -> bytes:
        return msgspec.msgpack.encode(
            [wanted.status, wanted.customer_id, wanted.placed_from_ms, wanted.placed_to_ms, wanted.attention]
        )

    def daily(self, from_day: int, to_day: int, currency: str | None = None) -> dict[tuple[int, str], rm.DailyTotals]:
        """Totals by (UTC day since the epoch, currency), both days inclusive, summed over partitions."""
        found: dict[tuple[int, str], rm.DailyTotals] = {}
        for store in self._projector.stores:
            for key, row in store.scan(rm.daily_prefix(), rm.daily_key(from_day, "")):
                day, of = rm.read_daily_key(key)
                if day > to_day:
                    break
                if currency is None or of == currency:
                    _sum(found.setdefault((day, of), rm.DailyTotals()), rm.decode_daily(row))
        return found

    def counts(self) -> dict[str, int]:
        """How many orders show each status, over all partitions."""
        return {
            str(status): sum(int.from_bytes(store.get(rm.count_key(status)) or b"", "big") for store in self._projector.stores)
            for status in Status
        }


def _sum(total: rm.DailyTotals, part: rm.DailyTotals) -> None:
    for name in part.__struct_fields__:
        setattr(total, name, getattr(total, name) + getattr(part, name))
