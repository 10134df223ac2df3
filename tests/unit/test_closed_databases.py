"""Whatever fails, no database stays open that nobody uses: it could not be opened again."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack

import pytest

from commands.notifier.followed_contacts import FollowedContacts
from commands.processor.order_book import OrderBook
from ledger.clock import now_ms
from ledger.contact_rows import CONTACTS_STORE
from ledger.errors import LogUnavailable, StoreError
from ledger.memory.log import MemoryLog
from ledger.memory.store import MemoryStore
from ledger.topics import Topics
from projections.databases import Databases

TOPICS = Topics()


class Disk:
    """Opens stores in memory, and knows which are open. Those named in `full` take no write, those in `stuck` report a fault when
    they are closed."""

    def __init__(self, full: str = "", stuck: str = "") -> None:
        self.full, self.stuck = full, stuck
        self.opened: list[str] = []

    def open(self, name: str) -> MemoryStore:
        disk = self

        class Watched(MemoryStore):
            def write(self, rows: Mapping[bytes, bytes | None]) -> None:
                if name == disk.full:
                    raise StoreError("the disk is full")
                super().write(rows)

            def close(self) -> None:
                super().close()
                disk.opened.remove(name)
                if name == disk.stuck:
                    raise StoreError("the disk is full")

        self.opened.append(name)
        return Watched()


@pytest.mark.parametrize("full", ["p0", "p1", CONTACTS_STORE])
def test_databases_of_which_one_cannot_be_begun_are_all_closed(full: str) -> None:
    disk = Disk(full=full)
    with pytest.raises(StoreError, match="full"):
        Databases(disk.open, TOPICS, [0, 1], 2)
    assert disk.opened == []


@pytest.mark.parametrize("stuck", ["p0", "p1", CONTACTS_STORE])
def test_one_that_cannot_be_closed_leaves_no_other_open(stuck: str) -> None:
    disk = Disk(stuck=stuck)
    databases = Databases(disk.open, TOPICS, [0, 1], 2)
    assert sorted(disk.opened) == sorted(["p0", "p1", CONTACTS_STORE])
    with pytest.raises(StoreError, match="full"):
        databases.close()
    assert disk.opened == []


def no_orders(partition: int) -> OrderBook:
    raise LookupError(partition)


@pytest.mark.parametrize("fault", ["log", "disk"])
def test_a_notifier_that_cannot_begin_leaves_its_contacts_closed(fault: str) -> None:
    disk, log = Disk(full=CONTACTS_STORE if fault == "disk" else ""), MemoryLog()
    log.ensure_topics(TOPICS.specs(2, 1))
    log.away(fault == "log")
    contacts = FollowedContacts(log, TOPICS, no_orders, disk.open, {}, threading.Event(), now_ms)
    with pytest.raises((LogUnavailable, StoreError)), ExitStack() as closing:
        contacts.open(closing)
    assert disk.opened == []
