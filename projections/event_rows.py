"""The rows of the feed of all events: its events in the order of the log, of a partition and of each customer. Pure.

    l/<offset>                    the event there: time, version, customer, type, order
    m/<customer_id>NUL<offset>    the offsets of a customer's events; an empty customer: of records whose customer is unknown

A record that cannot be read as the next event of its order has a row with version 0: readers must not pass it unseen.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ledger.events import OrderEvent

_FIXED = struct.Struct(">QI")
UNREAD = 0  # the version of a record that could not be read
PREFIX = b"l/"


class EventPlace(NamedTuple):
    """What the feed needs to know of an event before it reads it. `occurred_at` is in ms since the epoch."""

    occurred_at: int
    version: int
    customer_id: str
    type: str
    order_id: str


def place_key(offset: int) -> bytes:
    """Key of the record at an offset."""
    return PREFIX + offset.to_bytes(8, "big")


def customer_prefix(customer_id: str) -> bytes:
    """Prefix of the keys of a customer's events, before the offset."""
    return b"m/%b\0" % customer_id.encode()


def customer_key(customer_id: str, offset: int) -> bytes:
    """Key of an event of a customer."""
    return customer_prefix(customer_id) + offset.to_bytes(8, "big")


def offset_of(key: bytes) -> int:
    """The offset in a key of either kind."""
    return int.from_bytes(key[-8:], "big")


def place_row(event: OrderEvent) -> bytes:
    """Row of an event."""
    named = f"{event.customer_id}\0{event.type}\0{event.order_id}"
    return _FIXED.pack(event.occurred_at, event.version) + named.encode()


def unread_row(order_id: str, customer_id: str) -> bytes:
    """Row of a record that could not be read; `customer_id` is empty if the order is unknown."""
    return _FIXED.pack(0, UNREAD) + f"{customer_id}\0\0{order_id}".encode()


def read_place(row: bytes) -> EventPlace:
    """The content of a row."""
    occurred_at, version = _FIXED.unpack_from(row)
    customer_id, kind, order_id = row[_FIXED.size :].decode().split("\0", 2)
    return EventPlace(occurred_at, version, customer_id, kind, order_id)
