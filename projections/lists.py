"""Keys of lists in their order, a step at a time, whatever was deleted between them.

A key is a prefix, eight bytes (a time, or its complement) and a name. Rows that leave a list are deleted, and RocksDB passes over
what is deleted until it has compacted it: a list that everything moves through, as that of pending orders, may hold a hundred
thousand deleted rows before the first that is there. So a stretch of time is looked at, a shorter one when too much of it is
deleted, a longer one when it turned out to be empty.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from ledger.store import ManyDeleted, Store
from ledger.turns import Steps
from projections.databases import Databases
from projections.projector import Projector

MOST_DELETED = 10_000  # passed over in one step: about a millisecond
FIRST_STRETCH = 60 * 60 * 1000  # ms
_END = 1 << 64


class ListKeys:
    """Keys of one list in one store, from `start` on."""

    def __init__(self, store: Store, prefix: bytes, start: bytes) -> None:
        self._store, self._prefix, self._at = store, prefix, start
        self._stretch: int | None = None  # None: as far as the list goes
        self._until: bytes | None = None
        self._keys: Iterator[bytes] | None = None
        self._most_deleted = MOST_DELETED

    def following(self) -> Steps[bytes | None]:
        """The next key; None when there is none."""
        while True:
            if self._keys is None:
                self._keys = self._store.keys(self._prefix, self._at, self._until, self._most_deleted)
            try:
                key = next(self._keys)
                self._at = key + b"\0"
                return key
            except StopIteration:
                if self._until is None:
                    return None
                self._longer()
            except ManyDeleted:
                self._shorter()
            yield

    def _longer(self) -> None:
        """This stretch is done: go on behind it."""
        assert self._until is not None
        assert self._stretch is not None
        self._at, self._stretch, self._most_deleted = self._until, 2 * self._stretch, MOST_DELETED
        self._bound()

    def _shorter(self) -> None:
        if self._stretch is None:
            self._stretch = FIRST_STRETCH
        elif self._stretch > 1:
            self._stretch //= 8
        else:  # a single millisecond cannot be divided
            self._most_deleted = 0
        self._stretch = max(1, self._stretch)
        self._bound()

    def _bound(self) -> None:
        assert self._stretch is not None
        at = int.from_bytes(self._at[len(self._prefix) : len(self._prefix) + 8].ljust(8, b"\0"), "big")
        end = at + self._stretch
        self._until = None if end >= _END else self._prefix + end.to_bytes(8, "big")
        self._keys = None


class MergedList:
    """One list over all partitions, behind the keys in `reached`, which has the last key given of each partition."""

    def __init__(self, projector: Projector, prefix: bytes, start: bytes, reached: Mapping[int, bytes]) -> None:
        self._projector, self._prefix, self._start = projector, prefix, start
        self.reached = dict(reached)
        self._databases: Databases | None = None
        self._keys: dict[int, ListKeys] = {}
        self._heads: list[tuple[bytes, int]] = []

    def following(self) -> Steps[tuple[int, bytes] | None]:
        """(partition, place) of the next row; None when there is none."""
        while self._databases is not self._projector.databases:
            yield from self._open()
        if not self._heads:
            return None
        key, p = heapq.heappop(self._heads)
        self.reached[p] = key
        yield from self._advance(p)
        return p, key[len(self._prefix) :]

    def _open(self) -> Steps[None]:
        """Begin in the databases of now; again, when others are taken over meanwhile."""
        self._databases, self._keys, self._heads = self._projector.databases, {}, []
        for p, store in list(self._databases.stores.items()):
            reached = self.reached.get(p)
            self._keys[p] = ListKeys(store, self._prefix, self._start if reached is None else reached + b"\0")
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
                return  # these are closed, and what follows is looked up in the others
