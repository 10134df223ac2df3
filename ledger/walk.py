"""Checks that every record of `order-events` must pass: used by `verify` and `import-log`. Pure.

`Walk` checks the records of one partition in order and yields their faults: framing, schema, key and partition, chain, dense
versions, command offsets, writer epochs, legal transitions, recomputed summary of the envelope, amounts. It keeps only the orders
of the current batch; older ones are looked up.

A break of the chain is between two records. Either may be damaged, or a record between them is missing: a `Fault` therefore names
the record where it was detected (`offset`) and the last valid one before it (`after`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from ledger import transitions
from ledger.envelope import fits, summary
from ledger.errors import DecodeError
from ledger.events import (
    DETAIL_OF,
    DISPUTE_CLOSED,
    LINES_CANCELLED,
    NO_HASH,
    ORDER_CANCELLED,
    ORDER_DELIVERED,
    ORDER_SHIPPED,
    PARCEL_DELIVERED,
    PARCEL_SHIPPED,
    OrderEvent,
)
from ledger.evolve import evolve
from ledger.log import Record
from ledger.money import total_of
from ledger.order import (
    DELIVERED,
    PROCESSING,
    SHIPPED,
    FoldError,
    Order,
    attempt_no,
    display,
    dispute_of,
    refund_of,
    refund_room_minor,
    stock_of,
)
from ledger.order_numbers import is_number_of
from ledger.partitioner import partition_for
from ledger.schemas.codec import event_codec, link_of
from ledger.units import refundable, shippable


class Fault(Struct, frozen=True):
    """One fault and its position. `after` is the offset of the last record before it in the partition (None: it is
    the first), `field` the envelope's field, or `value`, `key`, `headers`, `timestamp`, `offset`."""

    partition: int
    offset: int
    after: int | None
    order_id: str
    field: str
    message: str

    def __str__(self) -> str:
        after = f" (after {self.after})" if self.after is not None else ""
        return f"{self.partition}-{self.offset}{after} {self.order_id} {self.field}: {self.message}"


class Head(Struct, frozen=True):
    """The head of a partition's chain: `events` events, the last one at `offset`; the next one must name `link`."""

    events: int
    offset: int
    link: bytes


class Mismatch(NamedTuple):
    """An order whose amounts do not add up; that is recorded, and staff must resolve it."""

    order_id: str
    partition: int
    offset: int
    told: bool  # attention was raised


NO_HEAD = Head(0, -1, NO_HASH)
_DETAILS = tuple(dict.fromkeys(DETAIL_OF.values()))
_REQUESTED = {
    outcome for row in transitions.REQUESTS.values() for outcome in row.values() if not isinstance(outcome, transitions.Code)
}
# How far the order is after an event about a parcel: the last one is an event about the order.
_PROGRESS = {
    PARCEL_SHIPPED: (PROCESSING,),
    ORDER_SHIPPED: (SHIPPED,),
    PARCEL_DELIVERED: (PROCESSING, SHIPPED),
    ORDER_DELIVERED: (DELIVERED,),
}


class Walk:
    """Checks one partition, record by record, from the first one."""

    def __init__(
        self,
        partition: int,
        partitions: int,
        order_before: Callable[[str], Order | None],
        answered_before: Callable[[str], bool],
        heads: Iterable[Head] = (),
    ) -> None:
        """`order_before` and `answered_before` look up results of earlier batches: an order; whether a command id has an event.

        `heads` are heads of the chain, kept elsewhere, that it must contain.
        """
        self.head = NO_HEAD
        self._partition, self._partitions = partition, partitions
        self._order_before, self._answered_before = order_before, answered_before
        self._heads = {head.events: head for head in heads}
        self._decode = event_codec().decode
        self._orders: dict[str, Order] = {}
        self._broken: set[str] = set()  # orders with versions out of sequence: reported once
        self._answered: set[str] = set()
        self._command_log, self._command_offset, self._writer_epoch = b"", -1, 0
        self.mismatched: dict[str, Mismatch] = {}

    def batch_ends(self) -> None:
        """The checked records can now be looked up."""
        self._orders.clear()
        self._answered.clear()

    def check(self, record: Record) -> Iterator[Fault]:
        """Faults of the next record of the partition."""
        before, self._after = self.head, self.head.offset if self.head.events else None
        self._record = record
        value = record.value or b""
        if before.events and record.offset <= before.offset:
            yield self._fault("", "offset", f"comes after offset {before.offset}")
        self.head = Head(before.events + 1, record.offset, link_of(value))
        try:
            event = self._decode(record.value)
        except DecodeError as exc:
            yield self._fault((record.key or b"").decode("utf-8", "replace"), "value", str(exc))
        else:
            yield from self._check_event(event, before.link)
        if (kept := self._heads.get(self.head.events)) is not None and kept.link != self.head.link:
            yield self._fault("", "value", f"the chain after {kept.events} events differs from the head kept elsewhere")

    def end(self) -> Iterator[Fault]:
        """Faults if the log ends here."""
        for head in sorted(self._heads.values(), key=lambda head: head.events):
            if head.events > self.head.events:
                message = f"the log ends after {self.head.events} events, a head kept elsewhere has {head.events}"
                offset = self.head.offset if self.head.events else None
                yield Fault(self._partition, head.offset, offset, "", "offset", message)
                return

    def _fault(self, order_id: str, field: str, message: str) -> Fault:
        return Fault(self._partition, self._record.offset, self._after, order_id, field, message)

    def _check_event(self, event: OrderEvent, link: bytes) -> Iterator[Fault]:
        def fault(field: str, message: str) -> Fault:
            return self._fault(event.order_id, field, message)

        if event.prev_hash != link:
            yield fault(
                "prev_hash", "does not name the previous record: one of the two was changed, or one between them is missing"
            )
        yield from self._check_place(event, fault)
        yield from self._check_bookkeeping(event, fault)
        yield from self._check_order(event, fault)

    def _check_place(self, event: OrderEvent, fault: Callable[[str, str], Fault]) -> Iterator[Fault]:
        record = self._record
        if record.key != event.order_id.encode():
            yield fault("key", f"is {record.key!r}")
        if partition_for(event.order_id.encode(), self._partitions) != self._partition:
            yield fault("order_id", "belongs to another partition")
        if record.timestamp_ms != event.occurred_at:
            yield fault("timestamp", f"is {record.timestamp_ms}, the event occurred at {event.occurred_at}")
        if not fits(record.headers, event):
            yield fault("headers", "do not match the event")

    def _check_bookkeeping(self, event: OrderEvent, fault: Callable[[str, str], Fault]) -> Iterator[Fault]:
        if event.command_log != self._command_log:  # the topic was recreated, or this is the first: offsets start again
            self._command_log, self._command_offset = event.command_log, -1
        if event.command_offset <= self._command_offset:
            yield fault("command_offset", f"{event.command_offset} after {self._command_offset}")
        self._command_offset = max(self._command_offset, event.command_offset)
        if not 0 <= event.batch_first <= event.command_offset:
            yield fault("batch_first", f"{event.batch_first} of a batch with command {event.command_offset}")
        if event.writer_epoch < self._writer_epoch:
            yield fault("writer_epoch", f"{event.writer_epoch} after {self._writer_epoch}")
        self._writer_epoch = max(self._writer_epoch, event.writer_epoch)
        if event.command_id in self._answered or self._answered_before(event.command_id):
            yield fault("command_id", "already has an earlier event")
        self._answered.add(event.command_id)
        if len(event.fingerprint) != 16 or len(event.command_log) != 16:
            yield fault("fingerprint", "or command_log does not have 16 bytes")

    def _check_order(self, event: OrderEvent, fault: Callable[[str, str], Fault]) -> Iterator[Fault]:
        if event.order_id in self._broken:
            return  # a version out of sequence was reported; later ones cannot be judged
        before = self._orders.get(event.order_id) or self._order_before(event.order_id)
        set_details = [name for name in _DETAILS if getattr(event, name) is not None]
        if set_details != [DETAIL_OF.get(event.type)]:
            yield fault("type", f"{event.type} with the details {set_details}")
        try:
            after = evolve(before, event)
        except FoldError as exc:
            self._broken.add(event.order_id)
            yield fault("version", str(exc))
            return
        self._orders[event.order_id] = after
        if before is None:
            content = event.content
            assert content is not None
            total = total_of(content.lines, content.adjustments)
            if total != event.total_minor:
                yield fault("total_minor", f"is {event.total_minor}, lines and adjustments add up to {total}")
            if event.imported is None and not is_number_of(content.number, event.order_id, self._partition, self._partitions):
                yield fault("placed", f"the number {content.number} does not belong to this order")
        else:
            yield from _faults_of_step(before, event, after, fault)
        if event.content is not None or event.metadata is not None:
            names = [entry.name for entry in after.metadata]
            if names != sorted(set(names)):
                yield fault("metadata", "has names that are not unique and sorted")
        for name, recomputed in summary(after).items():
            if getattr(event, name) != recomputed:
                yield fault(name, f"is {getattr(event, name)!r}, the events give {recomputed!r}")
        if not after.refunded_minor + after.lost_minor <= after.captured_minor <= after.placed_minor:
            flagged = any(flag.code == "amount_mismatch" for flag in after.attention) or bool(after.resolved)
            self.mismatched[after.order_id] = Mismatch(after.order_id, self._partition, self._record.offset, flagged)


def _faults_of_step(before: Order, event: OrderEvent, after: Order, fault: Callable[[str, str], Fault]) -> Iterator[Fault]:
    """What a correct writer does not write after `before`."""
    for name in ("customer_id", "currency"):
        if getattr(event, name) != getattr(before, name):
            yield fault(name, f"is {getattr(event, name)!r}, was {getattr(before, name)!r}")
    if event.occurred_at < before.updated_at:
        yield fault("occurred_at", f"{event.occurred_at} is before the last event of the order at {before.updated_at}")
    if (why := illegal(before, event)) is not None:
        yield fault("type", why)
    if event.cut is not None and event.cut.amount_minor != (fall := before.total_minor - after.total_minor):
        yield fault("cut", f"says {event.cut.amount_minor}, the units cost {fall}")
    if event.refund_request is not None and not 0 < event.refund_request.amount_minor <= refund_room_minor(before):
        yield fault("refund_request", f"{event.refund_request.amount_minor} of {refund_room_minor(before)} that can be refunded")
    yield from (fault("type", why) for why in _wrong_parcels(before, event, after))
    for number, (line, count) in enumerate(zip(after.lines, after.counts, strict=True), 1):
        if min(shippable(line, count), refundable(line, count), count.shipped - count.restocked) < 0:
            yield fault("type", f"{event.type} of more units than line {number} has")


def _wrong_parcels(before: Order, event: OrderEvent, after: Order) -> Iterator[str]:
    """What is wrong with an event about a parcel, or about the last unit of the order."""
    kind, parcel = event.type, event.shipment.parcel if event.shipment is not None else None
    if kind in (PARCEL_SHIPPED, ORDER_SHIPPED) and parcel != (no := len(before.parcels) + 1):
        yield f"{kind} of parcel {parcel}, the next one is {no}"
    about_one = kind == PARCEL_DELIVERED or (kind == ORDER_DELIVERED and parcel is not None)
    if about_one and not any(p.no == parcel and p.delivered_at is None for p in before.parcels):
        yield f"{kind} of parcel {parcel}, which is not on its way"
    if kind in _PROGRESS and after.fulfilment not in _PROGRESS[kind]:
        yield f"{kind}, and the order is {after.fulfilment} then"
    if kind == ORDER_CANCELLED and before.parcels:
        yield f"{kind} of an order with a shipped parcel"
    if kind == LINES_CANCELLED and all(
        count.cancelled >= line.quantity for line, count in zip(after.lines, after.counts, strict=True)
    ):
        yield f"{kind} of all that was left"


def _outcomes(entry: str | transitions.Code) -> tuple[str, ...]:
    """The events that an entry of `transitions.REQUESTS` allows."""
    return (entry, transitions.COMPLETES.get(entry, entry))


def illegal(before: Order, event: OrderEvent) -> str | None:
    """Why `event` may not follow `before` according to `transitions`; None if it may."""
    kind = event.type
    if kind in _REQUESTED:
        status = display(before)
        allowed = any(kind in _outcomes(row[status]) for row in transitions.REQUESTS.values())
        return None if allowed else f"{kind} of an order that is {status}"
    state: str | None = ""
    row: Mapping[Any, str | transitions.Code] | None = None
    if event.payment is not None and kind in transitions.ATTEMPT_FACTS:
        attempt = attempt_no(before, event.payment.attempt)
        row, state = transitions.ATTEMPT_FACTS[kind], attempt.state if attempt else None
    elif event.refund is not None and kind in transitions.REFUND_FACTS:
        entry = refund_of(before, event.refund.refund_no, event.refund.provider_ref)
        row, state = transitions.REFUND_FACTS[kind], entry.state if entry else ""
    elif event.stock is not None and event.stock.part is not None:
        waiting = any(p.no == event.stock.part and p.service == event.stock.service and not p.done for p in before.part_releases)
        state = "" if waiting else None
    elif event.stock is not None and kind in transitions.STOCK_FACTS:
        stock = stock_of(before, event.stock.service)
        row, state = transitions.STOCK_FACTS[kind], stock.state if stock else None
    elif event.dispute is not None and kind == DISPUTE_CLOSED and dispute_of(before, event.dispute.provider_ref) is None:
        return f"{kind} of a dispute that was never opened"
    if state is None:
        return f"{kind} of an object that the order does not have"
    if row is not None and row[state] is transitions.KNOWN:
        return f"{kind} adds nothing to {state}"
    return None
