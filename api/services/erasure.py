"""Erasing a customer's contacts: all that were durable when it began, whichever order they are of and wherever it stands.

    0   a promise: a record in `order-contacts` says whom; from then on it is finished, by whoever goes on
    1   a barrier into every partition of `order-contacts`: once this node has folded it, it knows every contact before it
    2   for each contact of the customer a record that it is erased for good, then its tombstone; some at a time, with a pause, so
        that a customer with 200,000 orders costs others nothing that they notice
    3   again from 1, until nothing new was found: orders may have come meanwhile
    4   the record says that it is done; on the way it says every few seconds how far it is, for whoever asks any node

A contact belongs to a customer by what it says itself, not by its order, which may not be placed yet. What is erased for good
stays so: a retry of the order's `POST`, at a node that has heard of neither, writes the contact again, and every node drops it.

A node that is killed goes on at its next start: what is gone is no longer among the customer's contacts, so nothing else has to
be remembered. When it does not come back, another one goes on after `TAKE_OVER_MS`. Two at the same work do no harm.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence

import structlog
from msgspec.structs import replace

from api.services.audit import BY_ITSELF, Audit
from api.services.submissions import Submissions
from ledger.audit import CUSTOMER_ERASURE, DONE
from ledger.clock import now_ms
from ledger.contacts import BARRIER_KEY, NOBODY, erased_key, order_of
from ledger.erasures import Erasure, encode_erasure, erasure_key
from ledger.errors import NotCaughtUp, NotNow, StoreError
from ledger.log import EventLog, NewRecord
from ledger.schemas.codec import contact_codec
from ledger.supervision import keep_at
from ledger.topics import Topics
from ledger.turns import Steps, Turns
from projections.projector import Projector
from projections.queries import Queries

log = structlog.get_logger(__name__)

SLICE_CONTACTS, PAUSE_S = 50, 0.005
FOLD_S = 10.0  # for what is in the topic now; a node that needs longer is not caught up
AT_ONCE = 4  # customers
NOTE_S = 5.0
TAKE_OVER_MS = 60_000  # a node at work notes its progress more often
LOOK_S, RETRY_S = 10.0, 1.0


class Erasures:
    """What this node has to do with erasures. On the event loop that folds."""

    def __init__(
        self,
        event_log: EventLog,
        topics: Topics,
        submissions: Submissions,
        projector: Projector,
        queries: Queries,
        turns: Turns,
        node: str,
        audit: Audit,
    ) -> None:
        self._log, self._topics, self._submissions, self._node = event_log, topics, submissions, node
        self._projector, self._queries, self._turns, self._audit = projector, queries, turns, audit
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._at_work_since = 0.0

    # ---- what is promised

    def last(self, customer_id: str) -> Erasure | None:
        """The customer's erasure that is under way, else the last one that is finished, as far as this node knows."""
        return self._projector.contacts.last_erasure(customer_id)

    @property
    def at_work_s(self) -> float:
        """For how long this node has been erasing somebody; 0 when it is not."""
        return time.monotonic() - self._at_work_since if self._jobs else 0.0

    async def promise(self, customer_id: str) -> Erasure:
        """Promise to erase all contacts of the customer, and begin.

        Raises `NotCaughtUp`, `NotDurable`: then nothing is promised, or perhaps it is.
        """
        await self._fold_all_there_is()
        before = self.last(customer_id)
        deleted = before.contacts_deleted if before is not None and before.done_at is None else 0
        erasure = Erasure(customer_id, now_ms(), self._node, deleted)
        await self._note(erasure)
        self._begin(customer_id)
        return erasure

    async def wait(self, customer_id: str, timeout_s: float) -> None:
        """Until this node has done what it does for the customer, or the time is over."""
        if (job := self._jobs.get(customer_id)) is not None:
            await asyncio.wait({job}, timeout=timeout_s)

    async def _note(self, erasure: Erasure) -> None:
        key = erasure_key(erasure.customer_id)
        partition = self._log.partition_for(key, self._projector.partitions)
        await self._submissions.keep([NewRecord(self._topics.contacts, partition, key, encode_erasure(erasure))])

    # ---- who is at work

    async def go_on_for_ever(self) -> None:
        """Go on with what this node has promised and not finished, and with what nobody else goes on with."""
        while True:
            for kept in self._projector.contacts.erasures_under_way():
                if kept.erasure.node == self._node or now_ms() - kept.noted_at > TAKE_OVER_MS:
                    self._begin(kept.erasure.customer_id)
            await asyncio.sleep(LOOK_S)

    def _begin(self, customer_id: str) -> None:
        if not self._jobs:
            self._at_work_since = time.monotonic()
        if customer_id not in self._jobs:
            self._jobs[customer_id] = job = asyncio.create_task(keep_at("erasure", lambda: self._finish(customer_id)))
            job.add_done_callback(lambda _: self._jobs.pop(customer_id))

    async def _finish(self, customer_id: str) -> None:
        async with self._slots:
            deleted = 0
            while (erasure := self.last(customer_id)) is not None and erasure.done_at is None:
                try:
                    # Asked for again meanwhile, it is still the same work to who sees its progress.
                    deleted = await self._erase(replace(erasure, contacts_deleted=max(deleted, erasure.contacts_deleted)))
                    continue
                except NotNow as exc:  # the broker is away, or this node behind: what is left is found again
                    log.warning("erasure has to wait", why=exc.code)
                except StoreError as exc:  # other databases were taken over, or the process ends
                    log.warning("erasure begins again", why=str(exc))
                await asyncio.sleep(RETRY_S)

    # ---- the work

    async def _erase(self, erasure: Erasure) -> int:
        """How many contacts were deleted for it in all. What was erased before an exception stays erased.

        Raises `NotDurable`, `NotCaughtUp`, `StoreError`.
        """
        if erasure.node != self._node:
            erasure = replace(erasure, node=self._node)
            await self._note(erasure)
        note_at, found = time.monotonic() + NOTE_S, True
        while found:
            await self._fold_all_there_is()
            found = False
            for owner in (
                erasure.customer_id,
                "",
            ):  # what cannot be read is nobody's: whether it is this customer's, its order says
                after: bytes | None = b""
                while after is not None:
                    (keys, new, after), _ = await self._turns.run(self._some(erasure.customer_id, owner, after))
                    await self._submissions.send_all(list(self._records(keys)))
                    erasure = replace(erasure, contacts_deleted=erasure.contacts_deleted + new)
                    found = found or bool(keys)
                    if time.monotonic() >= note_at:
                        await self._note(erasure)
                        note_at = time.monotonic() + NOTE_S
                    if after is not None:
                        await asyncio.sleep(PAUSE_S)
        promised = self.last(erasure.customer_id)
        if promised is None or promised.requested_at == erasure.requested_at:  # else it was asked for again meanwhile
            count = erasure.contacts_deleted
            await self._audit.keep(BY_ITSELF, CUSTOMER_ERASURE, DONE, customer_id=erasure.customer_id, count=count)
            await self._note(replace(erasure, done_at=now_ms()))
            log.info("customer erased", contacts=erasure.contacts_deleted)
        return erasure.contacts_deleted

    async def _fold_all_there_is(self) -> None:
        barriers = [NewRecord(self._topics.contacts, p, BARRIER_KEY, None) for p in range(self._projector.partitions)]
        for acked in await self._submissions.send_all(barriers):
            if not await self._projector.contacts_reached(acked.partition, acked.offset + 1, FOLD_S):
                raise NotCaughtUp("This node has not folded all contacts yet.")

    def _some(self, customer_id: str, owner: str, after: bytes) -> Steps[tuple[list[bytes], int, bytes | None]]:
        """(keys of the next contacts to erase, how many of them nobody has erased before, where to go on; None: that was all)."""
        contacts = self._projector.contacts
        keys = yield from contacts.keys_of(owner, after, SLICE_CONTACTS)
        mine, new = [], 0
        for key in keys:
            if owner or self._is_of(key, customer_id):
                mine.append(key)
                new += not contacts.is_erased(key)
            yield
        return mine, new, keys[-1] if len(keys) == SLICE_CONTACTS else None

    def _is_of(self, key: bytes, customer_id: str) -> bool:
        order_id = order_of(key)
        order = self._queries.order(self._partition_of(key), order_id)
        return order is not None and order.customer_id == customer_id

    def _partition_of(self, key: bytes) -> int:
        return self._log.partition_for(order_of(key).encode(), self._projector.partitions)

    def _records(self, keys: Sequence[bytes]) -> Iterator[NewRecord]:
        nobody = contact_codec().encode(NOBODY)
        for key in keys:
            partition = self._partition_of(key)
            yield NewRecord(self._topics.contacts, partition, erased_key(key), nobody)
            yield NewRecord(self._topics.contacts, partition, key, None)
