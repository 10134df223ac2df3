"""The Store in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from sortedcontainers import SortedDict

from ledger.errors import StoreError
from ledger.store import after_prefix, never


class MemoryStore:
    """A store that ends with the process: for tests and temporary folds."""

    def __init__(self) -> None:
        self._kept: SortedDict[bytes, bytes] | None = SortedDict()

    @property
    def _rows(self) -> SortedDict[bytes, bytes]:
        if self._kept is None:
            raise StoreError("the store is closed")
        return self._kept

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        rows = self._rows
        return [rows.get(key) for key in keys]

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        kept = self._rows
        for key, value in rows.items():
            if value is None:
                kept.pop(key, None)
            else:
                kept[key] = value

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        rows, low, high = self._rows, prefix, after_prefix(prefix)
        if start is not None and reverse:
            high = start + b"\0" if high is None else min(start + b"\0", high)
        elif start is not None:
            low = max(start, low)
        keys = rows.irange(low, high, (True, False), reverse) if high is None or low < high else []
        return self._go_on([(key, rows[key]) for key in keys])

    def keys(self, prefix: bytes, start: bytes, end: bytes | None, most_deleted: int) -> Iterator[bytes]:
        return (key for key, _ in self.scan(prefix, start) if end is None or key < end)

    def _go_on(self, rows: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
        for row in rows:
            if self._kept is None:
                raise StoreError("the store was closed during a scan")
            yield row

    def copy_to(self, path: Path) -> None:
        raise StoreError(f"a store in memory cannot be copied to {path}")

    def purge(self, keys: Sequence[bytes] | None, stopping: Callable[[], bool] = never) -> bool:
        assert self._rows is not None  # nothing is on disk
        return True

    def close(self) -> None:
        self._kept = None
