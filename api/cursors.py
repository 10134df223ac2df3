"""Cursors for clients: those of `Queries` and of the feed, signed, so that nobody can forge a position or another's filter."""

from __future__ import annotations

import base64
import binascii
import hmac

from api.context import AppContext
from api.problems import Problem
from projections.all_events import EventFilter
from projections.queries import InvalidCursor, OrderFilter

SIGNATURE_BYTES = 16
_LIST, _FEED = b"cursor\0", b"feed\0"  # a cursor of one is none of the other


def _signed(ctx: AppContext, kind: bytes, cursor: bytes) -> str:
    return base64.urlsafe_b64encode(_signature(ctx, kind, cursor) + cursor).decode().rstrip("=")


def _signature(ctx: AppContext, kind: bytes, cursor: bytes) -> bytes:
    return hmac.digest(ctx.hash_key, kind + cursor, "sha256")[:SIGNATURE_BYTES]


def _content(ctx: AppContext, kind: bytes, text: str) -> bytes:
    """The cursor in a signed one. Raises `Problem` `invalid-cursor`."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Problem("invalid-cursor") from None
    signature, cursor = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(ctx, kind, cursor)):
        raise Problem("invalid-cursor")
    return cursor


def signed_cursor(ctx: AppContext, wanted: OrderFilter, resume: dict[int, bytes]) -> str:
    """A cursor for the next page of a list, bound to its filters."""
    return _signed(ctx, _LIST, ctx.queries.cursor(wanted, resume))


def read_cursor(ctx: AppContext, wanted: OrderFilter, text: str) -> dict[int, bytes]:
    """Where the next page begins. Raises `Problem` `invalid-cursor` for a cursor of another customer or other filters."""
    try:
        return ctx.queries.read_cursor(wanted, _content(ctx, _LIST, text))
    except InvalidCursor:
        raise Problem("invalid-cursor") from None


def signed_place(ctx: AppContext, cursor: bytes) -> str:
    """A place in the feed, for clients."""
    return _signed(ctx, _FEED, cursor)


def read_place(ctx: AppContext, wanted: EventFilter, text: str) -> bytes:
    """The place in the feed. Raises `Problem` `invalid-cursor` for one of another customer, other filters or another log."""
    cursor = _content(ctx, _FEED, text)
    try:
        ctx.all_events.read_cursor(wanted, cursor)
    except InvalidCursor:
        raise Problem("invalid-cursor") from None
    return cursor
