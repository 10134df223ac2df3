"""Iterates over the keys of a store in order and in steps, even with many deleted rows between them.

RocksDB skips deleted rows until they are compacted. The list of pending orders, which every order leaves, may have a hundred
thousand deleted rows before the first existing one, and a search for that cannot be interrupted. So keys are searched in
stretches: a shorter one if too many rows are deleted, a longer one if it is empty.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.store import ManyDeleted, Store
from ledger.turns import Steps

MOST_DELETED = 10_000  # skipped in one step: about a millisecond
HOUR = 60 * 60 * 1000  # the first stretch, if keys begin with a time in ms
_END = 1 << 64


class SparseKeys:
    """Keys that begin with `prefix`, from `start` on.

    If `lead` follows the prefix, the eight bytes after it are a number by which stretches are divided; the first one has length
    `first`. Other keys share a stretch with their neighbours.
    """

    def __init__(self, store: Store, prefix: bytes, start: bytes, lead: bytes = b"", first: int = HOUR) -> None:
        self._store, self._prefix, self._at = store, prefix, max(start, prefix)
        self._lead, self._first = prefix + lead, first
        self._stretch: int | None = None  # None: to the last key
        self._until: bytes | None = None
        self._keys: Iterator[bytes] | None = None
        self._most_deleted = MOST_DELETED

    def following(self) -> Steps[bytes | None]:
        """The next key; None if there is none."""
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
                self._longer(self._until)
            except ManyDeleted:
                self._shorter()
            yield

    def _longer(self, until: bytes) -> None:
        """This stretch is done: continue after it."""
        self._at, self._stretch, self._most_deleted = until, 2 * (self._stretch or self._first), MOST_DELETED
        self._bound()

    def _shorter(self) -> None:
        if self._stretch is None:
            self._stretch = self._first
        elif self._stretch > 1 and self._until is not None:
            self._stretch = max(1, self._stretch // 8)
        else:  # a stretch that cannot be divided is skipped in one step
            self._most_deleted = 0
        self._bound()

    def _bound(self) -> None:
        assert self._stretch is not None
        number = 0
        if self._at.startswith(self._lead):
            number = int.from_bytes(self._at[len(self._lead) : len(self._lead) + 8].ljust(8, b"\0"), "big")
        end = number + self._stretch
        until = self._lead + end.to_bytes(8, "big") if end < _END else None
        self._until = until if until is not None and until > self._at else None
        self._keys = None
