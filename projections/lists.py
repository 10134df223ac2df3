"""The lists of `read_models`, merged across partitions, in steps."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Protocol

from ledger.contact_rows import KeptContacts, place_of_contact
from ledger.sparse_keys import SparseKeys
from ledger.turns import Steps
from projections.databases import Databases
from projections.projector import Projector
from projections.read_models import order_id_of


class OrderList(Protocol):
    """The places of orders, newest first. `reached`: the last returned key of each source."""

    reached: dict[int, bytes]

    def following(self) -> Steps[tuple[int, bytes] | None]:
        """(partition, place) of the next row; None if there is none."""


class ContactList:
    """Orders whose contacts have one e-mail address, after `reached`: from the one database of contacts."""

    def __init__(
        self, projector: Projector, prefix: bytes, partition_of: Callable[[str], int], reached: Mapping[int, bytes]
    ) -> None:
        self._projector, self._prefix, self._partition_of = projector, prefix, partition_of
        self.reached = dict(reached)
        self._contacts: KeptContacts | None = None

    def following(self) -> Steps[tuple[int, bytes] | None]:
        """As `OrderList.following`."""
        while True:
            if self._contacts is not self._projector.contacts:
                self._contacts, last = self._projector.contacts, self.reached.get(0)
                self._keys = SparseKeys(self._contacts.store, self._prefix, self._prefix if last is None else last + b"\0")
            key = yield from self._keys.following()
            if self._contacts is self._projector.contacts:
                break
        if key is None:
            return None
        self.reached[0] = key
        place = place_of_contact(key[len(self._prefix) :])
        return self._partition_of(order_id_of(place)), place


class MergedList:
    """One list across all partitions, after `reached`, the last returned key of each partition."""

    def __init__(self, projector: Projector, prefix: bytes, start: bytes, reached: Mapping[int, bytes]) -> None:
        self._projector, self._prefix, self._start = projector, prefix, start
        self.reached = dict(reached)
        self._databases: Databases | None = None
        self._keys: dict[int, SparseKeys] = {}
        self._heads: list[tuple[bytes, int]] = []

    def following(self) -> Steps[tuple[int, bytes] | None]:
        """(partition, place) of the next row; None if there is none."""
        while self._databases is not self._projector.databases:
            yield from self._open()
        if not self._heads:
            return None
        key, p = heapq.heappop(self._heads)
        self.reached[p] = key
        yield from self._advance(p)
        return p, key[len(self._prefix) :]

    def _open(self) -> Steps[None]:
        """Start in the current databases; again, if they are switched meanwhile."""
        self._databases, self._keys, self._heads = self._projector.databases, {}, []
        for p, store in list(self._databases.stores.items()):
            reached = self.reached.get(p)
            self._keys[p] = SparseKeys(store, self._prefix, self._start if reached is None else reached + b"\0")
            yield from self._advance(p)
            if self._databases is not self._projector.databases:
                return

    def _advance(self, p: int) -> Steps[None]:
        steps = self._keys[p].following()
        while True:
            try:
                next(steps)
            except StopIteration as done:
                if done.value is not None:
                    heapq.heappush(self._heads, (done.value, p))
                return
            yield
            if self._databases is not self._projector.databases:
                return  # these are closed: continue in the new ones
