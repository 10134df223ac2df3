"""A ledger in memory with a backup of it: orders that a real processor decided, their contacts, and the way back."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from pydantic import SecretStr

from api.cli.backup.age import identities_of, new_pair, recipients_of
from api.cli.backup.making import Backup, Secrets
from api.cli.backup.manifest import SETTINGS, TOKENS, Increment, Manifest, read_manifest
from api.cli.backup.proving import Proof, Proven, RestoreKeys
from api.cli.backup.restoring import refuse_used, restore
from api.cli.screens import LogProgress
from api.cli.terminal import Screen
from api.settings import Settings
from commands.messages import OrderCommand
from ledger.clock import now_ms
from ledger.contacts import NOBODY, Address, Note, OrderContact, contact_key, erased_key, note_key, note_of
from ledger.erasures import Erasure, encode_erasure, erasure_key
from ledger.log import NewRecord, Record, TopicPartition
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.partitioner import partition_for
from ledger.schemas.codec import contact_codec
from ledger.walk import Head
from tests.support.changed_logs import send
from tests.support.one_log import PARTITIONS, TOPICS, WRITERS, Ledger, cancel, place
from tests.support.patience import PATIENCE_S

HASH_KEY = "a key that only this test knows"
NAME, EMAIL = "Canary Nightingale", "canary@nightingale.example"
IDENTITY, RECIPIENT = new_pair()


def settings(**changes: Any) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        partitions=PARTITIONS,
        writers=WRITERS,
        ledger_hash_key=SecretStr(HASH_KEY),
        node_id="restored",
        **changes,
    )


class BackedUp:
    """The ledger `before`, the folder of its backups, and what is restored from it. `clock_ms` is that of `backup`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.before = folder, Ledger()
        self.clock_ms = now_ms()
        self.surroundings: dict[str, bytes] = {SETTINGS: b'{"settings":{}}', TOKENS: b'{"tokens":[]}'}

    # ---- before

    def orders(self, word: str, count: int = 8, customer: str = "c-1") -> list[OrderCommand]:
        """New orders of the customer; half of them are cancelled, and a quarter cancelled again, which is refused."""
        placed = [replace(place(f"{word}{n}"), customer_id=customer) for n in range(count)]
        cancelled = [replace(cancel(order, "once"), customer_id=customer) for order in placed[: count // 2]]
        refused = [replace(cancel(order, "twice"), customer_id=customer) for order in placed[: count // 4]]
        running = self.before.start()
        for commands in (placed, cancelled, refused):
            send(self.before, commands)
        self.before.stop(running)
        return placed

    def contact(self, order: OrderCommand, customer: str | None = None, at: int | None = None) -> bytes:
        """Write the contact of an order; returns its key."""
        assert order.place is not None
        key = contact_key(order.order_id, order.place.contact_digest)
        contact = OrderContact(customer or order.customer_id, NAME, EMAIL, Address("1 Mill Lane", "Leeds", "LS1", "GB"))
        self.write(key, contact_codec().encode(contact), at)
        return key

    def note(self, order: OrderCommand, text: str = NAME) -> bytes:
        key = note_key(order.order_id, "1")
        self.write(key, contact_codec().encode(note_of(order.customer_id, Note(text, "admin:desk", 1))))
        return key

    def mark_erased(self, key: bytes) -> None:
        """As an erasure does it: the mark, then the tombstone."""
        self.write(erased_key(key), contact_codec().encode(NOBODY))
        self.write(key, None)

    def erasure(self, customer: str, requested_at: int, done_at: int | None = None) -> None:
        self.write(erasure_key(customer), encode_erasure(Erasure(customer, requested_at, "one", 0, done_at)))

    def write(self, key: bytes, value: bytes | None, at: int | None = None) -> None:
        """A record of `order-contacts`, in the partition of its order or its own."""
        owner = key.split(b"/", 1)[0]
        errors: list[object] = []
        record = NewRecord(TOPICS.contacts, partition_for(owner, PARTITIONS), key, value, at or self.clock_ms)
        self.before.sender.send(record, lambda acked, error: errors.append(error) if error else None)
        assert self.before.sender.flush(PATIENCE_S) == 0
        assert errors == []

    # ---- the backup

    def backup(self, all_contacts: bool = False, key: str = HASH_KEY) -> tuple[Manifest, Increment | None]:
        secrets = Secrets(hash_key=key.encode(), recipients=recipients_of(RECIPIENT))
        with LogProgress(Screen(stderr=True)) as bar:
            work = Backup(
                self.before.log,
                TOPICS,
                self.folder,
                secrets,
                self.surroundings,
                "0.2.0",
                bar,
                threading.Event(),
                clock=lambda: self.clock_ms,
            )
            return work.run(all_contacts)

    def manifest(self) -> Manifest:
        return read_manifest(self.folder, HASH_KEY.encode())

    def files(self) -> dict[str, bytes]:
        """The content of every file of the backup, by relative path."""
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}

    # ---- the way back

    def prove(
        self, key: str = HASH_KEY, identity: str = IDENTITY, heads: Mapping[int, Head] | None = None, accept_faults: bool = False
    ) -> Proven:
        with closing(self._proof(key, identity)) as proof:
            return proof.run(heads or {}, accept_faults=accept_faults)

    def restore(
        self,
        log: MemoryLog | None = None,
        also_erased: Collection[str] = (),
        stopping: threading.Event | None = None,
        accept_faults: bool = False,
    ) -> tuple[Proven, MemoryLog]:
        """Restore into `log`, or an empty one; `stopping` is set between the proof and the writing."""
        log = log or MemoryLog()
        with closing(self._proof(HASH_KEY, IDENTITY, stopping)) as proof:
            proven = proof.run({}, also_erased, accept_faults)
            refuse_used(log, settings(), proven.manifest.partitions)
            if stopping is not None:
                stopping.set()
            restore(log, settings(), proof, proven, stopping or threading.Event())
            return proven, log

    def _proof(self, key: str, identity: str, stopping: threading.Event | None = None) -> Proof:
        keys = RestoreKeys(hash_key=key.encode(), identities=identities_of(identity))
        opener = lambda folder, loading: lambda name: MemoryStore()  # noqa: E731
        return Proof(self.folder, keys, opener, self.folder, LogProgress(Screen(stderr=True)), stopping or threading.Event())


def records_in(log: MemoryLog, topic: str) -> list[Record]:
    """All committed records of a topic, with headers, by partition and offset."""
    tps = [TopicPartition(topic, p) for p in range(log.partitions(topic))]
    reader = log.reader("records", eof=True, headers=True)
    reader.assign(log.starts(tps))
    records: list[Record] = []
    while len(reader.reached_end()) < len(tps):
        records += reader.poll(1000, 0.05)
    reader.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


def bytes_of(log: MemoryLog, topic: str) -> list[tuple[Any, ...]]:
    """Everything of the records of a topic except their offsets, which depend on transactions."""
    return [(r.partition, r.timestamp_ms, r.key, r.value, r.headers) for r in records_in(log, topic)]


def contacts_in(log: MemoryLog) -> dict[bytes, bytes | None]:
    """The last value of each key of `order-contacts`."""
    return {record.key or b"": record.value for record in records_in(log, TOPICS.contacts)}
