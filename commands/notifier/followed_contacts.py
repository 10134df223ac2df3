"""The contacts of the notifier: a fold of all of `order-contacts` in a database of its own. An erasure also reaches the doors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from itertools import groupby

from commands.notifier.message_port import MessageDoor
from commands.processor.order_book import OrderBook
from ledger.contact_rows import CONTACTS_STORE, KeptContacts
from ledger.contacts import OrderContact, note_id_of, order_of
from ledger.errors import LogError
from ledger.log import EventLog, TopicPartition
from ledger.store import Store
from ledger.topics import Topics
from ledger.turns import in_one_go

CONTACTS_S = 10.0
SILENT_S = 3.0  # after that, the log counts as unreachable
PURGE_EVERY_S = 5.0
ARRIVING_S, QUIET_S, PURGE_LATEST_S = 0.5, 2.0, 60.0
CHUNK = 200


class FollowedContacts:
    """Used by the notifier's thread. `stopping` ends every wait. If a contact is erased, the doors delete what they keep."""

    def __init__(
        self,
        event_log: EventLog,
        topics: Topics,
        book_of: Callable[[int], OrderBook],
        open_store: Callable[[str], Store],
        doors: Mapping[str, MessageDoor],
        stopping: threading.Event,
        clock: Callable[[], int],
    ) -> None:
        self._log, self._topics, self._book_of, self._open_store = event_log, topics, book_of, open_store
        self._doors, self._stopping, self._clock = doors, stopping, clock
        self._purge_at = self._purged_at = 0.0
        self._gone: set[str] = set()  # orders with erased contacts whose messages the doors still keep
        self._gone_at = 0.0

    def open(self, closing: ExitStack) -> None:
        """Open the contacts of all partitions, even those of other processes: an erasure must reach every copy."""
        topic = self._topics.contacts
        partitions = self._log.partitions(topic)  # may fail, and is asked again: nothing may be open then
        self._contacts = KeptContacts(self._open_store(CONTACTS_STORE), topic, partitions, self._clock)
        closing.callback(self._contacts.close)
        self._reader = self._log.reader("notifier-contacts", eof=True, max_wait_ms=10)
        closing.callback(self._reader.close)
        starts, ends = (ask(self._contacts.positions()) for ask in (self._log.starts, self._log.ends))
        self._contacts.follow(ends, self._log.topic_id(topic))
        self._reader.assign({tp: max(at, starts[tp]) for tp, at in self._contacts.positions().items()})
        self.fold_to_end()
        # Contacts erased while this process was down, perhaps for longer than the log keeps tombstones.
        kept = {order_id for door in self._doors.values() for order_id in door.kept()}
        self._forget({order_id for order_id in kept if not self._contacts.has_order(order_id) and self._is_ours(order_id)})

    def _is_ours(self, order_id: str) -> bool:
        """Whether the order belongs to this ledger: a folder of messages may be shared."""
        partition = self._log.partition_for(order_id.encode(), len(self._contacts.positions()))
        return self._contacts.is_order_erased(order_id) or self._book_of(partition).order(partition, order_id) is not None

    def is_gone(self, key: bytes) -> bool:
        """Whether the contact is not among those folded."""
        return self._contacts.contact(key) is None

    def contact(self, key: bytes) -> OrderContact | None:
        """The contact; None if it was erased. Raises `LogError`."""
        contact = self._contacts.contact(key)
        if contact is None and not self._contacts.is_erased(key):
            # A contact is durable before its order, so reading to the current end finds it if it still exists.
            self.fold_to_end()
            contact = self._contacts.contact(key)
        return contact

    def fold_to_end(self) -> None:
        """Fold everything that is in the log now. Raises `LogError` if that takes too long, or at a stop."""
        ends = self._log.ends(self._contacts.positions())
        deadline = time.monotonic() + CONTACTS_S
        while behind := [tp.partition for tp, end in ends.items() if self._contacts.position(tp) < end]:
            if self._stopping.is_set():
                raise LogError("stopped before all contacts were read")
            if self._fold(0.1):
                deadline = time.monotonic() + CONTACTS_S
            elif time.monotonic() > deadline:
                raise LogError(f"contacts could not be read up to their end in partitions {behind}")
        self._forget_gone()

    def fold_arrived(self) -> bool:
        """Returns whether the contacts are up to date: every erasure answered before this call is applied."""
        until = time.monotonic() + ARRIVING_S  # a large erasure may take a minute, and messages wait
        while self._fold(0.0):
            if self._stopping.is_set() or time.monotonic() > until:
                self._forget_gone()
                return False
        self._forget_gone()
        if not self._reader.reached_end().keys() >= self._contacts.positions().keys():
            return False
        silent_s = self._reader.silent_s()
        self._contacts.note_current(self._clock() - int(silent_s * 1000))
        return silent_s < SILENT_S

    def _fold(self, timeout_s: float) -> bool:
        """Returns whether anything arrived, tombstones included."""
        records = self._reader.poll(CHUNK, timeout_s)
        for tp, group in groupby(records, lambda record: TopicPartition(record.topic, record.partition)):
            keys = self._contacts.fold(tp, list(group))
            contact_keys = [key for key in keys if note_id_of(key) is None]  # a note can be deleted alone
            self._gone |= {order_of(key) for key in contact_keys if self._contacts.contact(key) is None}
        for tp, at in self._reader.reached_end().items():  # compaction leaves gaps, even before the end
            self._contacts.reached(tp, at)
        return bool(records)

    def _forget_gone(self) -> None:
        """Handle all erased contacts together: a door may have to search everything it keeps."""
        if self._gone:
            self._gone_at = time.monotonic()
            gone, self._gone = self._gone, set()
            self._forget(gone)

    def _forget(self, order_ids: Collection[str]) -> None:
        for door in self._doors.values():
            door.forget(order_ids)

    def purge(self) -> None:
        """Rewrite the files that still contain erased contacts, once an erasure has arrived as a whole."""
        now = time.monotonic()
        erasing = now - self._gone_at < QUIET_S and now - self._purged_at < PURGE_LATEST_S
        if now < self._purge_at or erasing:
            return  # only once, when the whole erasure has arrived
        self._purge_at, self._purged_at = now + PURGE_EVERY_S, now
        unpurged = in_one_go(self._contacts.unpurged())
        if unpurged and self._contacts.purge(unpurged, self._stopping.is_set):
            in_one_go(self._contacts.purged(unpurged))
