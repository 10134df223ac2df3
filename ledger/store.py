"""The Store port: an ordered map of bytes whose rows and positions change together in one write.

Two adapters keep it and pass the same tests (`tests/contract/test_store.py`): `ledger.rocks_store.RocksStore` and
`ledger.memory.store.MemoryStore`.

The contract
    * `write` is atomic: after a crash either all its rows are there or none. It is durable against `kill -9` of the process
      (the operating system has it); against power loss the log is the truth and the fold is repeated.
    * Keys are ordered bytewise. `scan` sees the store as of its call, whatever is written meanwhile.
    * One process opens a store at a time; a second gets `StoreError`. On a closed store, everything except closing it again
      raises `StoreError`, including continuing a scan (which would look like an early end).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class ManyDeleted(Exception):
    """There are so many deleted rows before the next key that finding it takes long. Use a shorter stretch."""


def never() -> bool:
    """Never stop."""
    return False


class Store(Protocol):
    """An ordered map of bytes; see the module for its contract."""

    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of `keys`."""

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Put every row (None deletes it) in one atomic write. Raises `StoreError`."""

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key begins with `prefix`, in key order (or reverse), from `start` (inclusive) on.

        A `start` outside the prefix is allowed: behind it, the scan is empty; before it, the scan is complete.
        """

    def keys(self, prefix: bytes, start: bytes, end: bytes | None, most_deleted: int) -> Iterator[bytes]:
        """Keys that begin with `prefix`, in order, from `start` (inclusive) to `end` (exclusive; None: to the last).

        Raises `ManyDeleted`, and ends, if there are more than about `most_deleted` deleted rows before the next key: until they
        are compacted, each costs about 0.1 us to skip, which cannot be interrupted. 0: no limit.
        """

    def copy_to(self, path: Path) -> None:
        """Create a second store at `path`, which must not exist, with the current rows. Raises `StoreError`."""

    def purge(self, keys: Sequence[bytes] | None, stopping: Callable[[], bool] = never) -> bool:
        """Rewrite the files so that no old value of `keys` (None: of any key) is left in them. Returns whether it finished.

        Takes seconds. May be called from any thread; `close` then waits for the current piece. Raises `StoreError`.
        """

    def close(self) -> None: ...


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key after all keys with `prefix`; None if there is none (all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
