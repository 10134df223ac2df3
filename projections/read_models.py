"""The read models of one partition: the rows that follow from an event. Pure; rows are bytes, keys sort in page order.

    o/<order_id>                       the order (`ledger.order.Order`)
    e/<order_id>/<version>             its events: offset and the value as stored in the log (history, as-of)
    g/<order_id>/<version>             the order at every 50th version, so that as-of folds at most 49 events
    n/<place>                          all orders
    u/<customer_id>NUL<place>          orders of a customer
    s/<status>NUL<place>               orders by displayed status
    v/<customer_id>NUL<status>NUL<place>   orders of a customer by displayed status
    r/<reference>NUL<place>            orders with this reference, which is hashed here
    w/<customer_id>NUL<reference>NUL<place>   orders of a customer with this reference
    k/<number>                         the id of the order with this number
    tn/, tu/, ts/, tv/                 the first four lists, only of orders that need attention
    c/, x/                             outcomes by command id (`ledger.outcomes`)
    d/<day><currency>                  daily totals
    q/<status>                         number of orders with this displayed status
    f/<order_id>                       frozen orders: reason and position (of the first record that could not be folded)
    h/<order_id>NUL<offset>            records of a frozen order from that one on, as in the log: they wait for a later program
    l/, m/                             all events, and those of a customer, in the order of the log (`event_rows`)
    \\0...                              positions, digest and its checkpoints (`databases`)

A list has one row per order, without a value. `<place>` is the big-endian complement of `placed_at`, which puts the newest first,
and the order id. There is a list for every combination of filters, so a page reads only what it shows. To change the content of
rows, raise `VERSION`: a database of another version is not read but rebuilt.

`PartitionFold` is the only definition of the fold: `serve`, `rebuild` and `verify` all use it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from ledger import events
from ledger.durations import DAY_MS
from ledger.events import OrderEvent
from ledger.evolve import evolve
from ledger.order import Order, display
from ledger.outcomes import event_row
from ledger.transitions import Status
from projections.digests import row_hash, sum_of
from projections.event_rows import customer_key, place_key, place_row, read_place, unread_row

VERSION = 9
SNAPSHOT_EVERY = 50  # versions of an order
_FAR = (1 << 64) - 1

encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode

Rows = dict[bytes, bytes | None]
Get = Callable[[bytes], bytes | None]


class Frozen(Struct, frozen=True, array_like=True):
    """The record at `offset` of the partition's events could not be decoded or folded; later events of the order wait."""

    order_id: str
    offset: int
    reason: str


class DailyTotals(Struct, array_like=True):
    """Totals of one UTC day in one currency. Counts are orders, `_minor` is money."""

    placed: int = 0
    placed_minor: int = 0
    cancelled: int = 0
    shipped: int = 0
    delivered: int = 0
    captured_minor: int = 0
    refunded_minor: int = 0


decode_daily = msgspec.msgpack.Decoder(DailyTotals).decode
decode_frozen = msgspec.msgpack.Decoder(Frozen).decode


def order_key(order_id: str) -> bytes:
    """Key of the state of an order."""
    return b"o/" + order_id.encode()


def frozen_key(order_id: str) -> bytes:
    """Key of an order whose fold stopped."""
    return b"f/" + order_id.encode()


def held_prefix(order_id: str) -> bytes:
    """Prefix of the records that wait for a frozen order. An offset of 8 bytes follows; or more, in an id with a NUL."""
    return b"h/" + order_id.encode() + b"\0"


def history_prefix(order_id: str) -> bytes:
    """Prefix of all events of an order."""
    return b"e/" + order_id.encode() + b"/"


def history_key(order_id: str, version: int) -> bytes:
    """Key of one event of an order."""
    return b"e/%b/%b" % (order_id.encode(), version.to_bytes(4, "big"))


def snapshot_key(order_id: str, version: int) -> bytes:
    """Key of the state of an order at a version."""
    return b"g/%b/%b" % (order_id.encode(), version.to_bytes(4, "big"))


def history_value(offset: int, value: bytes) -> bytes:
    """Stored form of an event and its offset."""
    return offset.to_bytes(8, "big") + value


def read_history_value(row: bytes) -> tuple[int, bytes]:
    """(offset, value as in the log) of a history row."""
    return int.from_bytes(row[:8], "big"), row[8:]


def newest_first(placed_at: int) -> bytes:
    """8 bytes that sort later times first."""
    return (_FAR - placed_at).to_bytes(8, "big")


def place_of(order: Order) -> bytes:
    """The place of an order, the same in every list."""
    return newest_first(order.placed_at) + order.order_id.encode()


_NULS = {b"n": 0, b"u": 1, b"s": 1, b"v": 2, b"r": 1, b"w": 2}  # in the prefixes of `list_prefix` and `reference_prefix`


def place_in(key: bytes) -> bytes:
    """The place in the key of a list."""
    start = 3 if key.startswith(b"t") else 2
    for _ in range(_NULS[key[start - 2 : start - 1]]):
        start = key.index(b"\0", start) + 1
    return key[start:]


def placed_at_of(place: bytes) -> int:
    """The `placed_at` in a place, ms since the epoch."""
    return _FAR - int.from_bytes(place[:8], "big")


def order_id_of(place: bytes) -> str:
    """The order id in a place."""
    return place[8:].decode()


def list_prefix(customer_id: str | None = None, status: str | None = None, attention: bool = False) -> bytes:
    """Prefix of the keys of a list, before the place. None and `attention` False do not restrict."""
    lists = b"t" if attention else b""
    if customer_id is None:
        return lists + (b"n/" if status is None else b"s/%b\0" % status.encode())
    if status is None:
        return lists + b"u/%b\0" % customer_id.encode()
    return lists + b"v/%b\0%b\0" % (customer_id.encode(), status.encode())


def reference_prefix(reference: str, customer_id: str | None = None) -> bytes:
    """Prefix of the keys of the list of orders with a reference, before the place. A reference may be any text: it is hashed."""
    digest = hashlib.sha256(reference.encode()).hexdigest()[:32].encode()
    return b"r/%b\0" % digest if customer_id is None else b"w/%b\0%b\0" % (customer_id.encode(), digest)


def number_key(number: str) -> bytes:
    """Key of the id of the order with this number."""
    return b"k/" + number.encode()


def daily_prefix() -> bytes:
    """Prefix of all daily totals."""
    return b"d/"


def daily_key(day: int, currency: str) -> bytes:
    """Key of daily totals. `day` counts UTC days since the epoch."""
    return b"d/%b%b" % (day.to_bytes(4, "big"), currency.encode())


def read_daily_key(key: bytes) -> tuple[int, str]:
    """(UTC day since the epoch, currency) of a key of daily totals."""
    return int.from_bytes(key[2:6], "big"), key[6:].decode()


def count_key(status: str) -> bytes:
    """Key of the number of orders with a displayed status."""
    return b"q/" + status.encode()


class PartitionFold:
    """Folds events of one partition into rows that are not yet written. `get` reads the store.

    `frozen` contains the ids of frozen orders; `freeze` adds to it, for all later folds of the partition, too. `finish` returns
    the rows; `change` is then their effect on the digest of the database. State rows of an order are built once, at the end,
    regardless of the number of its events.
    """

    def __init__(self, get: Get, frozen: set[str]) -> None:
        self._get = get
        self._frozen = frozen
        self.rows: Rows = {}
        self.change = 0
        self._was: list[tuple[bytes, bytes]] = []  # stored rows that are replaced or deleted
        self._below: dict[str, tuple[bytes | None, Order | None]] = {}  # the affected orders, as stored
        self._orders: dict[str, Order] = {}
        self._daily: dict[bytes, DailyTotals] = {}

    def order(self, order_id: str) -> Order | None:
        """The current fold of the order."""
        order = self._orders.get(order_id)
        if order is None and order_id not in self._below:
            raw = self._get(order_key(order_id))
            order = decode_order(raw) if raw else None
            self._below[order_id] = raw, order
        return order or self._below[order_id][1]

    def frozen(self, order_id: str) -> bool:
        return order_id in self._frozen

    def freeze(self, order_id: str, offset: int, reason: str, value: bytes) -> bool:
        """Freeze the order at a record. Returns whether this is its first one that cannot be folded."""
        self._hold(order_id, offset, value)
        if order_id in self._frozen:
            return False
        self._frozen.add(order_id)
        self.rows[frozen_key(order_id)] = encode(Frozen(order_id, offset, reason))
        return True

    def _hold(self, order_id: str, offset: int, value: bytes) -> None:
        order = self.order(order_id)
        self._list(offset, unread_row(order_id, order.customer_id if order else ""), order.customer_id if order else "")
        self.rows[held_prefix(order_id) + offset.to_bytes(8, "big")] = value

    def _list(self, offset: int, row: bytes, customer_id: str) -> None:
        """Add the rows of the feed for the record at `offset`, instead of those with which it was held."""
        key = place_key(offset)
        if (held := self.rows.get(key)) is not None:
            self.rows[customer_key(read_place(held).customer_id, offset)] = None
        self.rows[key] = row
        self.rows[customer_key(customer_id, offset)] = b""

    def thaw(self, order_id: str, held: Mapping[int, tuple[bytes, OrderEvent | None]]) -> None:
        """Remove all rows of the records of a frozen order. Then fold them again, in their order, as if they came now.

        `held`: by offset, the value and the event in it; None if it still cannot be decoded.
        """
        self._frozen.discard(order_id)
        self._remove(frozen_key(order_id))
        for offset, (value, event) in held.items():
            self._remove(held_prefix(order_id) + offset.to_bytes(8, "big"))
            if (listed := self._get(place_key(offset))) is not None:
                self._remove(place_key(offset))
                self._remove(customer_key(read_place(listed).customer_id, offset))
            if event is None or self._get(key := history_key(event.order_id, event.version)) != history_value(offset, value):
                continue
            self._remove(key)  # it was noted when the order was frozen
            outcome, row = event_row(event)
            if self._get(outcome) == row:
                self._remove(outcome)

    def _remove(self, key: bytes) -> None:
        self._replaces(key, self._get(key))
        self.rows[key] = None

    def fold(self, event: OrderEvent, offset: int, value: bytes) -> Order:
        """Fold one event. Raises `ledger.order.FoldError` before anything is changed."""
        order_id = event.order_id
        before = self._orders.get(order_id) or self.order(order_id)
        after = self._orders[order_id] = evolve(before, event)
        self.rows[history_key(order_id, event.version)] = history_value(offset, value)  # the next version: no row existed
        self._list(offset, place_row(event), event.customer_id)
        if event.version % SNAPSHOT_EVERY == 0:
            self.rows[snapshot_key(order_id, event.version)] = encode(after)
        self._outcome(event)
        if event.imported is None and (
            event.type in _COUNTED
            or before is None
            or after.captured_minor != before.captured_minor
            or after.refunded_minor != before.refunded_minor
        ):
            self._count(before, after, event)
        return after

    def note(self, event: OrderEvent, offset: int, value: bytes) -> None:
        """Add the rows that need no fold: history and outcome. Later events of a frozen order have only these, and wait."""
        if event.order_id in self._frozen:
            self._hold(event.order_id, offset, value)
        key = history_key(event.order_id, event.version)
        if key not in self.rows:
            self._replaces(key, self._get(key))
        self.rows[key] = history_value(offset, value)
        self._list(offset, place_row(event), event.customer_id)
        self._outcome(event)

    def _outcome(self, event: OrderEvent) -> None:
        key, row = event_row(event)
        if (other := self.rows.get(key)) is not None:  # an id with two events: both count, in one batch as in two
            self.change += row_hash(key, other)
        self.rows[key] = row

    def _replaces(self, key: bytes, row: bytes | None) -> None:
        if row is not None:
            self._was.append((key, row))

    def _count(self, before: Order | None, after: Order, event: OrderEvent) -> None:
        key = daily_key(event.occurred_at // DAY_MS, event.currency)
        totals = self._daily.get(key)
        if totals is None:
            raw = self._get(key)
            totals = self._daily[key] = decode_daily(raw) if raw else DailyTotals()
        totals.captured_minor += after.captured_minor - (before.captured_minor if before else 0)
        totals.refunded_minor += after.refunded_minor - (before.refunded_minor if before else 0)
        if event.type == events.ORDER_PLACED:
            totals.placed_minor += event.total_minor
        if (count := _COUNTED.get(event.type)) is not None:
            setattr(totals, count, getattr(totals, count) + 1)

    def finish(self) -> Rows:
        """All rows, for one atomic write together with the position. Call it once."""
        rows, moves = self.rows, dict[Status, int]()
        for order_id, order in self._orders.items():
            raw, before = self._below[order_id]
            key = order_key(order_id)
            self._replaces(key, raw)
            rows[key] = encode(order)
            self._index(before, order, moves)
        for key, totals in self._daily.items():
            self._replaces(key, self._get(key))
            rows[key] = encode(totals)
        for status, move in moves.items():
            if move:
                key = count_key(status)
                was = self._get(key)
                self._replaces(key, was)
                count = int.from_bytes(was or b"", "big") + move
                rows[key] = count.to_bytes(8, "big") if count else None  # 0: no row, so that equal states have equal rows
        self.change += sum_of(rows.items()) - sum_of(self._was)
        return rows

    def _index(self, before: Order | None, after: Order, moves: dict[Status, int]) -> None:
        """Add rows for lists that the order entered or left; `moves` counts orders by status."""
        place, customer = place_of(after), after.customer_id
        status = display(after)
        was = display(before) if before else None
        if before is None:
            self.rows[list_prefix() + place] = b""
            self.rows[list_prefix(customer) + place] = b""
            if after.number:
                self.rows[number_key(after.number)] = after.order_id.encode()
            if after.reference is not None:
                self.rows[reference_prefix(after.reference) + place] = b""
                self.rows[reference_prefix(after.reference, customer) + place] = b""
        if was is not status:
            if was is not None:
                self._delete(list_prefix(None, was) + place)
                self._delete(list_prefix(customer, was) + place)
                moves[was] = moves.get(was, 0) - 1
            self.rows[list_prefix(None, status) + place] = b""
            self.rows[list_prefix(customer, status) + place] = b""
            moves[status] = moves.get(status, 0) + 1
        had, has = bool(before and before.attention), bool(after.attention)
        if had or has:
            self._attention(place, customer, was if had else None, status if has else None)

    def _attention(self, place: bytes, customer: str, was: Status | None, status: Status | None) -> None:
        """Add rows for the lists of orders that need attention. None: the order did not, or does not, need any."""
        if was is status:
            return
        if was is None or status is None:
            for prefix in (list_prefix(attention=True), list_prefix(customer, attention=True)):
                if was is None:
                    self.rows[prefix + place] = b""
                else:
                    self._delete(prefix + place)
        for of in (None, customer):
            if was is not None:
                self._delete(list_prefix(of, was, True) + place)
            if status is not None:
                self.rows[list_prefix(of, status, True) + place] = b""

    def _delete(self, key: bytes) -> None:
        self._replaces(key, b"")
        self.rows[key] = None


_COUNTED = {
    events.ORDER_PLACED: "placed",
    events.ORDER_CANCELLED: "cancelled",
    events.ORDER_SHIPPED: "shipped",
    events.ORDER_DELIVERED: "delivered",
}
