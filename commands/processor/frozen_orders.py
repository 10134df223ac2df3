"""Orders whose fold stopped at an event that this program cannot read or fold, and what happens when a later one can.

From that event on, the desk keeps the order's records as they are in the log. When the program knows more, after an upgrade or
because it learned a schema, they are folded from there, without reading the log again.

    f/<order_id>                  why the fold stopped, and where
    h/<order_id>NUL<offset>       a record that waits: 8 bytes of offset; the value as in the log
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct

from commands.obligations import due_at
from ledger.errors import DecodeError
from ledger.events import OrderEvent
from ledger.evolve import evolve
from ledger.order import FoldError, Order
from ledger.store import Store

log = structlog.get_logger(__name__)

FROZEN, HELD = b"f/", b"h/"


class FrozenOrder(Struct, frozen=True, array_like=True):
    """An order whose fold stopped: the record at `offset` of the partition's events could not be decoded or folded."""

    offset: int
    reason: str


class Held(NamedTuple):
    """A record of a frozen order."""

    offset: int
    value: bytes


class Thawed(NamedTuple):
    """What follows from the records of a frozen order. `events`: all that can be decoded; `stopped`: it is frozen there."""

    order: Order | None
    events: list[OrderEvent]
    stopped: FrozenOrder | None


decode_frozen = msgspec.msgpack.Decoder(FrozenOrder).decode


def held_key(order_id: str, offset: int) -> bytes:
    """Key of one held record."""
    return _prefix(order_id) + offset.to_bytes(8, "big")


def _prefix(order_id: str) -> bytes:
    return HELD + order_id.encode() + b"\0"


def held_in(store: Store, partition: bytes, order_id: str) -> list[Held]:
    """The held records of an order, oldest first. `partition` is the prefix of all keys of the partition."""
    prefix = partition + _prefix(order_id)
    rows = ((key, value) for key, value in store.scan(prefix) if len(key) == len(prefix) + 8)  # an id may continue with NUL
    return [Held(int.from_bytes(key[-8:], "big"), value) for key, value in rows]


def fold_held(
    order_id: str, before: Order | None, frozen: FrozenOrder, held: Sequence[Held], decode: Callable[[bytes], OrderEvent]
) -> Thawed:
    """The order after its held records, up to the first that still cannot be folded.

    `stopped` is `frozen` if nothing changed: that is the same record, or its obligations still cannot be derived.
    """
    order, events, stopped = before, list[OrderEvent](), None
    for offset, value in held:
        try:
            event = decode(value)
            if event.order_id != order_id:
                raise FoldError(f"the event of {event.order_id} has the key of {order_id}")
            events.append(event)
            if stopped is None:
                order = evolve(order, event)
        except (DecodeError, FoldError) as exc:
            stopped = stopped or (FrozenOrder(offset, str(exc)) if offset > frozen.offset else frozen)
    if order is not None and stopped is not frozen and not _has_known_obligations(order):
        return Thawed(before, events, frozen)
    return Thawed(order, events, stopped)


def _has_known_obligations(order: Order) -> bool:
    """Whether its obligations can be derived."""
    try:
        due_at(order)
    except Exception:  # a bug that this order triggers: it must affect only this order
        log.error("obligations of order could not be derived", order_id=order.order_id, exc_info=True)
        return False
    return True
