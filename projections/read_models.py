"""The read models of one partition: which rows an event leads to. Pure; rows are bytes, keys order as readers page.

    o/<order_id>                                   the order (`ledger.order.Order`)
    e/<order_id>/<version>                         its events: offset and the value as it stands in the log (history, as-of)
    n/<newest first><order_id>                     all orders
    u/<customer_id>NUL<newest first><order_id>     orders of a customer
    s/<status>NUL<newest first><order_id>          orders by shown status
    t/<newest first><order_id>                     orders that need attention
    c/, x/                                         outcomes by command id (`ledger.outcomes`)
    d/<day><currency>                              daily totals
    q/<status>                                     how many orders show this status
    f/<order_id>                                   frozen orders: why and where

"Newest first" is the big-endian complement of `placed_at`. Changing what a row holds means raising `VERSION`: a database of
another version is not read but rebuilt.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from ledger import events as e
from ledger.events import OrderEvent
from ledger.order import Order, display, evolve
from ledger.outcomes import event_row
from ledger.transitions import Status

VERSION = 2
DAY_MS = 24 * 60 * 60 * 1000
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
    """What happened on one UTC day in one currency. Counts are orders, `_minor` money."""

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
    return b"o/" + order_id.encode()


def frozen_key(order_id: str) -> bytes:
    return b"f/" + order_id.encode()


def history_prefix(order_id: str) -> bytes:
    return b"e/" + order_id.encode() + b"/"


def history_key(order_id: str, version: int) -> bytes:
    return b"e/%b/%b" % (order_id.encode(), version.to_bytes(4, "big"))


def history_value(offset: int, value: bytes) -> bytes:
    return offset.to_bytes(8, "big") + value


def read_history_value(row: bytes) -> tuple[int, bytes]:
    """(offset, value as in the log) of a history row."""
    return int.from_bytes(row[:8], "big"), row[8:]


def newest_first(placed_at: int) -> bytes:
    """8 bytes that sort later times first."""
    return (_FAR - placed_at).to_bytes(8, "big")


def all_prefix() -> bytes:
    return b"n/"


def customer_prefix(customer_id: str) -> bytes:
    return b"u/" + customer_id.encode() + b"\0"


def status_prefix(status: str) -> bytes:
    return b"s/" + status.encode() + b"\0"


def attention_prefix() -> bytes:
    return b"t/"


def daily_prefix() -> bytes:
    return b"d/"


def daily_key(day: int, currency: str) -> bytes:
    """`day` counts UTC days since the epoch."""
    return b"d/%b%b" % (day.to_bytes(4, "big"), currency.encode())


def read_daily_key(key: bytes) -> tuple[int, str]:
    return int.from_bytes(key[2:6], "big"), key[6:].decode()


def count_key(status: str) -> bytes:
    return b"q/" + status.encode()


class PartitionFold:
    """Folds events of one partition into rows that are not yet written. `get` reads the store below."""

    def __init__(self, get: Get) -> None:
        self._get = get
        self.rows: Rows = {}
        self._orders: dict[str, Order] = {}
        self._daily: dict[bytes, DailyTotals] = {}
        self._counts: dict[Status, int] = {}

    def order(self, order_id: str) -> Order | None:
        if (order := self._orders.get(order_id)) is not None:
            return order
        raw = self._get(order_key(order_id))
        return decode_order(raw) if raw else None

    def frozen(self, order_id: str) -> bool:
        key = frozen_key(order_id)
        return key in self.rows or self._get(key) is not None

    def freeze(self, order_id: str, offset: int, reason: str) -> None:
        self.rows[frozen_key(order_id)] = encode(Frozen(order_id, offset, reason))

    def fold(self, event: OrderEvent, offset: int, value: bytes) -> Order:
        """Rows of one event. Raises `ledger.order.FoldError` before anything is changed."""
        before = None if event.version == 1 and event.type == e.ORDER_PLACED else self.order(event.order_id)
        after = evolve(before, event)
        self._orders[event.order_id] = after
        self.note(event, offset, value)
        self._index(before, after)
        self._count(before, after, event)
        return after

    def note(self, event: OrderEvent, offset: int, value: bytes) -> None:
        """Rows that need no fold: history and outcome. All that is kept of the later events of a frozen order."""
        self.rows[history_key(event.order_id, event.version)] = history_value(offset, value)
        key, row = event_row(event)
        self.rows[key] = row

    def _index(self, before: Order | None, after: Order) -> None:
        place = newest_first(after.placed_at) + after.order_id.encode()
        rows, status = self.rows, display(after)
        if before is None:
            rows[all_prefix() + place] = b""
            rows[customer_prefix(after.customer_id) + place] = b""
            rows[status_prefix(status) + place] = b""
            self._add(status, 1)
            return
        was = display(before)
        if was != status:
            rows[status_prefix(was) + place] = None
            rows[status_prefix(status) + place] = b""
            self._add(was, -1)
            self._add(status, 1)
        if bool(before.attention) != bool(after.attention):
            rows[attention_prefix() + place] = b"" if after.attention else None

    def _add(self, status: Status, change: int) -> None:
        if status not in self._counts:
            self._counts[status] = int.from_bytes(self._get(count_key(status)) or b"", "big")
        self._counts[status] += change

    def _count(self, before: Order | None, after: Order, event: OrderEvent) -> None:
        kind = event.type
        captured = after.captured_minor - (before.captured_minor if before else 0)
        refunded = after.refunded_minor - (before.refunded_minor if before else 0)
        if not (captured or refunded or kind in _COUNTED):
            return
        key = daily_key(event.occurred_at // DAY_MS, event.currency)
        totals = self._daily.get(key)
        if totals is None:
            raw = self._get(key)
            totals = self._daily[key] = decode_daily(raw) if raw else DailyTotals()
        totals.captured_minor += captured
        totals.refunded_minor += refunded
        if kind == e.ORDER_PLACED:
            totals.placed += 1
            totals.placed_minor += event.total_minor
        elif kind in _COUNTED:
            setattr(totals, _COUNTED[kind], getattr(totals, _COUNTED[kind]) + 1)

    def finish(self) -> Rows:
        """All rows of the fold so far, for one atomic write together with the position."""
        for order in self._orders.values():
            self.rows[order_key(order.order_id)] = encode(order)
        for key, totals in self._daily.items():
            self.rows[key] = encode(totals)
        for status, count in self._counts.items():
            self.rows[count_key(status)] = count.to_bytes(8, "big")
        return self.rows


_COUNTED = {e.ORDER_PLACED: "placed", e.ORDER_CANCELLED: "cancelled", e.ORDER_SHIPPED: "shipped", e.ORDER_DELIVERED: "delivered"}
