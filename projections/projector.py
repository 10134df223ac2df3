"""The projector: applies chunks of the log to this node's databases and wakes waiting requests.

The Faust agent calls it. `apply_chunk` is synchronous: there is no `await` between the check of a position and the write. After
each write it wakes requests that wait for it (`waiters`). `take_over` replaces the databases by those of a rebuild.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from ledger import tracing
from ledger.contact_rows import KeptContacts
from ledger.contacts import OrderContact
from ledger.errors import Hole
from ledger.events import OrderRefusal
from ledger.histogram import Histogram
from ledger.log import Acked, NewRecord, Record, TopicPartition
from ledger.log_identity import not_this_log
from ledger.outcomes import decode_outcome, outcome_key, reused_key
from ledger.store import Store
from ledger.topics import Topics
from ledger.turns import Steps
from projections import read_models
from projections.databases import Databases, OpenStore
from projections.waiters import Waiters

TRACED_MS = 600_000
CHUNK_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Projector:
    """The read models of one node, and the requests that wait for them. All partitions and contacts; on one event loop."""

    def __init__(self, databases: Databases) -> None:
        """`databases` have all partitions, numbered from 0, and the contacts; or nothing, until `take_over`."""
        self._databases = databases
        self.topics = databases.topics
        self.partitions = len(databases.stores)
        self.waiters = Waiters(lambda tp: self._databases.position(tp))  # noqa: PLW0108  # of the databases as they are then
        self._early: dict[str, list[tuple[int, str, bytes]]] = {}  # refusals folded before the version that they refer to
        self._ahead: dict[bytes, tuple[Acked, bytes | None]] = {}  # contacts that are durable but not folded yet
        self._followed: set[TopicPartition] = set()  # folded since these databases were compared with the log
        self.contacts_late = asyncio.Event()  # set when a contact was written after its erasure: see `contacts.late()`
        self.folded_count = 0
        self.chunk_s = Histogram(CHUNK_S)
        self.traces = tracing.OrderTraces()  # of the events that were folded here

    @classmethod
    def open(cls, open_store: OpenStore, topics: Topics, partitions: int) -> Projector:
        """A projector over databases that `open_store` opens or creates. Raises like `Databases`."""
        return cls(Databases(open_store, topics, range(partitions), partitions))

    @property
    def databases(self) -> Databases:
        return self._databases

    def store(self, partition: int) -> Store:
        """The read models of one partition."""
        return self._databases.stores[partition]

    @property
    def stores(self) -> Iterable[Store]:
        """The read models of all partitions, in order."""
        return self._databases.stores.values()

    @property
    def contacts(self) -> KeptContacts:
        assert self._databases.contacts is not None
        return self._databases.contacts

    @property
    def frozen_count(self) -> int:
        return self._databases.frozen_count()

    # ---- called by the agent

    def positions(self) -> Mapping[TopicPartition, int]:
        """Where to continue reading: the next offset of every partition of the three topics."""
        return self._databases.positions()

    def apply_chunk(self, records: Sequence[Record]) -> None:
        """Fold one chunk, skipping records below the position.

        Raises `NotThisLog` if a chunk of events does not follow the last one: the topic was replaced while this process ran.
        Directly after a start the log is known to be the right one, so a broken chain is its own, and `verify` reports it.

        After any exception the databases are at an earlier position, and the process must end: the restart folds the rest again.
        """
        began = time.perf_counter()
        self._apply(records)
        self.chunk_s.note(time.perf_counter() - began)

    def _apply(self, records: Sequence[Record]) -> None:
        began_ns = 0 if tracing.tracer() is None else time.time_ns()
        by_tp: dict[TopicPartition, list[Record]] = {}
        for record in records:
            by_tp.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
        for tp, own in by_tp.items():
            before = self._databases.position(tp)
            if tp in self._followed and self._databases.breaks_chain(tp, own[0]):
                raise not_this_log(
                    f"the event at {own[0].offset} of {tp.topic}/{tp.partition} does not follow the one before {before}"
                )
            self._followed.add(tp)
            folded = self._databases.write_chunk(tp, own)
            if self._databases.position(tp) == before:
                continue
            for event in folded.events:
                self.waiters.wake_outcome(event.command_id, event.fingerprint)
                self.waiters.wake_order(event.order_id)
                if event.order_id in self._early:
                    self._wake_early(event.order_id, event.version)
            if folded.events:
                self.waiters.wake_feeds(event.customer_id for event in folded.events)
            for refusal in folded.refusals:
                self._wake_refused(tp.partition, refusal)
            for key in folded.contacts:
                self._forget_ahead(key)
            if tp.topic == self.topics.events:
                self.folded_count += len(own)
                if began_ns:
                    self._trace(own, began_ns)
            elif self.contacts.has_late:
                self.contacts_late.set()
            self.waiters.wake_position(tp)

    def _trace(self, records: Sequence[Record], began_ns: int) -> None:
        """A span for each event that came with a context, except of old ones: a fold from the beginning is nobody's request."""
        tracer, oldest_ms = tracing.tracer(), began_ns // 1_000_000 - TRACED_MS
        for record in records:
            context = tracing.context_in(record.headers)
            if tracer is None or context is None or record.timestamp_ms < oldest_ms:
                continue
            span = tracer.begin("fold", "consumer", context, began_ns=began_ns)
            span.note(ledger__partition=record.partition, ledger__event_offset=record.offset)
            span.end()
            self.traces.note((record.key or b"").decode("utf-8", "replace"), span.traceparent)

    def thaw(self) -> Steps[None]:
        """Fold what waits for frozen orders, if this program can now: an order in each step."""
        databases = self._databases
        for partition, order_id in databases.frozen_orders():
            if self._databases is not databases:
                return  # the other ones were tried when they were opened
            for event in databases.thaw(partition, order_id):
                self.waiters.wake_feeds([event.customer_id])
                self.waiters.wake_outcome(event.command_id, event.fingerprint)
                self.waiters.wake_order(order_id)
                if order_id in self._early:
                    self._wake_early(order_id, event.version)
            yield

    def _wake_refused(self, partition: int, refusal: OrderRefusal) -> None:
        """Wake now, or when the order is folded up to the version that the refusal refers to: the topics arrive in any order."""
        if refusal.command_id is None or refusal.fingerprint is None or not self.waiters.waits_for(refusal.command_id):
            return
        order_id, met = refusal.order_id or "", refusal.order_version or 0
        raw = self.store(partition).get(read_models.order_key(order_id)) if met else None
        folded = read_models.decode_order(raw).version if raw else 0
        if met > folded and not self._databases.frozen(partition, order_id):
            self._early.setdefault(order_id, []).append((met, refusal.command_id, refusal.fingerprint))
        else:
            self.waiters.wake_outcome(refusal.command_id, refusal.fingerprint)

    def _wake_early(self, order_id: str, version: int) -> None:
        waiting = self._early.pop(order_id)
        for met, command_id, fingerprint in waiting:
            if met <= version:
                self.waiters.wake_outcome(command_id, fingerprint)
        if later := [entry for entry in waiting if entry[0] > version]:
            self._early[order_id] = later

    # ---- other databases

    def take_over(self, databases: Databases, moved: bool = False) -> Databases:
        """Switch to `databases`. Returns the previous ones, which the caller must close. Then call `wake_outcomes`.

        `moved`: they have other offsets, those of a restored log. Otherwise raises `Hole` if a new one is behind the old one:
        readers would go back in time.
        """
        old = self._databases
        for tp, position in old.positions().items():
            if not moved and databases.position(tp) < position:
                raise Hole(f"{tp.topic}/{tp.partition}: folded to {position}, the other database to {databases.position(tp)}")
        self._databases, self.partitions = databases, len(databases.stores)
        ahead, self._ahead = self._ahead, {}
        self._remember((key, value, acked) for key, (acked, value) in ahead.items())
        self._early.clear()
        self._followed.clear()
        self.waiters.wake_positions()
        self.waiters.wake_streams()
        return old

    def wake_outcomes(self) -> Steps[None]:
        """Wake waiters for outcomes that are already folded: after a switch, no chunk will contain them."""
        for command_id, fingerprint in self.waiters.outcomes():
            keys = [outcome_key(command_id), reused_key(command_id, fingerprint)]
            rows = (row for store in self.stores for row in store.get_many(keys) if row is not None)
            if any(decode_outcome(row).fingerprint == fingerprint for row in rows):
                self.waiters.wake_outcome(command_id, fingerprint)
            yield

    # ---- contacts

    def contact(self, key: bytes) -> OrderContact | None:
        """The contact with this key (`ledger.contacts.contact_key`); None if it is unknown or erased."""
        return self.contacts.contact(key)

    def remember(self, records: Iterable[tuple[NewRecord, Acked]]) -> None:
        """Make records of `order-contacts` that this node just wrote readable immediately, unless the fold was faster."""
        self._remember((record.key or b"", record.value, acked) for record, acked in records)

    def _remember(self, records: Iterable[tuple[bytes, bytes | None, Acked]]) -> None:
        here: list[tuple[bytes, bytes | None, int]] = []
        for key, value, acked in records:
            if self._databases.position(TopicPartition(self.topics.contacts, acked.partition)) <= acked.offset:
                self._ahead[key] = acked, value
                here.append((key, value, acked.timestamp_ms))
        self.contacts.put(here)

    def _forget_ahead(self, key: bytes) -> None:
        if (ahead := self._ahead.get(key)) is not None:
            acked = ahead[0]
            if self._databases.position(TopicPartition(self.topics.contacts, acked.partition)) > acked.offset:
                del self._ahead[key]

    # ---- how far

    def position(self, partition: int) -> int:
        """Next offset of `order-events` to fold."""
        return self._databases.position(TopicPartition(self.topics.events, partition))

    def log_time(self, partition: int) -> int:
        """Timestamp of the last folded event, ms since the epoch (0: none).

        Commands up to then are decided and folded, because an event has the time of its command and they are decided in order.
        """
        return self._databases.log_time(TopicPartition(self.topics.events, partition))

    async def reached(self, partition: int, position: int, timeout_s: float) -> bool:
        """Wait until `partition` of the events is folded up to `position`. Returns whether it was in time."""
        return await self.waiters.reached(TopicPartition(self.topics.events, partition), position, timeout_s)

    async def contacts_reached(self, partition: int, position: int, timeout_s: float) -> bool:
        """Wait until `partition` of the contacts is folded up to `position`. Returns whether it was in time."""
        return await self.waiters.reached(TopicPartition(self.topics.contacts, partition), position, timeout_s)

    def close(self) -> None:
        self._databases.close()
