"""Deletes contacts: those that no event names after a day, those of ended orders after the time in the settings.

Every node sweeps: a second tombstone is harmless. Erasure on request is in `erasure`; its follow-up is here: contacts that were
written after their erasure are deleted again, and deleted ones are removed from this node's files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog

from api.context import AppContext
from api.services.submissions import LAGGING_MS
from ledger.clock import now_ms
from ledger.contacts import BARRIER_KEY, contact_key, note_id_of, order_of
from ledger.durations import DAY_MS
from ledger.errors import NotCaughtUp, NotNow, StoreError
from ledger.log import NewRecord
from ledger.order import Order, display
from ledger.topics import CONTACT_COMPACTION_MS
from ledger.transitions import Status
from ledger.turns import Steps

log = structlog.get_logger(__name__)

EVERY_S = 3600.0
TEND_EVERY_S = 5.0
PURGE_LATEST_S = 60.0
# 200 rows take about 4 ms of the event loop, in turns; with the pause, a million take five minutes.
SLICE_ROWS, PAUSE_S = 200, 0.05
UNNAMED_MS = DAY_MS
# The time of a contact is its writer's clock, that of an event the broker's: they cannot differ by more than this.
CLOCKS_MS = 60 * 60 * 1000
_ENDED = (Status.DELIVERED, Status.CANCELLED)


def is_unnamed(written_at: int, log_time: int, now_ms: int) -> bool:
    """Whether a contact that no folded event names will never be named.

    True if it is a day old and the commands of its partition are decided beyond that time; otherwise its own command may still be
    waiting for a processor that is down.
    """
    return now_ms - written_at >= UNNAMED_MS and log_time - written_at >= CLOCKS_MS


def is_past_retention(order: Order, retention_ms: int | None, now_ms: int) -> bool:
    """Whether the order ended so long ago that its contact must be deleted. An order with open flags keeps it."""
    if retention_ms is None or display(order) not in _ENDED or order.attention:
        return False
    return now_ms - order.updated_at >= retention_ms


async def sweep_for_ever(ctx: AppContext) -> None:
    """Sweep as soon as this node is caught up, and then every hour."""
    while True:
        pause_s = EVERY_S
        try:
            deleted = await sweep(ctx, now_ms())
            if deleted:
                log.info("contacts deleted", count=deleted)
            await let_the_log_compact(ctx, now_ms())
        except NotCaughtUp:
            pause_s = TEND_EVERY_S
        except NotNow as exc:  # the broker is unreachable: the next sweep finds the same
            log.warning("contacts not swept", why=exc.code)
        await asyncio.sleep(pause_s)


async def sweep(ctx: AppContext, now_ms: int) -> int:
    """Check every contact of this node once. Returns the number of durable deletions.

    Raises `NotDurable`, or `NotCaughtUp` when this node is behind: its orders may have changed, and a contact that is deleted too
    early does not come back. Earlier deletions remain.
    """
    deleted, after = 0, b""
    while True:
        staleness_ms = ctx.status().staleness_ms
        if staleness_ms is None or staleness_ms > LAGGING_MS:
            raise NotCaughtUp("This node has not folded the whole log, so it does not know which orders have ended.")
        (due, last), _ = await ctx.turns.run(_some_due(ctx, after, now_ms))
        await delete_contacts(ctx, due)
        deleted += len(due)
        ctx.metrics.contacts_deleted += len(due)
        if last is None:
            return deleted
        after = last
        await asyncio.sleep(PAUSE_S)


def _some_due(ctx: AppContext, after: bytes, now_ms: int) -> Steps[tuple[list[tuple[int, bytes]], bytes | None]]:
    """((partition, key) of due contacts among the next ones, where to continue; None: at the end)."""
    keys = yield from ctx.projector.contacts.keys(after, SLICE_ROWS)
    due = []
    for key in keys:
        if (partition := _due(ctx, key, now_ms)) is not None:
            due.append((partition, key))
        yield
    return due, keys[-1] if len(keys) == SLICE_ROWS else None


def _due(ctx: AppContext, key: bytes, now_ms: int) -> int | None:
    """The partition of a contact that is due, else None."""
    order_id, contacts = order_of(key), ctx.projector.contacts
    partition = ctx.partition_of(order_id)
    if contacts.is_erased(key):
        return partition  # written after its erasure, or the erasing node was killed before the tombstone
    if ctx.frozen(partition, order_id) is not None:
        return None  # an undecodable event may name it
    order = ctx.queries.order(partition, order_id)
    if order is not None and (note_id_of(key) is not None or contact_key(order_id, order.contact_digest) == key):
        days = ctx.settings.contact_retention_days
        log_ms = now_ms - ctx.clock.machine_ahead_ms(partition)  # a contact that is deleted too early does not come back
        ended = is_past_retention(order, None if days is None else days * DAY_MS, log_ms)
    else:
        ended = is_unnamed(contacts.written_at(key) or now_ms, ctx.projector.log_time(partition), now_ms)
    return partition if ended else None


async def delete_contacts(ctx: AppContext, keys: Sequence[tuple[int, bytes]]) -> None:
    """Write tombstones for contacts (partition, key); on return they are durable, and the contacts are deleted on this node.

    Raises `NotDurable` if one of them is not known to be durable.
    """
    await ctx.submissions.keep([NewRecord(ctx.topics.contacts, partition, key, None) for partition, key in keys])


async def let_the_log_compact(ctx: AppContext, now_ms: int) -> None:
    """Write an empty record to partitions without recent records; durable on return.

    Kafka does not compact the active segment, and starts another one only at a write: in a quiet partition, an erased contact
    would stay for ever. Raises `NotDurable`.
    """
    written = {p: ctx.projector.contacts.last_written_at(p) for p in range(ctx.partitions)}
    quiet = [p for p, at in written.items() if at and now_ms - at > CONTACT_COMPACTION_MS]
    await ctx.submissions.send_all([NewRecord(ctx.topics.contacts, p, BARRIER_KEY, None) for p in quiet])


# ---- between two sweeps


async def tend_for_ever(ctx: AppContext) -> None:
    """Run `tend` every few seconds, and when a contact is written after its erasure."""
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ctx.projector.contacts_late.wait(), TEND_EVERY_S)
        ctx.projector.contacts_late.clear()
        try:
            await tend(ctx, now_ms())
        except NotNow as exc:  # the next sweep finds the same
            log.warning("contacts written after their erasure are not deleted yet", why=exc.code)


async def tend(ctx: AppContext, now_ms: int) -> None:
    """Delete late contacts and purge files, once. Raises `NotDurable`."""
    contacts, staleness_ms = ctx.projector.contacts, ctx.status().staleness_ms
    if staleness_ms is not None:
        contacts.note_current(now_ms - staleness_ms)
    late = [key for key in contacts.late() if contacts.written_at(key) is not None]
    if late:
        log.warning("contacts were written after their erasure", count=len(late))
        await delete_contacts(ctx, [(ctx.partition_of(order_of(key)), key) for key in late])
    if 0 < ctx.erasures.at_work_s < PURGE_LATEST_S:
        return  # only once, when everything is deleted
    try:
        unpurged, _ = await ctx.turns.run(contacts.unpurged())
        purged = await asyncio.to_thread(contacts.purge, unpurged, lambda: ctx.stopping) if unpurged else False
        if purged:
            await ctx.turns.run(contacts.purged(unpurged))
    except StoreError:
        if contacts is ctx.projector.contacts:
            raise
        return  # the generation was switched, and this one is closed
