"""The end of contacts (CONTRACT B): those that no event names go after a day, those of ended orders when the settings say so.

Every node sweeps: a second tombstone does no harm. Erasure on request is `api.erasure`; what it leaves to be done is done here:
contacts that came after their erasure are deleted again, and deleted ones are removed from this node's files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from itertools import islice

import structlog

from api.context import AppContext
from api.errors import Problem
from ledger.clock import now_ms
from ledger.contacts import contact_key, order_of
from ledger.errors import StoreError
from ledger.log import NewRecord
from ledger.order import Order, display
from ledger.topics import DAY_MS
from ledger.transitions import Status

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
TEND_EVERY_S = 5.0
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
    deleted, after = 0, b""
    while True:
        keys = list(islice(ctx.projector.contacts.keys(after), SLICE_ROWS))
        due = [(partition, key) for key in keys if (partition := _due(ctx, key, now_ms)) is not None]
        await delete_contacts(ctx, due)
        deleted += len(due)
        if len(keys) < SLICE_ROWS:
            return deleted
        after = keys[-1]
        await asyncio.sleep(PAUSE_S)


def _due(ctx: AppContext, key: bytes, now_ms: int) -> int | None:
    """The partition of a contact whose time has come, else None."""
    order_id, contacts = order_of(key), ctx.projector.contacts
    partition = ctx.partition_of(order_id)
    if contacts.is_erased(key):
        return partition  # written after its erasure, or whoever erased it was killed before the tombstone
    if ctx.frozen(partition, order_id) is not None:
        return None  # an event that cannot be read may name it
    order = ctx.queries.order(partition, order_id)
    if order is not None and contact_key(order_id, order.contact_digest) == key:
        days = ctx.settings.contact_retention_days
        ended = is_past_retention(order, None if days is None else days * DAY_MS, now_ms)
    else:
        ended = is_unnamed(contacts.written_at(key) or now_ms, ctx.projector.log_time(partition), now_ms)
    return partition if ended else None


async def delete_contacts(ctx: AppContext, keys: Sequence[tuple[int, bytes]]) -> None:
    """Tombstones for contacts, given as (partition, key), durable when this returns and gone here at once.

    Raises `Problem` `ledger-unavailable` when one of them is not known to be durable.
    """
    records = [NewRecord(ctx.topics.contacts, partition, key, None) for partition, key in keys]
    for (_, key), acked in zip(keys, await ctx.submissions.send_all(records), strict=True):
        ctx.projector.remember_contact(key, None, acked)


# ---- between two sweeps


async def tend_for_ever(ctx: AppContext) -> None:
    """What cannot wait for the next sweep: a look every few seconds, and when a contact comes after its erasure."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ctx.projector.contacts_late.wait(), TEND_EVERY_S)
        ctx.projector.contacts_late.clear()
        try:
            await tend(ctx, now_ms())
        except Problem as problem:  # the next sweep finds the same
            log.warning("contacts that came after their erasure are not deleted yet", why=problem.slug)


async def tend(ctx: AppContext, now_ms: int) -> None:
    """One such look. Raises `Problem` `ledger-unavailable`."""
    contacts, staleness_ms = ctx.projector.contacts, ctx.status().staleness_ms
    if staleness_ms is not None:
        contacts.note_current(now_ms - staleness_ms)
    late = [key for key in contacts.late() if contacts.written_at(key) is not None]
    if late:
        log.warning("contacts came after their erasure", count=len(late))
        await delete_contacts(ctx, [(ctx.partition_of(order_of(key)), key) for key in late])
    if unpurged := contacts.unpurged():
        try:
            purged = await asyncio.to_thread(contacts.purge, unpurged, lambda: ctx.stopping)
        except StoreError:
            if contacts is ctx.projector.contacts:
                raise
            return  # another generation is read by now, and this one closed
        if purged and contacts is ctx.projector.contacts:
            contacts.purged(unpurged)
