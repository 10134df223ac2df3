"""The envelope of an event: summary fields, position, chain, CloudEvents headers. Pure."""

from __future__ import annotations

import hashlib

from msgspec import Struct
from msgspec.structs import replace

from ledger.events import OrderEvent
from ledger.order import Order, display, payment_state

CONTENT_TYPE = b"application/avro"


class Written(Struct, frozen=True):
    """Position of a batch of decisions: command log, first command of the batch in this partition, writer epoch."""

    command_log: bytes
    batch_first: int
    writer_epoch: int


def seal(event: OrderEvent, after: Order, written: Written, command_offset: int, prev_hash: bytes) -> OrderEvent:
    """`event` with the state after it and its position in the log. `after` is `evolve(before, event)`."""
    return replace(
        event,
        **summary(after),
        command_log=written.command_log,
        command_offset=command_offset,
        batch_first=written.batch_first,
        writer_epoch=written.writer_epoch,
        prev_hash=prev_hash,
    )


def summary(after: Order) -> dict[str, str | int]:
    """The envelope fields that repeat the state after an event; `verify` recomputes them."""
    return {
        "status": str(display(after)),
        "payment_state": payment_state(after),
        "total_minor": after.total_minor,
        "captured_minor": after.captured_minor,
        "refunded_minor": after.refunded_minor,
    }


def body_hash(body: bytes) -> bytes:
    """Link of the chain: SHA-256 of an event's Avro body, without the 5 bytes of the wire format."""
    return hashlib.sha256(body).digest()


def headers(event: OrderEvent, traceparent: bytes | None = None) -> tuple[tuple[str, bytes], ...]:
    """CloudEvents 1.0 attributes in Kafka's binary mode; only these, because headers can be larger than the event."""
    named = (
        ("ce_id", f"{event.order_id}/{event.version}".encode()),
        ("ce_type", event.type.encode()),
        ("content-type", CONTENT_TYPE),
    )
    return (*named, ("traceparent", traceparent)) if traceparent else named
