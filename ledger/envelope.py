"""The envelope of an event: summary fields, position, chain, CloudEvents headers. Pure."""

from __future__ import annotations

import hashlib
import re

from msgspec import Struct
from msgspec.structs import replace

from ledger.events import OrderEvent
from ledger.order import Order, display, payment_state
from ledger.rfc3339 import format_ms

Headers = tuple[tuple[str, bytes], ...]

_CONTENT_TYPE, _SPECVERSION = ("content-type", b"application/avro"), ("ce_specversion", b"1.0")
_SOURCE = re.compile(rb"/[A-Za-z0-9._-]{1,249}")  # a slash and the name of a topic


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


class EventHeaders:
    """Headers of the events of one topic: CloudEvents 1.0 in Kafka's binary mode, the required attributes and `time` alone,
    because headers can be larger than the event.

    `ce_source` is `/<topic>`, of the topic that the event was written to first: an imported event keeps it.
    """

    def __init__(self, topic: str) -> None:
        self._source = ("ce_source", f"/{topic}".encode())
        self._of_type: dict[str, Headers] = {}  # what all events of a type have in common

    def of(self, event: OrderEvent, traceparent: bytes | None = None) -> Headers:
        """The headers of `event`, which the ledger decided: its type is a known one."""
        common = self._of_type.get(event.type)
        if common is None:
            common = (("ce_type", event.type.encode()), _CONTENT_TYPE, _SPECVERSION, self._source)
            self._of_type[event.type] = common
        ce_id = ("ce_id", f"{event.order_id}/{event.version}".encode())
        named = (ce_id, *common, ("ce_time", format_ms(event.occurred_at).encode()))
        return (*named, ("traceparent", traceparent)) if traceparent else named


def fits(headers: Headers, event: OrderEvent) -> bool:
    """Whether `headers` can be the headers of `event`. Early events have `ce_id`, `ce_type` and `content-type` alone.

    The topic in `ce_source` may be another one: that of the ledger from which the event was imported.
    """
    first = (("ce_id", f"{event.order_id}/{event.version}".encode()), ("ce_type", event.type.encode()), _CONTENT_TYPE)
    more = headers[3:]
    if [name for name, _ in more[:3]] == ["ce_specversion", "ce_source", "ce_time"]:
        specversion, (_, source), (_, time) = more[:3]
        if specversion != _SPECVERSION or not _SOURCE.fullmatch(source) or time != format_ms(event.occurred_at).encode():
            return False
        more = more[3:]
    return headers[:3] == first and all(name == "traceparent" for name, _ in more)
