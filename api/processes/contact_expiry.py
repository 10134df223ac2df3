"""The end of contacts: those that no event names go after a day, those of ended orders when the settings say so.

Every node sweeps: a second tombstone does no harm. Erasure on request is `erasure`; what it leaves to be done is done here:
contacts that came after their erasure are deleted again, and deleted ones are removed from this node's files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from api.context import AppContext
from ledger.clock import now_ms
from ledger.contacts import BARRIER_KEY, contact_key, order_of
from ledger.durations import DAY_MS
from ledger.errors import NotNow, StoreError
from ledger.log import NewRecord
from ledger.order import Order, display
from ledger.topics import CONTACT_COMPACTION_MS
from ledger.transitions import Status
from ledger.turns import Steps

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
TEND_EVERY_S = 5.0
PURGE_LATEST_S = 60.0
# 200 rows take about 4 ms of the event loop, in turns; with the pause a million take five minutes.
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
            await let_the_log_compact(ctx, now_ms())
        except NotNow as exc:  # the broker is away: the next sweep finds the same
            log.warning("contacts not swept", why=exc.code)
        await asyncio.sleep(EVERY_S)


async def sweep(ctx: AppContext, now_ms: int) -> int:
    """One look at every contact of this node; how many were deleted, durably.

    Raises `NotDurable`; what was deleted before then stays deleted.
    """
    deleted, after = 0, b""
    while True:
        (due, last), _ = await ctx.turns.run(_some_due(ctx, after, now_ms))
        await delete_contacts(ctx, due)
        deleted += len(due)
        if last is None:
            return deleted
        after = last
        await asyncio.sleep(PAUSE_S)


def _some_due(ctx: AppContext, after: bytes, now_ms: int) -> Steps[tuple[list[tuple[int, bytes]], bytes | None]]:
    """((partition, key) of those of the next contacts whose time has come, where to go on; None: that was all)."""
    keys = yield from ctx.projector.contacts.keys(after, SLICE_ROWS)
    due = []
    for key in keys:
        if (partition := _due(ctx, key, now_ms)) is not None:
            due.append((partition, key))
        yield
    return due, keys[-1] if len(keys) == SLICE_ROWS else None


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

    Raises `NotDurable` when one of them is not known to be durable.
    """
    await ctx.submissions.keep([NewRecord(ctx.topics.contacts, partition, key, None) for partition, key in keys])


async def let_the_log_compact(ctx: AppContext, now_ms: int) -> None:
    """A record that says nothing into partitions where nothing came for long, durable when this returns.

    Kafka compacts no segment that is being written to, and begins another one only when something is written: in a quiet
    partition an erased contact would stay for ever. Raises `NotDurable`.
    """
    written = {p: ctx.projector.contacts.last_written_at(p) for p in range(ctx.partitions)}
    quiet = [p for p, at in written.items() if at and now_ms - at > CONTACT_COMPACTION_MS]
    await ctx.submissions.send_all([NewRecord(ctx.topics.contacts, p, BARRIER_KEY, None) for p in quiet])


# ---- between two sweeps


async def tend_for_ever(ctx: AppContext) -> None:
    """What cannot wait for the next sweep: a look every few seconds, and when a contact comes after its erasure."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ctx.projector.contacts_late.wait(), TEND_EVERY_S)
        ctx.projector.contacts_late.clear()
        try:
            await tend(ctx, now_ms())
        except NotNow as exc:  # the next sweep finds the same
            log.warning("contacts that came after their erasure are not deleted yet", why=exc.code)


async def tend(ctx: AppContext, now_ms: int) -> None:
    """One such look. Raises `NotDurable`."""
    contacts, staleness_ms = ctx.projector.contacts, ctx.status().staleness_ms
    if staleness_ms is not None:
        contacts.note_current(now_ms - staleness_ms)
    late = [key for key in contacts.late() if contacts.written_at(key) is not None]
    if late:
        log.warning("contacts came after their erasure", count=len(late))
        await delete_contacts(ctx, [(ctx.partition_of(order_of(key)), key) for key in late])
    if 0 < ctx.erasures.at_work_s < PURGE_LATEST_S:
        return  # once, when all of it is deleted
    try:
        unpurged, _ = await ctx.turns.run(contacts.unpurged())
        purged = await asyncio.to_thread(contacts.purge, unpurged, lambda: ctx.stopping) if unpurged else False
        if purged:
            await ctx.turns.run(contacts.purged(unpurged))
    except StoreError:
        if contacts is ctx.projector.contacts:
            raise
        return  # another generation is read by now, and this one closed
