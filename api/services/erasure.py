"""Erases a customer's contacts: all that were durable at the start, whatever the state of their orders.

    0   a record in `order-contacts` names the customer; from then on some node will finish the erasure
    1   a barrier is written to every partition of `order-contacts`: when this node has folded it, it knows all contacts before it
    2   for each contact of the customer, a record marks it as permanently erased, then comes its tombstone; a few at a time, with
        a pause, so that a customer with 200,000 orders does not affect others
    3   repeat from 1 until nothing new is found: orders may have arrived meanwhile
    4   the record says that it is done; meanwhile it shows the progress every few seconds, on every node

The contact itself says to which customer it belongs, not its order, which may not be placed yet. Permanently erased means that
if a retry of the order's `POST`, at a node that knows of neither, writes the contact again, every node drops it.

A killed node resumes at its next start: deleted contacts are no longer among the customer's contacts, so nothing else needs to
be stored. If it does not return, another node takes over after `TAKE_OVER_MS`. Two nodes doing the same work are harmless.
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
FOLD_S = 10.0  # for the current content of the topic; a node that needs longer is not caught up
AT_ONCE = 4  # customers
NOTE_S = 5.0
TAKE_OVER_MS = 60_000  # a working node notes its progress more often
RESUME_EVERY_S, RETRY_S = 10.0, 1.0


class Erasures:
    """The erasures of this node. On the event loop that folds."""

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

    # ---- requests

    def last(self, customer_id: str) -> Erasure | None:
        """The customer's erasure in progress, else the last finished one, according to this node."""
        return self._projector.contacts.last_erasure(customer_id)

    @property
    def at_work_s(self) -> float:
        """How long this node has been erasing; 0 if it is not."""
        return time.monotonic() - self._at_work_since if self._jobs else 0.0

    async def promise(self, customer_id: str) -> Erasure:
        """Make the erasure of all contacts of the customer durable, and start it.

        Raises `NotCaughtUp`, or `NotDurable`: then it is unknown whether the erasure is durable.
        """
        await self._fold_all_there_is()
        before = self.last(customer_id)
        deleted = before.contacts_deleted if before is not None and before.done_at is None else 0
        requested_at = now_ms() if before is None else max(now_ms(), before.requested_at + 1)  # later than all before
        erasure = Erasure(customer_id, requested_at, self._node, deleted)
        await self._note(erasure)
        self._begin(customer_id)
        return erasure

    async def wait(self, customer_id: str, timeout_s: float) -> None:
        """Wait until this node has finished its work for the customer, or `timeout_s` is over."""
        if (job := self._jobs.get(customer_id)) is not None:
            await asyncio.wait({job}, timeout=timeout_s)

    async def _note(self, erasure: Erasure) -> None:
        """Make the record durable. A later request is noted again after it: compaction keeps only the last record."""
        key = erasure_key(erasure.customer_id)
        partition = self._log.partition_for(key, self._projector.partitions)
        await self._submissions.keep([NewRecord(self._topics.contacts, partition, key, encode_erasure(erasure))])
        last = self.last(erasure.customer_id)
        if last is not None and last.requested_at > erasure.requested_at:
            await self._note(last)

    # ---- which node does it

    async def go_on_for_ever(self) -> None:
        """Resume unfinished erasures of this node, and those that another node has abandoned."""
        while True:
            for kept in self._projector.contacts.erasures_in_progress():
                if kept.erasure.node == self._node or now_ms() - kept.noted_at > TAKE_OVER_MS:
                    self._begin(kept.erasure.customer_id)
            await asyncio.sleep(RESUME_EVERY_S)

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
                    # If it was requested again meanwhile, its progress still describes the same work.
                    deleted = await self._erase(replace(erasure, contacts_deleted=max(deleted, erasure.contacts_deleted)))
                    continue
                except NotNow as exc:  # the broker is unreachable, or this node is behind: the remaining contacts are found again
                    log.warning("erasure is delayed", why=exc.code)
                except StoreError as exc:  # the databases were switched, or the process ends
                    log.warning("erasure starts over", why=str(exc))
                await asyncio.sleep(RETRY_S)

    # ---- the work

    async def _erase(self, erasure: Erasure) -> int:
        """Returns the total number of deleted contacts. Contacts erased before an exception stay erased.

        Raises `NotDurable`, `NotCaughtUp`, `StoreError`.
        """
        if erasure.node != self._node:
            erasure = replace(erasure, node=self._node)
            await self._note(erasure)
        note_at, has_more = time.monotonic() + NOTE_S, True
        while has_more:
            await self._fold_all_there_is()
            has_more = False
            for owner in (
                erasure.customer_id,
                "",
            ):  # an undecodable contact has no customer: its order says whether it is this one
                after: bytes | None = b""
                while after is not None:
                    (keys, new, after), _ = await self._turns.run(self._some(erasure.customer_id, owner, after))
                    await self._submissions.send_all(list(self._records(keys)))
                    erasure = replace(erasure, contacts_deleted=erasure.contacts_deleted + new)
                    has_more = has_more or bool(keys)
                    if time.monotonic() >= note_at:
                        await self._note(erasure)
                        note_at = time.monotonic() + NOTE_S
                    if after is not None:
                        await asyncio.sleep(PAUSE_S)
        promised = self.last(erasure.customer_id)
        if promised is None or promised.requested_at == erasure.requested_at:  # otherwise it was requested again meanwhile
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
        """(keys of the next contacts to erase, number of those not erased before, where to continue; None: at the end)."""
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
