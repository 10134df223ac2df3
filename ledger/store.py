"""The Store port: an ordered map of bytes whose rows and positions change together in one write.

Two adapters keep it and pass the same tests (`tests/contract/test_store.py`): `rocks_store.RocksStore` and `MemoryStore` below.

The contract
    * `write` is atomic: after a crash either all its rows are there or none. It is durable against `kill -9` of the process
      (the operating system has it); against power loss the log is the truth and the fold is repeated.
    * Keys order bytewise. `scan` sees the store as of its call, whatever is written while it goes on.
    * One process opens a store at a time; a second gets `StoreError`. A closed store answers nothing: everything but closing it
      again raises `StoreError`, going on with a scan too (it would look like an early end).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class ManyDeleted(Exception):
    """So many deleted rows lie before the next key that finding it takes long. Ask about a shorter stretch."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Store(Protocol):
    def get(self, key: bytes) -> bytes | None: ...

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of `keys`."""

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        """Put every row (None deletes it) in one atomic write. Raises `StoreError`."""

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key begins with `prefix`, in key order (or reverse), from `start` (inclusive) on.

        A `start` outside of the prefix is allowed: on the far side there is nothing, on the near side everything.
        """

    def keys(self, prefix: bytes, start: bytes, end: bytes | None, most_deleted: int) -> Iterator[bytes]:
        """Keys that begin with `prefix`, in order, from `start` (inclusive) to `end` (exclusive; None: to the last).

        Raises `ManyDeleted`, and ends, when more than about `most_deleted` deleted rows lie before the next key: until the store
        has tidied up, each costs about 0.1 us to pass over, and nothing can interrupt that. 0: however many.
        """

    def copy_to(self, path: Path) -> None:
        """Make a second store at `path`, which must not exist, with the rows of now. Raises `StoreError`."""

    def purge(self, keys: Sequence[bytes] | None, stopping: Callable[[], bool] = never) -> bool:
        """Rewrite what is on disk so that no former value of `keys` (None: of any key) can be read in it; whether that was done
        to the end. Takes seconds. May be called from any thread, `close` then waits for the piece under way. Raises `StoreError`.
        """

    def close(self) -> None: ...


def after_prefix(prefix: bytes) -> bytes | None:
    """The first key behind every key with `prefix`; None when there is none (all 0xff)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
