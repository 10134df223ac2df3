"""Traces through the processor: from the context of a command to that of its event, and to what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ledger import tracing
from ledger.log import NewRecord, Record

# Of the events that this process decided: for the reconciler.
LAST = tracing.OrderTraces()


class Decisions:
    """Spans of the commands of one batch: each lasts from its decision to the end of the batch's transaction."""

    def __init__(self) -> None:
        self._spans: list[tuple[tracing.Span, str]] = []

    def begin(self, record: Record) -> bytes | None:
        """The context for the event of this command: that of its span, or, without a tracer, of the command."""
        parent, tracer = tracing.context_in(record.headers), tracing.tracer()
        if tracer is None:
            return parent
        span = tracer.begin("decide", "consumer", parent)
        span.note(ledger__partition=record.partition, ledger__command_offset=record.offset)
        self._spans.append((span, ""))
        return span.traceparent

    def decided(self, new: NewRecord | None, events: str) -> None:
        """The outcome of the command that was begun last; `events` is the name of the topic of accepted ones."""
        if not self._spans:
            return
        span, _ = self._spans[-1]
        if new is None:
            span.note(ledger__outcome="repeated")
        elif new.topic != events:
            span.note(ledger__outcome="refused")
        else:
            order_id, event = (new.key or b"").decode(), dict(new.headers)["ce_type"].decode()
            span.note(ledger__outcome="accepted", ledger__order_id=order_id, ledger__event=event)
            self._spans[-1] = span, order_id

    def settle(self, error: str = "") -> None:
        """The batch was committed, or ended with `error`."""
        for span, order_id in self._spans:
            if error:
                span.fail(error)
            elif order_id:
                LAST.note(order_id, span.traceparent)
            span.end()
        self._spans.clear()


@contextmanager
def following(order_id: str, name: str, port: str) -> Iterator[tracing.Span]:
    """A span for a call that the order owes, after the last event that was decided here."""
    with tracing.span(name, "client", LAST.of(order_id)) as span:
        span.note(ledger__order_id=order_id, ledger__port=port)
        yield span
