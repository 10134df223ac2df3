"""The projector: folds chunks of the log into one database per partition, rows and position in one write (DESIGN 6).

It is what the Faust agent calls, and the only writer of the read models. `fold` is synchronous: between the check of a
position and the write there is no `await`. After each write it tells who waits: for a command's outcome, for a position,
for news of an order.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence

import structlog

from ledger.codec import event_codec, refusal_codec
from ledger.contacts import OrderContact
from ledger.errors import ConfigError, DecodeError, Hole
from ledger.events import OrderEvent, OrderRefusal
from ledger.kept_contacts import contact_rows, decode_contact
from ledger.log import Acked, Record, TopicPartition
from ledger.order import FoldError
from ledger.outcomes import refusal_row
from ledger.store import Store
from ledger.topics import Topics
from projections.read_models import VERSION, PartitionFold, Rows

log = structlog.get_logger(__name__)

_POSITION = b"\0position/"
_PLACE = struct.Struct(">QQ")  # next offset, timestamp (ms) of the record before it
_VERSION = b"\0version"
CONTACTS_STORE = "contacts"

Waiter = asyncio.Future[None]


class Projector:
    """Databases of one node: `order-events` and `order-refusals` of partition p in store p, all contacts in a store of
    their own (they can be erased, the ledger's rows cannot).

    `open_store(name)` opens or creates a database: `p0`, `p1`, ... and `contacts`.
    """

    def __init__(self, open_store: Callable[[str], Store], topics: Topics, partitions: int) -> None:
        """Raises `StoreError` when a database is open elsewhere, `ConfigError` when one has other read models."""
        self.topics = topics
        self.partitions = partitions
        self._events, self._refusals, self._contact_row = event_codec(), refusal_codec(), contact_rows()
        self.stores = [open_store(f"p{p}") for p in range(partitions)]
        self.contacts = open_store(CONTACTS_STORE)
        self._positions: dict[TopicPartition, int] = {}
        self._log_times: dict[TopicPartition, int] = {}
        for p, store in enumerate(self.stores):
            self._check_version(store, f"p{p}")
            for topic in (topics.events, topics.refusals):
                self._load(store, TopicPartition(topic, p))
            self._load(self.contacts, TopicPartition(topics.contacts, p))
        self._outcome_waiters: dict[str, list[tuple[bytes, Waiter]]] = {}
        self._position_waiters: dict[int, list[tuple[int, Waiter]]] = {p: [] for p in range(partitions)}
        self._order_waiters: dict[str, list[Waiter]] = {}
        self._early: dict[str, list[tuple[int, str, bytes]]] = {}  # refusals folded before the version they met
        self.frozen_count = 0
        self.folded_count = 0

    def _check_version(self, store: Store, name: str) -> None:
        raw = store.get(_VERSION)
        if raw is None:
            store.write({_VERSION: str(VERSION).encode()})
        elif int(raw) != VERSION:
            raise ConfigError(f"database {name} holds read models of version {int(raw)}, this program has {VERSION}: rebuild it")

    def _load(self, store: Store, tp: TopicPartition) -> None:
        raw = store.get(_POSITION + tp.topic.encode() + b"/%d" % tp.partition)
        self._positions[tp], self._log_times[tp] = _PLACE.unpack(raw) if raw else (0, 0)

    # ---- what the agent calls

    def positions(self) -> Mapping[TopicPartition, int]:
        """Where reading must go on: the next offset of every partition of the three topics."""
        return dict(self._positions)

    def skip_expired(self, starts: Mapping[TopicPartition, int]) -> None:
        """Begin at `starts` where the log no longer goes back to the position.

        For `order-refusals` only, which is kept 60 days: a key is honoured for 30, so what is gone is asked for by nobody.
        """
        for tp, start in starts.items():
            if tp.topic == self.topics.refusals and self._positions[tp] < start:
                log.info("expired refusals skipped", partition=tp.partition, position=self._positions[tp], start=start)
                self._positions[tp] = start

    def fold(self, records: Sequence[Record]) -> None:
        """Fold one chunk. Records below the position are skipped. Any exception leaves the databases at an earlier
        position and must end the process: what is not written is folded again after the restart."""
        by_tp: dict[TopicPartition, list[Record]] = {}
        for record in records:
            by_tp.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
        for tp, own in by_tp.items():
            position = self._positions[tp]
            if own[0].offset < position:
                own = [r for r in own if r.offset >= position]
                if not own:
                    continue
            if tp.topic == self.topics.events:
                self._fold_events(tp, own)
            elif tp.topic == self.topics.refusals:
                self._fold_refusals(tp, own)
            else:
                self._fold_contacts(tp, own)

    def _write(self, store: Store, tp: TopicPartition, rows: Rows, last: Record) -> None:
        position = last.offset + 1
        if position <= self._positions[tp]:
            raise Hole(f"{tp.topic}/{tp.partition}: position would go back from {self._positions[tp]} to {position}")
        rows[_POSITION + tp.topic.encode() + b"/%d" % tp.partition] = _PLACE.pack(position, last.timestamp_ms)
        store.write(rows)
        self._positions[tp], self._log_times[tp] = position, last.timestamp_ms

    def _fold_events(self, tp: TopicPartition, records: list[Record]) -> None:
        store = self.stores[tp.partition]
        fold = PartitionFold(store.get)
        done: list[OrderEvent] = []
        for record in records:
            value = record.value or b""
            try:
                event = self._events.decode(value)
            except DecodeError as exc:
                self._freeze(fold, (record.key or b"").decode("utf-8", "replace"), record.offset, str(exc))
                continue
            done.append(event)
            if fold.frozen(event.order_id):
                fold.note(event, record.offset, value)
                continue
            try:
                fold.fold(event, record.offset, value)
            except FoldError as exc:
                self._freeze(fold, event.order_id, record.offset, str(exc))
                before = fold.order(event.order_id)
                if event.version == (before.version if before else 0) + 1:
                    fold.note(event, record.offset, value)  # its place is its own: shown in the history, and its command answered
        self._write(store, tp, fold.finish(), records[-1])
        self.folded_count += len(records)
        for event in done:
            self._tell(event.command_id, event.fingerprint)
            self._tell_order(event.order_id)
            if event.order_id in self._early:
                self._tell_early(event.order_id, event.version)
        self._tell_position(tp.partition)

    def _freeze(self, fold: PartitionFold, order_id: str, offset: int, reason: str) -> None:
        log.error("order frozen", order_id=order_id, offset=offset, reason=reason)
        fold.freeze(order_id, offset, reason)
        self.frozen_count += 1

    def _fold_refusals(self, tp: TopicPartition, records: list[Record]) -> None:
        rows: Rows = {}
        told: list[OrderRefusal] = []
        for record in records:
            try:
                refusal = self._refusals.decode(record.value)
            except DecodeError as exc:
                log.error("unreadable refusal", partition=tp.partition, offset=record.offset, reason=str(exc))
                continue
            if (row := refusal_row(refusal)) is not None:
                rows[row[0]] = row[1]
                told.append(refusal)
        self._write(self.stores[tp.partition], tp, rows, records[-1])
        for refusal in told:
            self._tell_refused(tp.partition, refusal)

    def _tell_refused(self, partition: int, refusal: OrderRefusal) -> None:
        """Now, or once the order is folded as far as the command met it: the two topics come in any order."""
        if refusal.command_id is None or refusal.fingerprint is None or refusal.command_id not in self._outcome_waiters:
            return
        order_id, met = refusal.order_id or "", refusal.order_version or 0
        fold = PartitionFold(self.stores[partition].get)
        order = fold.order(order_id) if met else None
        if met and (order is None or order.version < met) and not fold.frozen(order_id):
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

    def _fold_contacts(self, tp: TopicPartition, records: list[Record]) -> None:
        rows: Rows = {(r.key or b""): self._contact_row(r.value, r.timestamp_ms) for r in records}
        self._write(self.contacts, tp, rows, records[-1])

    # ---- contacts

    def contact(self, key: bytes) -> OrderContact | None:
        """The contact with this key (`ledger.contacts.contact_key`); None when unknown or erased."""
        raw = self.contacts.get(key)
        return decode_contact(raw).contact if raw else None

    def remember_contact(self, key: bytes, value: bytes | None, acked: Acked) -> None:
        """A contact (None: its tombstone) that this node has just made durable: readable here at once, unless the fold was
        faster."""
        if self._positions[TopicPartition(self.topics.contacts, acked.partition)] <= acked.offset:
            self.contacts.write({key: self._contact_row(value, acked.timestamp_ms)})

    # ---- who waits

    def position(self, partition: int) -> int:
        """Next offset of `order-events` to fold."""
        return self._positions[TopicPartition(self.topics.events, partition)]

    def log_time(self, partition: int) -> int:
        """Timestamp of the last event folded, ms since the epoch (0: none). Commands up to then are decided and folded, for
        an event bears the time of its command and commands are decided in their order."""
        return self._log_times[TopicPartition(self.topics.events, partition)]

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
        """Wait until `partition` has folded to `position`; whether it did in time."""
        if self.position(partition) >= position:
            return True
        waiter: Waiter = asyncio.get_running_loop().create_future()
        entry = (position, waiter)
        self._position_waiters[partition].append(entry)
        try:
            await asyncio.wait_for(waiter, timeout_s)
        except TimeoutError:
            return False
        finally:
            self._position_waiters[partition].remove(entry)
        return True

    def _tell_position(self, partition: int) -> None:
        at = self.position(partition)
        for wanted, waiter in self._position_waiters[partition]:
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
        for store in (*self.stores, self.contacts):
            store.close()
