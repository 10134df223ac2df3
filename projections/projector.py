"""The projector: folds chunks of the log into this node's databases, and tells who waits (ARCHITECTURE, Reading).

It is what the Faust agent calls. `fold` is synchronous: between the check of a position and the write there is no `await`.
After each write it tells who waits: for a command's outcome, for a position, for news of an order. `take_over` puts other
databases, which a rebuild made, in the place of the ones so far.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from ledger.contact_rows import KeptContacts
from ledger.contacts import OrderContact
from ledger.errors import Hole
from ledger.events import OrderRefusal
from ledger.log import Acked, NewRecord, Record, TopicPartition
from ledger.outcomes import decode_outcome, outcome_key, reused_key
from ledger.store import Store
from ledger.topics import Topics
from ledger.turns import Steps
from projections import read_models as rm
from projections.databases import Databases, OpenStore

Waiter = asyncio.Future[None]


class Projector:
    """The read models of one node, and who waits for what in them. All partitions, all contacts; on one event loop."""

    def __init__(self, databases: Databases) -> None:
        """`databases` hold all partitions, numbered from 0, and the contacts; or nothing, until `take_over`."""
        self._databases = databases
        self.topics = databases.topics
        self.partitions = len(databases.stores)
        self._outcome_waiters: dict[str, list[tuple[bytes, Waiter]]] = {}
        self._position_waiters: dict[TopicPartition, list[tuple[int, Waiter]]] = {}
        self._order_waiters: dict[str, list[Waiter]] = {}
        self._early: dict[str, list[tuple[int, str, bytes]]] = {}  # refusals folded before the version they met
        self._ahead: dict[bytes, tuple[Acked, bytes | None]] = {}  # contacts known to be durable and not folded yet
        self.contacts_late = asyncio.Event()  # set when a contact came after its erasure: `contacts.late()` has it
        self.folded_count = 0

    @classmethod
    def open(cls, open_store: OpenStore, topics: Topics, partitions: int) -> Projector:
        """Over the databases that `open_store` opens or creates. Raises as `Databases` does."""
        return cls(Databases(open_store, topics, range(partitions), partitions))

    @property
    def databases(self) -> Databases:
        return self._databases

    def store(self, partition: int) -> Store:
        """The read models of one partition."""
        return self._databases.stores[partition]

    @property
    def stores(self) -> Iterable[Store]:
        """The read models of every partition, in their order."""
        return self._databases.stores.values()

    @property
    def contacts(self) -> KeptContacts:
        assert self._databases.contacts is not None
        return self._databases.contacts

    @property
    def frozen_count(self) -> int:
        return self._databases.frozen_count()

    # ---- what the agent calls

    def positions(self) -> Mapping[TopicPartition, int]:
        """Where reading must go on: the next offset of every partition of the three topics."""
        return self._databases.positions()

    def fold(self, records: Sequence[Record]) -> None:
        """Fold one chunk. Records below the position are skipped. Any exception leaves the databases at an earlier
        position and must end the process: what is not written is folded again after the restart."""
        by_tp: dict[TopicPartition, list[Record]] = {}
        for record in records:
            by_tp.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
        for tp, own in by_tp.items():
            before = self._databases.position(tp)
            folded = self._databases.fold(tp, own)
            if self._databases.position(tp) == before:
                continue
            for event in folded.events:
                self._tell(event.command_id, event.fingerprint)
                self._tell_order(event.order_id)
                if event.order_id in self._early:
                    self._tell_early(event.order_id, event.version)
            for refusal in folded.refusals:
                self._tell_refused(tp.partition, refusal)
            for key in folded.contacts:
                self._forget_ahead(key)
            if tp.topic == self.topics.events:
                self.folded_count += len(own)
            elif self.contacts.has_late:
                self.contacts_late.set()
            self._tell_position(tp)

    def _tell_refused(self, partition: int, refusal: OrderRefusal) -> None:
        """Now, or once the order is folded as far as the command met it: the two topics come in any order."""
        if refusal.command_id is None or refusal.fingerprint is None or refusal.command_id not in self._outcome_waiters:
            return
        order_id, met = refusal.order_id or "", refusal.order_version or 0
        raw = self.store(partition).get(rm.order_key(order_id)) if met else None
        folded = rm.decode_order(raw).version if raw else 0
        if met > folded and not self._databases.frozen(partition, order_id):
            self._early.setdefault(order_id, []).append((met, refusal.command_id, refusal.fingerprint))
        else:
            self._tell(refusal.command_id, refusal.fingerprint)

    def _tell_early(self, order_id: str, version: int) -> None:
        waiting = self._early.pop(order_id)
        for met, command_id, fingerprint in waiting:
            if met <= version:
                self._tell(command_id, fingerprint)
        if later := [entry for entry in waiting if entry[0] > version]:
            self._early[order_id] = later

    # ---- other databases

    def take_over(self, databases: Databases) -> Databases:
        """Read and fold in `databases` from now on; returns the ones so far, for the caller to close. Then do `tell_outcomes`.

        Raises `Hole` when one of the new ones stands before the old one: a reader would see the past again.
        """
        old = self._databases
        for tp, position in old.positions().items():
            if databases.position(tp) < position:
                raise Hole(f"{tp.topic}/{tp.partition}: folded to {position}, the other database to {databases.position(tp)}")
        self._databases, self.partitions = databases, len(databases.stores)
        ahead, self._ahead = self._ahead, {}
        self._remember((key, value, acked) for key, (acked, value) in ahead.items())
        self._early.clear()
        for tp in list(self._position_waiters):
            self._tell_position(tp)
        self.wake_order_waiters()
        return old

    def tell_outcomes(self) -> Steps[None]:
        """Wake whoever waits for the outcome of a command that is folded: after a take-over no chunk will bring it."""
        for command_id, waiting in list(self._outcome_waiters.items()):
            for fingerprint, _ in list(waiting):
                keys = [outcome_key(command_id), reused_key(command_id, fingerprint)]
                rows = (row for store in self.stores for row in store.get_many(keys) if row is not None)
                if any(decode_outcome(row).fingerprint == fingerprint for row in rows):
                    self._tell(command_id, fingerprint)
                yield

    # ---- contacts

    def contact(self, key: bytes) -> OrderContact | None:
        """The contact with this key (`ledger.contacts.contact_key`); None when unknown or erased."""
        return self.contacts.contact(key)

    def remember(self, records: Iterable[tuple[NewRecord, Acked]]) -> None:
        """Records of `order-contacts` that this node has just made durable: readable here at once, unless the fold was faster."""
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

    # ---- who waits

    def position(self, partition: int) -> int:
        """Next offset of `order-events` to fold."""
        return self._databases.position(TopicPartition(self.topics.events, partition))

    def log_time(self, partition: int) -> int:
        """Timestamp of the last event folded, ms since the epoch (0: none). Commands up to then are decided and folded, for
        an event bears the time of its command and commands are decided in their order."""
        return self._databases.log_time(TopicPartition(self.topics.events, partition))

    def outcome_waiter(self, command_id: str, fingerprint: bytes) -> Waiter:
        """Done when the fold has seen the outcome of exactly this command. Give it back with `forget`."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._outcome_waiters.setdefault(command_id, []).append((fingerprint, waiter))
        return waiter

    def forget(self, command_id: str, waiter: Waiter) -> None:
        """Nobody waits for this any more."""
        if left := [w for w in self._outcome_waiters.get(command_id, []) if w[1] is not waiter]:
            self._outcome_waiters[command_id] = left
        else:
            self._outcome_waiters.pop(command_id, None)

    def _tell(self, command_id: str, fingerprint: bytes) -> None:
        for wanted, waiter in self._outcome_waiters.get(command_id, ()):
            if wanted == fingerprint and not waiter.done():
                waiter.set_result(None)

    async def reached(self, partition: int, position: int, timeout_s: float) -> bool:
        """Wait until `partition` of the events is folded to `position`; whether it was in time."""
        return await self._reached(TopicPartition(self.topics.events, partition), position, timeout_s)

    async def contacts_reached(self, partition: int, position: int, timeout_s: float) -> bool:
        """Wait until `partition` of the contacts is folded to `position`; whether it was in time."""
        return await self._reached(TopicPartition(self.topics.contacts, partition), position, timeout_s)

    async def _reached(self, tp: TopicPartition, position: int, timeout_s: float) -> bool:
        if self._databases.position(tp) >= position:
            return True
        waiter: Waiter = asyncio.get_running_loop().create_future()
        entry = (position, waiter)
        waiting = self._position_waiters.setdefault(tp, [])
        waiting.append(entry)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            waiting.remove(entry)
        return True

    def _tell_position(self, tp: TopicPartition) -> None:
        at = self._databases.position(tp)
        for wanted, waiter in self._position_waiters.get(tp, ()):
            if wanted <= at and not waiter.done():
                waiter.set_result(None)

    async def news(self, order_id: str, timeout_s: float) -> bool:
        """Wait for the next event of an order; whether one came in time."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._order_waiters.setdefault(order_id, []).append(waiter)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            left = self._order_waiters[order_id]
            left.remove(waiter)
            if not left:
                del self._order_waiters[order_id]
        return True

    def _tell_order(self, order_id: str) -> None:
        for waiter in self._order_waiters.get(order_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def wake_order_waiters(self) -> None:
        """Everyone who waits for news of an order looks again, for instance at whether the process is stopping."""
        for order_id in list(self._order_waiters):
            self._tell_order(order_id)

    def close(self) -> None:
        self._databases.close()
