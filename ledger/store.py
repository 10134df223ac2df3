"""The Store port: an ordered map of bytes whose rows and positions change together in one write.

Two adapters keep it and pass the same tests (`tests/contract/test_store.py`): `rocks_store.RocksStore` and `MemoryStore` below.

The contract
    * `write` is atomic: after a crash either all its rows are there or none. It is durable against `kill -9` of the process
      (the operating system has it); against power loss the log is the truth and the fold is repeated.
    * Keys order bytewise. `scan` sees the store as of its first step and must be exhausted or closed.
    * One process opens a store at a time; a second gets `StoreError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from sortedcontainers import SortedDict


class Store(Protocol):
    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of `keys`."""

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Put every row (None deletes it) in one atomic write. Raises `StoreError`."""

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key begins with `prefix`, in key order (or reverse), from `start` (inclusive) on."""

    def close(self) -> None: ...


class MemoryStore:
    """A store that is gone with the process: for tests and short-lived folds."""

    def __init__(self) -> None:
        self._rows: SortedDict[bytes, bytes] = SortedDict()

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [self._rows.get(key) for key in keys]

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        for key, value in rows.items():
            if value is None:
                self._rows.pop(key, None)
            else:
                self._rows[key] = value

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        after = after_prefix(prefix)
        if reverse:
            keys = self._rows.irange(prefix, start or after, (True, start is not None), reverse=True)
        else:
            keys = self._rows.irange(max(start or prefix, prefix), after, (True, False))
        for key in list(keys):
            if key.startswith(prefix):
                yield key, self._rows[key]

    def close(self) -> None:
        self._rows.clear()


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key behind every key with `prefix`; None when there is none (all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
