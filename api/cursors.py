"""Cursors for clients: those of `Queries`, signed, so that nobody can forge a position or the filter of another customer."""

from __future__ import annotations

import base64
import binascii
import hmac

from api.context import AppContext
from api.problems import Problem
from projections.queries import InvalidCursor, OrderFilter

SIGNATURE_BYTES = 16


def _signature(ctx: AppContext, cursor: bytes) -> bytes:
    return hmac.digest(ctx.hash_key, b"cursor\0" + cursor, "sha256")[:SIGNATURE_BYTES]


def signed_cursor(ctx: AppContext, wanted: OrderFilter, resume: dict[int, bytes]) -> str:
    """A cursor for the next page of a list, bound to its filters."""
    cursor = ctx.queries.cursor(wanted, resume)
    return base64.urlsafe_b64encode(_signature(ctx, cursor) + cursor).decode().rstrip("=")


def read_cursor(ctx: AppContext, wanted: OrderFilter, text: str) -> dict[int, bytes]:
    """Where the next page begins. Raises `Problem` `invalid-cursor` for a cursor of another customer or other filters."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Problem("invalid-cursor") from None
    signature, cursor = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:]
    if not hmac.compare_digest(signature, _signature(ctx, cursor)):
        raise Problem("invalid-cursor")
    try:
        return ctx.queries.read_cursor(wanted, cursor)
    except InvalidCursor:
        raise Problem("invalid-cursor") from None
