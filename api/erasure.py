"""Erasing a customer's contacts: all that were durable when it began, whichever order they are of and wherever it stands.

    1   a barrier into every partition of `order-contacts`: once this node has folded it, it knows every contact before it
    2   for each contact of the customer a record that it is erased for good, then its tombstone
    3   again from 1, until nothing new was found: orders may have come meanwhile

A contact belongs to a customer by what it says itself, not by its order, which may not be placed yet. What is erased for good
stays so: a retry of the order's `POST`, at a node that has heard of neither, writes the contact again, and every node drops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice

from api.context import AppContext
from api.errors import Problem
from ledger.codec import contact_codec
from ledger.contacts import BARRIER_KEY, NOBODY, erased_key, order_of
from ledger.log import NewRecord

SLICE_CONTACTS = 200
FOLD_S = 10.0  # for what is in the topic now; a node that needs longer is not caught up


async def erase(ctx: AppContext, customer: str) -> int:
    """How many contacts were erased, durably. What was erased before an exception stays erased.

    Raises `Problem` `ledger-unavailable`, `not-caught-up`.
    """
    erased = 0
    while True:
        await _fold_all_there_is(ctx)
        found = 0
        async for keys in _slices(ctx, customer):
            contacts = ctx.projector.contacts
            erased += sum(not contacts.is_erased(key) for key in keys)
            found += len(keys)
            await _erase(ctx, keys)
        if not found:
            return erased


async def _fold_all_there_is(ctx: AppContext) -> None:
    barriers = [NewRecord(ctx.topics.contacts, p, BARRIER_KEY, None) for p in range(ctx.partitions)]
    for acked in await ctx.submissions.send_all(barriers):
        if not await ctx.projector.contacts_reached(acked.partition, acked.offset + 1, FOLD_S):
            raise Problem("not-caught-up", "This node has not folded all contacts yet.")


async def _slices(ctx: AppContext, customer: str) -> AsyncIterator[list[bytes]]:
    """Keys of the customer's contacts, and of those of his orders whose contact cannot be read."""
    for of in (customer, ""):
        after = b""
        while keys := list(islice(ctx.projector.contacts.keys_of(of, after), SLICE_CONTACTS)):
            after = keys[-1]
            if mine := keys if of else [key for key in keys if _is_of(ctx, key, customer)]:
                yield mine
            await asyncio.sleep(0)


def _is_of(ctx: AppContext, key: bytes, customer: str) -> bool:
    order_id = order_of(key)
    order = ctx.queries.order(ctx.partition_of(order_id), order_id)
    return order is not None and order.customer_id == customer


async def _erase(ctx: AppContext, keys: Sequence[bytes]) -> None:
    records = list(_records(ctx, keys))
    for record, acked in zip(records, await ctx.submissions.send_all(records), strict=True):
        ctx.projector.remember_contact(record.key or b"", record.value, acked)


def _records(ctx: AppContext, keys: Sequence[bytes]) -> Iterator[NewRecord]:
    nobody = contact_codec().encode(NOBODY)
    for key in keys:
        partition = ctx.partition_of(order_of(key))
        yield NewRecord(ctx.topics.contacts, partition, erased_key(key), nobody)
        yield NewRecord(ctx.topics.contacts, partition, key, None)
