"""A store that is being filled: writes go on in a thread of their own while the next rows are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ledger.store import Store


class LoadingStore:
    """`ledger.store.Store` over another one, with one write under way at most. For one thread.

    Every read sees every write before it. An error of a write is raised by whatever comes next, `close` at the latest.
    """

    def __init__(self, store: Store, writers: ThreadPoolExecutor) -> None:
        self._store, self._writers = store, writers
        self._under_way: Future[None] | None = None

    def _wait(self) -> Store:
        if self._under_way is not None:
            under_way, self._under_way = self._under_way, None
            under_way.result()
        return self._store

    def get(self, key: bytes) -> bytes | None:
        return self._wait().get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return self._wait().get_many(keys)

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        self._under_way = self._writers.submit(self._wait().write, rows)

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        return self._wait().scan(prefix, start, reverse)

    def copy_to(self, path: Path) -> None:
        self._wait().copy_to(path)

    def close(self) -> None:
        try:
            self._wait()
        finally:
            self._store.close()
