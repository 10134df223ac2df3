"""The feed: the events of all orders, those of a partition in the order of the log, from a place on. Read-only, in steps.

Events of several partitions are merged by time. A place says, for each partition, how far it was read, and which records were
passed without being shown: those that this node cannot read as the next event of their order (it is frozen). Later events of
such an order are passed, too. When the order thaws, here or on another node, its events are shown first, in their order. So
no event is missed, and those of one order never change places.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
from msgspec import Struct

from ledger.errors import DecodeError
from ledger.schemas.codec import event_codec
from ledger.turns import Steps
from projections import event_rows, read_models
from projections.event_rows import UNREAD, EventPlace
from projections.projector import Projector
from projections.queries import InvalidCursor, PartitionRows, Past

MOST_ROWS = 20_000  # read for one page, in turns
MOST_HELD = 64  # records passed without being shown; a partition waits at the next one


@dataclass(frozen=True, slots=True)
class EventFilter:
    """The events of a feed; None does not restrict. `types` are sorted."""

    types: tuple[str, ...] | None = None
    customer_id: str | None = None

    def has(self, place: EventPlace) -> bool:
        return (self.types is None or place.type in self.types) and self.customer_id in (None, place.customer_id)

    def digest(self) -> bytes:
        return msgspec.msgpack.encode([self.types, self.customer_id])


class Read(Struct, array_like=True):
    """How far a partition was read: the next offset, and before it the first record of each order that was passed."""

    position: int = 0
    held: list[int] = []


class FeedPlace(Struct, frozen=True, array_like=True):
    """Content of a cursor. `log_id` is that of the topic of the events; empty: unknown."""

    filter_digest: bytes
    log_id: bytes
    read: dict[int, Read]


_encode, _decode_place = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(FeedPlace).decode


@dataclass(slots=True)
class FeedPage:
    """`cursors` has the place behind each event, if they were asked for. `at_end`: this node has no more events now."""

    events: list[Past] = field(default_factory=list)
    cursors: list[bytes] = field(default_factory=list)
    cursor: bytes = b""
    at_end: bool = False


Show = Callable[[Past], bool]


class AllEvents:
    """The feed of one node, on the event loop that folds."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._codec = event_codec()

    # ---- places

    def beginning(self, wanted: EventFilter) -> bytes:
        """The place before the first event."""
        return _encoded(wanted, self._log_id(), {})

    def end(self, wanted: EventFilter) -> bytes:
        """The place behind the last event that this node has folded."""
        read = {p: Read(self._projector.position(p)) for p in range(self._projector.partitions)}
        return _encoded(wanted, self._log_id(), read)

    def read_cursor(self, wanted: EventFilter, cursor: bytes) -> dict[int, Read]:
        """How far each partition was read. Raises `InvalidCursor` if it belongs to another filter, or to another log."""
        try:
            place = _decode_place(cursor)
        except msgspec.MsgspecError:
            raise InvalidCursor("not a cursor of the feed") from None
        if place.filter_digest != wanted.digest():
            raise InvalidCursor("the cursor belongs to another filter")
        if place.log_id and (known := self._log_id()) and place.log_id != known:
            raise InvalidCursor("the cursor belongs to another log")
        return {p: read for p, read in place.read.items() if p < self._projector.partitions}

    def _log_id(self) -> bytes:
        return self._projector.databases.log_ids().get(self._projector.topics.events, b"")

    # ---- pages

    def page(self, wanted: EventFilter, cursor: bytes, limit: int, cursors: bool = False) -> Steps[FeedPage]:
        """At most `limit` events behind `cursor`; fewer, although there are more, if `MOST_ROWS` rows were read.

        Raises `InvalidCursor`.
        """
        read, log_id = self.read_cursor(wanted, cursor), self._log_id()
        page = FeedPage()

        def show(past: Past) -> bool:
            """Returns whether there is room for more."""
            page.events.append(past)
            if cursors:
                page.cursors.append(_encoded(wanted, log_id, read))
            return len(page.events) < limit

        heads: list[tuple[int, int, int, bytes]] = []  # (time, partition, offset, row)
        rows: dict[int, Iterator[tuple[int, bytes]]] = {}
        passed: dict[int, set[str]] = {}
        for p in range(self._projector.partitions):
            at = read.setdefault(p, Read())
            if not (yield from self._released(wanted, p, at, show)):
                page.cursor = _encoded(wanted, log_id, read)
                return page
            passed[p] = {place.order_id for offset in at.held if (place := self._place(p, offset)) is not None}
            rows[p] = self._rows(wanted, p, at.position)
            self._push(heads, p, rows[p])
        seen = 0
        while heads:
            _, p, offset, row = heads[0]
            place, at, past = event_rows.read_place(row), read[p], None
            if place.order_id not in passed[p]:
                is_wanted = place.version == UNREAD or wanted.has(place)
                past = self._past(p, offset, place) if is_wanted else None
                if is_wanted and past is None:
                    if sum(len(one.held) for one in read.values()) >= MOST_HELD:
                        heapq.heappop(heads)
                        continue  # this partition waits here
                    at.held.append(offset)
                    passed[p].add(place.order_id)
            at.position = offset + 1
            heapq.heappop(heads)
            seen += 1
            if (past is not None and not show(past)) or seen >= MOST_ROWS:
                page.cursor = _encoded(wanted, log_id, read)
                return page
            self._push(heads, p, rows[p])
            yield
        page.cursor, page.at_end = _encoded(wanted, log_id, read), True
        return page

    def _rows(self, wanted: EventFilter, p: int, start: int) -> Iterator[tuple[int, bytes]]:
        """(offset, row) of the records from `start` on that may be of the filter's customer."""
        if wanted.customer_id is None:
            for key, row in PartitionRows(self._projector, p, event_rows.PREFIX, event_rows.place_key(start)):
                yield event_rows.offset_of(key), row
            return
        lists = [
            PartitionRows(self._projector, p, event_rows.customer_prefix(customer), event_rows.customer_key(customer, start))
            for customer in (wanted.customer_id, "")  # the latter: of unknown customers, so perhaps of this one
        ]
        for offset in heapq.merge(*((event_rows.offset_of(key) for key, _ in one) for one in lists)):
            if (listed := self._projector.store(p).get(event_rows.place_key(offset))) is not None:
                yield offset, listed

    @staticmethod
    def _push(heads: list[tuple[int, int, int, bytes]], p: int, rows: Iterator[tuple[int, bytes]]) -> None:
        for offset, row in rows:
            heapq.heappush(heads, (event_rows.read_place(row).occurred_at, p, offset, row))
            return

    # ---- records that were passed

    def _released(self, wanted: EventFilter, p: int, at: Read, show: Show) -> Steps[bool]:
        """Show the events of orders that can be read now, up to the place. Returns whether there is room for more."""
        if at.held and self._projector.position(p) < at.position:
            return True  # this node lags behind the cursor: events before the place are not folded here yet
        for offset in list(at.held):
            first = self._place(p, offset)
            if first is None or first.version == UNREAD:
                continue
            at.held.remove(offset)
            offsets = self._offsets(p, first, offset, at.position)
            for number, one in enumerate(offsets, 1):
                place = self._place(p, one)
                past = self._past(p, one, place) if place is not None else None
                if place is None or past is None:
                    at.held.append(one)  # the order waits again, here
                    break
                following = offsets[number : number + 1]
                at.held += following
                if wanted.has(place) and not show(past):
                    return False
                del at.held[len(at.held) - len(following) :]
                yield
        return True

    def _offsets(self, p: int, first: EventPlace, start: int, end: int) -> list[int]:
        """The offsets from `start` to `end` (excluded) of all records of an order; `first` is the one at `start`."""
        store, offsets = self._projector.store(p), set[int]()
        history = read_models.history_prefix(first.order_id)
        for _, row in store.scan(history, read_models.history_key(first.order_id, first.version)):
            offsets.add(read_models.read_history_value(row)[0])
        held = read_models.held_prefix(first.order_id)
        offsets.update(event_rows.offset_of(key) for key, _ in store.scan(held) if len(key) == len(held) + 8)
        return sorted(offset for offset in offsets if start <= offset < end)

    # ---- records

    def _place(self, p: int, offset: int) -> EventPlace | None:
        row = self._projector.store(p).get(event_rows.place_key(offset))
        return None if row is None else event_rows.read_place(row)

    def _past(self, p: int, offset: int, place: EventPlace) -> Past | None:
        """The event at an offset; None if it cannot be read."""
        if place.version == UNREAD:
            return None
        store = self._projector.store(p)
        row = store.get(read_models.history_key(place.order_id, place.version))
        at, value = read_models.read_history_value(row) if row is not None else (-1, b"")
        if at != offset:  # a log with two events of one version: the record itself was kept, because it froze the order
            value = store.get(read_models.held_prefix(place.order_id) + offset.to_bytes(8, "big")) or b""
        try:
            return Past(self._codec.decode(value), p, offset)
        except DecodeError:
            return None


def _encoded(wanted: EventFilter, log_id: bytes, read: dict[int, Read]) -> bytes:
    return _encode(FeedPlace(wanted.digest(), log_id, {p: one for p, one in read.items() if one.position}))
