"""The end of contacts (CONTRACT B): those that no event names go after a day, those of ended orders when the settings say so.

Every node sweeps: a second tombstone does no harm. Erasure on request is `api.customers`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import structlog

from api.context import AppContext
from api.errors import Problem
from ledger.clock import now_ms
from ledger.contacts import contact_key
from ledger.kept_contacts import decode_contact
from ledger.log import NewRecord
from ledger.order import Order, display
from ledger.topics import DAY_MS
from ledger.transitions import Status

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
# 200 rows take about 4 ms of the event loop, as long as a slice of the fold; with the pause a million take five minutes.
SLICE_ROWS, PAUSE_S = 200, 0.05
UNNAMED_MS = DAY_MS
# A contact's time is its writer's clock, an event's the broker's: so far apart they cannot be.
CLOCKS_MS = 60 * 60 * 1000
_ENDED = (Status.DELIVERED, Status.CANCELLED)


def is_unnamed(written_at: int, log_time: int, now_ms: int) -> bool:
    """Whether a contact that no folded event names will never be named: a day has passed, and the partition's commands are
    decided past the time it was written (otherwise its own command may still be waiting for a processor that is down)."""
    return now_ms - written_at >= UNNAMED_MS and log_time - written_at >= CLOCKS_MS


def is_past_retention(order: Order, retention_ms: int | None, now_ms: int) -> bool:
    """Whether the order ended so long ago that its contact is not kept. One that needs a person keeps it."""
    if retention_ms is None or display(order) not in _ENDED or order.attention:
        return False
    return now_ms - order.updated_at >= retention_ms


async def sweep_for_ever(ctx: AppContext) -> None:
    """Sweep now and every hour."""
    while True:
        try:
            deleted = await sweep(ctx, now_ms())
            if deleted:
                log.info("contacts deleted", count=deleted)
        except Problem as problem:  # the broker is away: the next sweep finds the same
            log.warning("contacts not swept", why=problem.slug)
        await asyncio.sleep(EVERY_S)


async def sweep(ctx: AppContext, now_ms: int) -> int:
    """One look at every contact of this node; how many were deleted, durably.

    Raises `Problem` `ledger-unavailable`; what was deleted before then stays deleted.
    """
    deleted, start = 0, b"\x01"  # behind the positions
    while True:
        rows = list(itertools.islice(ctx.projector.contacts.scan(b"", start), SLICE_ROWS))
        due = [(partition, key) for key, row in rows if (partition := _due(ctx, key, row, now_ms)) is not None]
        await delete_contacts(ctx, due)
        deleted += len(due)
        if len(rows) < SLICE_ROWS:
            return deleted
        start = rows[-1][0] + b"\0"
        await asyncio.sleep(PAUSE_S)


def _due(ctx: AppContext, key: bytes, row: bytes, now_ms: int) -> int | None:
    """The partition of a contact whose time has come, else None."""
    order_id = key.split(b"/", 1)[0].decode("utf-8", "replace")
    partition = ctx.partition_of(order_id)
    if ctx.frozen(partition, order_id) is not None:
        return None  # an event that cannot be read may name it
    order = ctx.queries.order(partition, order_id)
    if order is not None and contact_key(order_id, order.contact_digest) == key:
        days = ctx.settings.contact_retention_days
        ended = is_past_retention(order, None if days is None else days * DAY_MS, now_ms)
    else:
        ended = is_unnamed(decode_contact(row).written_at, ctx.projector.log_time(partition), now_ms)
    return partition if ended else None


async def delete_contacts(ctx: AppContext, keys: Sequence[tuple[int, bytes]]) -> None:
    """Tombstones for contacts, given as (partition, key), durable when this returns and gone here at once.

    Raises `Problem` `ledger-unavailable` when one of them is not known to be durable.
    """
    records = [NewRecord(ctx.topics.contacts, partition, key, None) for partition, key in keys]
    for (_, key), acked in zip(keys, await ctx.submissions.send_all(records), strict=True):
        ctx.projector.remember_contact(key, None, acked)
