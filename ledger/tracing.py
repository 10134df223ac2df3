"""Spans: what the program reports about its work to a tracer, if there is one (`api/processes/otel.py`).

A trace is carried by `traceparent` of W3C Trace Context 1: a header of HTTP requests, of commands and of events. Without a tracer
no span is made; then what came with a command is passed on to its event.

Names and attributes are words of this program and ids in its own form: no personal data, nothing that a client wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol

NAME = "traceparent"
FORM = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
MOST_ORDERS = 10_000  # of which the last trace is known: some megabytes

Kind = Literal["server", "client", "producer", "consumer", "internal"]
Headers = tuple[tuple[str, bytes], ...]


class Span(Protocol):
    """One piece of work. Its methods never raise."""

    @property
    def traceparent(self) -> bytes:
        """The context for what follows from this work; empty without a tracer."""

    def note(self, **attributes: str | int) -> None:
        """Add attributes; a double underscore in a name stands for a dot."""

    def fail(self, error: str) -> None:
        """The work failed; `error` is a word or a type, without any value."""

    def end(self, name: str = "") -> None:
        """The work is done. `name` replaces the first one, if it is only known now."""


class Tracer(Protocol):
    """Takes spans. Safe from any thread."""

    def begin(self, name: str, kind: Kind, parent: bytes | None = None, links: Sequence[bytes] = (), began_ns: int = 0) -> Span:
        """`parent` and `links` are contexts; those of another form are ignored. `began_ns` is since the epoch; 0 is now."""

    def close(self) -> None:
        """Send what is left, for at most a few seconds."""


class _NoSpan:
    traceparent = b""

    def note(self, **attributes: str | int) -> None:
        """Does nothing."""

    def fail(self, error: str) -> None:
        """Does nothing."""

    def end(self, name: str = "") -> None:
        """Does nothing."""


NO_SPAN: Span = _NoSpan()


class _Chosen:
    tracer: Tracer | None = None


_current: ContextVar[bytes] = ContextVar("traceparent", default=b"")


def use(tracer: Tracer | None) -> None:
    """From now on, spans of this process go to `tracer`. Called once, at start."""
    _Chosen.tracer = tracer


def tracer() -> Tracer | None:
    """None: no span is made."""
    return _Chosen.tracer


def current() -> bytes:
    """The context of the span around the caller, in its thread or task; empty if there is none."""
    return _current.get()


def headers() -> Headers:
    """The same as headers of a record."""
    return ((NAME, context),) if (context := _current.get()) else ()


def context_in(record_headers: Headers) -> bytes | None:
    """The context that came with a record, if it has one of the right form."""
    for name, value in record_headers:
        if name == NAME and FORM.fullmatch(value):
            return value
    return None


@contextmanager
def span(name: str, kind: Kind, parent: bytes | None = None, links: Sequence[bytes] = ()) -> Iterator[Span]:
    """A span around the block, which is `current` in it. An exception ends it with the exception's type."""
    if _Chosen.tracer is None:
        yield NO_SPAN
        return
    one = _Chosen.tracer.begin(name, kind, parent, links)
    before = _current.set(one.traceparent)
    try:
        yield one
    except BaseException as exc:
        one.fail(type(exc).__name__)
        raise
    finally:
        _current.reset(before)
        one.end()


class OrderTraces:
    """The context of the last event of each order, for work that begins later: only in memory, of the last orders that changed.

    Written by one thread, read by any.
    """

    def __init__(self, most: int = MOST_ORDERS) -> None:
        self._contexts: dict[str, bytes] = {}
        self._most = most

    def note(self, order_id: str, context: bytes) -> None:
        self._contexts.pop(order_id, None)
        self._contexts[order_id] = context
        if len(self._contexts) > self._most:
            self._contexts.pop(next(iter(self._contexts)), None)

    def of(self, order_id: str) -> bytes | None:
        return self._contexts.get(order_id)
