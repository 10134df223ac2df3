"""What one endpoint is still owed, and which position is safe to store. Pure: times are arguments, in ms.

Pauses are those of the monotonic clock; only since when a delivery fails is stored, and in ms since the epoch.

Events of one order are delivered one after the other, in their order; one that failed lets only its order wait. A stored place
is a position, and the events before it that are late, each the first of its order: those that failed and wait, and those that
waited behind one. Whoever resumes there reads from the first of them on, and delivers, before the position, only events of their
orders: everything at least once, almost all once.
"""

from __future__ import annotations

import base64
from collections import deque
from functools import cache
from itertools import islice

import msgspec
from msgspec import Struct

from commands.webhooks.endpoints import GIVE_UP_MS
from ledger.events import OrderEvent

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
# After each failure: the schedule of Standard Webhooks, three days in all.
PAUSES_MS = (5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
FULL_PAUSE_MS = 5 * MINUTE  # the longest while nothing more is read
MAX_QUEUED = 500  # events in memory
MAX_PARKED = 100  # orders of one partition that wait for a retry: as many as fit into the note beside the position


class Delivery(Struct):
    """One event for one endpoint. `link`: of the record before it. `value`: of the record, while `event` cannot be read."""

    partition: int
    offset: int
    link: bytes
    order_id: str
    event: OrderEvent | None
    value: bytes = b""
    failed_since: int = 0
    tries: int = 0
    tried_at: int = 0  # of the monotonic clock, as the next ones
    not_before: int = 0  # what the receiver asked for
    next_at: int = 0
    trace: bytes | None = None


class Place(Struct, array_like=True):
    """What is stored beside a position of an endpoint: log and link as for every position, when it was started, what waits.

    `parked` has (offset, failed since, tries).
    """

    log_id: bytes = b""
    link: bytes = b""
    started_at: int = 0
    parked: list[tuple[int, int, int]] = []


_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Place).decode


def note_of(place: Place) -> str:
    """The note beside a position: at most 4,096 bytes."""
    return base64.b64encode(_encode(place)).decode()


def place_of(note: str) -> Place | None:
    """None for a note that is not understood."""
    try:
        return _decode(base64.b64decode(note, validate=True))
    except (ValueError, msgspec.MsgspecError):
        return None


class _Part:
    """How far one partition is read."""

    def __init__(self, position: int, place: Place) -> None:
        self.place = place
        self.known = position  # everything before it was delivered, or is parked
        self.position = min([position, *(offset for offset, _, _ in place.parked)])
        self.link = place.link if self.position == position else b""
        self.resumed = {offset: (since, tries) for offset, since, tries in place.parked}
        self.reopened: set[str] = set()  # orders that waited: their events before `known` are owed


class Queues:
    """Of one endpoint; for one thread."""

    def __init__(self) -> None:
        self._orders: dict[str, deque[Delivery]] = {}
        self._busy: set[str] = set()
        self._late: set[str] = set()  # orders whose events have waited, until all of them are delivered
        self._parts: dict[int, _Part] = {}
        self.queued = 0

    # ---- partitions

    def begin(self, partition: int, position: int, place: Place) -> int:
        """Continue a partition. Returns the offset from which on it must be read."""
        part = self._parts[partition] = _Part(position, place)
        return part.position

    def end(self, partition: int) -> None:
        """Forget a partition, which belongs to another process now."""
        self._parts.pop(partition, None)
        for order_id in [o for o, queue in self._orders.items() if queue[0].partition == partition]:
            self.queued -= len(self._orders.pop(order_id))
            self._busy.discard(order_id)
            self._late.discard(order_id)

    def partitions(self) -> set[int]:
        return set(self._parts)

    def position(self, partition: int) -> int:
        """The next offset to read."""
        return self._parts[partition].position

    # ---- events

    def take(self, delivery: Delivery, wanted: bool, link: bytes) -> None:
        """The next record of a partition; `link` is its own. One that was delivered before is skipped."""
        part = self._parts[delivery.partition]
        part.position, part.link = delivery.offset + 1, link
        known = part.resumed.pop(delivery.offset, None)
        queue = self._orders.get(delivery.order_id)
        if known is not None:
            delivery.failed_since, delivery.tries = known
            part.reopened.add(delivery.order_id)
        elif delivery.offset < part.known and delivery.order_id not in part.reopened:
            return
        if wanted:
            if queue is None:
                queue = self._orders[delivery.order_id] = deque()
            queue.append(delivery)
            if known is not None or delivery.offset < part.known:
                self._late.add(delivery.order_id)
            self.queued += 1

    def has_room(self) -> bool:
        """Whether more events should be read."""
        return self.queued < MAX_QUEUED and all(len(parked) < MAX_PARKED for parked in self._parked().values())

    def due(self, monotonic: int, most: int) -> list[Delivery]:
        """At most `most` events that should be delivered now; the caller ends each with `done` or `failed`.

        While nothing more is read, long pauses are cut short: otherwise nobody notices that the receiver is well again.
        """
        is_full = cache(lambda: not self.has_room())  # it looks at every order: asked only about what waits
        free = (queue[0] for order_id, queue in self._orders.items() if order_id not in self._busy)
        due = (h for h in free if h.next_at <= monotonic or (h.tries and _probe_at(h) <= monotonic and is_full()))
        heads = list(islice(due, max(0, most)))
        self._busy.update(head.order_id for head in heads)  # all of them or, after an exception, none
        return heads

    def done(self, delivery: Delivery) -> None:
        """It was delivered, or given up."""
        queue = self._orders.get(delivery.order_id)
        if queue is None or queue[0] is not delivery:
            return  # its partition was given away meanwhile, and perhaps came back
        self._busy.discard(delivery.order_id)
        queue.popleft()
        self.queued -= 1
        if not queue:
            del self._orders[delivery.order_id]
            self._late.discard(delivery.order_id)
        elif delivery.tries:
            self._late.add(delivery.order_id)  # else the next one would lower the position that is stored

    def failed(self, delivery: Delivery, now: int, monotonic: int, at_least: int = 0) -> bool:
        """It was not delivered: try again after a pause, of at least `at_least` ms. Returns whether it is given up instead.

        `now` is in ms since the epoch. If that clock was set back, the delivery has failed since now.
        """
        delivery.tries += 1
        delivery.failed_since = min(delivery.failed_since or now, now)
        if now - delivery.failed_since >= GIVE_UP_MS:
            self.done(delivery)
            return True
        pause = PAUSES_MS[min(delivery.tries, len(PAUSES_MS)) - 1]
        left = delivery.failed_since + GIVE_UP_MS - now  # the last try is at the end of the time
        delivery.tried_at, delivery.not_before = monotonic, monotonic + min(at_least, left)
        delivery.next_at = monotonic + max(SECOND, min(max(pause, at_least), left))
        queue = self._orders.get(delivery.order_id)
        if queue is not None and queue[0] is delivery:
            self._busy.discard(delivery.order_id)
        return False

    # ---- what is safe

    def waiting(self) -> int:
        """Events that failed and wait for a retry."""
        return sum(queue[0].tries > 0 for queue in self._orders.values())

    def _parked(self) -> dict[int, list[Delivery]]:
        """By partition, the first event of each order that is late."""
        parked: dict[int, list[Delivery]] = {}
        for order_id, queue in self._orders.items():
            if queue[0].tries or order_id in self._late:
                parked.setdefault(queue[0].partition, []).append(queue[0])
        return parked

    def places(self) -> dict[int, tuple[int, Place]]:
        """By partition, the position that is safe to store, and what is stored beside it."""
        parked, safe = self._parked(), dict[int, tuple[int, Place]]()
        for partition, part in self._parts.items():
            if part.position < part.known:  # what waits is being read again: until then, the place is the one from before
                safe[partition] = part.known, part.place
                continue
            waits = sorted(parked.get(partition, []), key=lambda one: one.offset)
            late = {one.offset for one in waits[:MAX_PARKED]}
            others = [q[0] for q in self._orders.values() if q[0].partition == partition and q[0].offset not in late]
            first = min(others, key=lambda one: one.offset, default=None)
            at, link = (part.position, part.link) if first is None else (first.offset, first.link)
            entries = [(one.offset, one.failed_since, one.tries) for one in waits[:MAX_PARKED]]
            safe[partition] = at, Place(part.place.log_id, link, part.place.started_at, entries)
        return safe


def _probe_at(head: Delivery) -> int:
    return max(head.tried_at + FULL_PAUSE_MS, head.not_before)
