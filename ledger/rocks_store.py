"""The Store on RocksDB. The only file that imports rocksdict."""

from __future__ import annotations

import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from rocksdict import (
    BlockBasedIndexType,
    BlockBasedOptions,
    BottommostLevelCompaction,
    Cache,
    Checkpoint,
    CompactOptions,
    DbClosedError,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from ledger.errors import StoreError
from ledger.files import private_folder
from ledger.store import ManyDeleted, Store, after_prefix, never
from ledger.store_figures import announce

MIB = 1024 * 1024

# Figures and RocksDB's names for them.
_PROPERTIES = {
    "memtable_bytes": "rocksdb.cur-size-all-mem-tables",
    "file_bytes": "rocksdb.total-sst-files-size",
    "pending_compaction_bytes": "rocksdb.estimate-pending-compaction-bytes",
    "running_compactions": "rocksdb.num-running-compactions",
    "running_flushes": "rocksdb.num-running-flushes",
    "writes_stopped": "rocksdb.is-write-stopped",
    "background_errors": "rocksdb.background-errors",
}
# Raised by rocksdict for a key or value that is not bytes: an error of the caller, not of the store.
_MISTAKES = (KeyError, TypeError, ValueError)


class StoreMemory:
    """Memory shared by all stores of a process, in bytes: the block cache, which includes all memtables.

    One per process, for any number of partitions: with separate memory, twelve partitions would need twelve times as much.
    """

    def __init__(self, cache_bytes: int = 128 * MIB, memtable_bytes: int = 64 * MIB) -> None:
        self._cache = Cache(cache_bytes)
        # memtables are charged to the cache; a full one is flushed earlier, writes are never stalled for it
        self._buffers = WriteBufferManager.new_write_buffer_manager_with_cache(memtable_bytes, False, self._cache)
        announce(self)

    def figures(self) -> Mapping[str, int]:
        return {"cache_bytes": self.used_bytes()}

    def used_bytes(self) -> int:
        """Current bytes of blocks and memtables."""
        return int(self._cache.get_usage())


@cache
def shared_memory() -> StoreMemory:
    """The default memory of all stores of this process."""
    return StoreMemory()


@cache
def loading_memory() -> StoreMemory:
    """Memory for stores being filled: little is read again, so a small cache keeps memory small even in a long load."""
    return StoreMemory(cache_bytes=64 * MIB, memtable_bytes=48 * MIB)


def store_options(memory: StoreMemory, write_buffer_bytes: int, bloom_bits: int) -> Options:
    """RocksDB's options, each with its reason."""
    blocks = BlockBasedOptions()
    blocks.set_block_cache(memory._cache)
    # Most lookups of a fold are for something new (a new order, a new command id): the filter answers them without a read.
    blocks.set_bloom_filter(bloom_bits, False)
    # Indexes and filters grow with the data; in the cache they are bounded with it, and in pieces of a block's size, or every
    # lookup in a large store would push out the filter of some file, whole. The tops, and those of the newest files, stay in.
    blocks.set_cache_index_and_filter_blocks(True)
    blocks.set_index_type(BlockBasedIndexType.two_level_index_search())
    blocks.set_partition_filters(True)
    blocks.set_metadata_block_size(4096)
    blocks.set_pin_top_level_index_and_filter(True)
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)

    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_write_buffer_manager(memory._buffers)
    options.set_write_buffer_size(write_buffer_bytes)
    options.set_compression_type(DBCompressionType.lz4())
    # 12 stores of 64 files fit into the usual limit of 1,024 open files beside the sockets of `serve`
    options.set_max_open_files(64)
    options.set_max_background_jobs(2)
    # spread the writing of large files: one large sync at their end would hold up the write-ahead log
    options.set_bytes_per_sync(MIB)
    # RocksDB's own text log
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(MIB)
    options.set_stats_dump_period_sec(0)
    return options


class RocksStore:
    """`ledger.store.Store` in the folder `path`. Thread-safe except `close`.

    Writes go through the write-ahead log without fsync: they survive the death of the process. After a power failure the store
    is consistently that of some earlier write, and the fold is repeated from there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        memory: StoreMemory | None = None,
        write_buffer_bytes: int = 16 * MIB,
        bloom_bits: int = 10,
        loading: bool = False,
    ) -> None:
        """Open or create. Raises `StoreError` if another process (or another store of this one) has it open.

        `loading` is for a store that is being filled and not yet read: it has no write-ahead log, so a killed process leaves the
        store consistently as of some earlier write (memtables reach the disk in order); `close` keeps everything.
        """
        self.path = Path(path)
        self._scans: weakref.WeakSet[_Scan | _Keys] = weakref.WeakSet()
        self._closing = threading.Lock()
        self._loading = loading
        options = store_options(memory or (loading_memory() if loading else shared_memory()), write_buffer_bytes, bloom_bits)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = Rdict(str(self.path), options=options)
            if loading:
                without_log = WriteOptions()
                without_log.disable_wal = True  # type: ignore[method-assign, assignment]  # a property; the stub is wrong
                self._db.set_write_options(without_log)
        except Exception as exc:
            in_use = "lock" in str(exc).lower()
            raise StoreError(f"store {self.path} {'is in use' if in_use else 'cannot be opened'}: {exc}") from exc
        announce(self)

    def figures(self) -> Mapping[str, int]:
        """See `store_figures`."""
        with self._closing:
            try:
                return {name: self._db.property_int_value(of) or 0 for name, of in _PROPERTIES.items()}
            except DbClosedError:
                return {}

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except _MISTAKES:
            raise
        except Exception as exc:
            raise self._failed("read", exc) from exc
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        try:
            values: list[bytes | None] = self._db.get(cast("list[Any]", keys)) or []
        except _MISTAKES:
            raise
        except Exception as exc:
            raise self._failed("read", exc) from exc
        return values

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in rows.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        try:
            self._db.write(batch)
        except Exception as exc:
            raise self._failed("written", exc) from exc

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        # Only an upper bound: rocksdict 0.3.29 takes a lower bound for an upper one. A reverse scan ends by itself, see _Scan.
        options, after = ReadOptions(), after_prefix(prefix)
        if after is not None:
            options.set_iterate_upper_bound(after)
        if not reverse:
            from_key = max(start or prefix, prefix) or None
        else:
            from_key = after if start is None else start
        try:
            scan = _Scan(self, prefix, options, self._db.items(backwards=reverse, from_key=from_key, read_opt=options))
        except Exception as exc:
            raise self._failed("read", exc) from exc
        self._scans.add(scan)
        return scan

    def keys(self, prefix: bytes, start: bytes, end: bytes | None, most_deleted: int) -> Iterator[bytes]:
        options, after = ReadOptions(), after_prefix(prefix)
        if end is not None or after is not None:
            options.set_iterate_upper_bound(min(key for key in (end, after) if key is not None))
        options.set_max_skippable_internal_keys(most_deleted)
        try:
            keys = _Keys(self, options, self._db.iter(options), max(start, prefix))
        except Exception as exc:
            raise self._failed("read", exc) from exc
        self._scans.add(keys)
        return keys

    def copy_to(self, path: Path) -> None:
        """Create a second store at `path` (which must not exist) with the current content. Raises `StoreError`.

        Files are linked instead of copied if the file system supports it. May be called from any thread.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Checkpoint(self._db).create_checkpoint(str(path))
        except Exception as exc:
            raise self._failed("copied", exc) from exc

    def purge(self, keys: Sequence[bytes] | None, stopping: Callable[[], bool] = never) -> bool:
        # A deleted value stays in the write-ahead log until its memtable is written, and in a file until that is compacted.
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        if keys is not None and not keys:
            return True
        try:
            with self._closing:
                self._db.flush()
                pieces = [(None, None)] if keys is None else _pieces(sorted(keys), self._db.live_files())
            for first, last in pieces:
                if stopping():
                    return False
                with self._closing:  # it releases the interpreter, and closing meanwhile would fail
                    self._db.compact_range(first, last, options)
        except Exception as exc:
            raise self._failed("purged", exc) from exc
        return True

    def close(self) -> None:
        """Close, and end all scans: an open one would keep RocksDB's lock, and the store could not be reopened."""
        with self._closing:
            for scan in list(self._scans):
                scan.close()
            try:
                if self._loading:
                    self._db.flush()
                self._db.close()
            except DbClosedError:
                return  # closing twice is allowed
            except Exception as exc:
                raise self._failed("closed", exc) from exc

    def _failed(self, done: str, exc: BaseException) -> StoreError:
        return StoreError(f"store {self.path} could not be {done}: {exc}")


def remove_store(path: Path) -> None:
    """Delete the store at `path`. Raises `StoreError` if it is open somewhere."""
    try:
        Rdict.destroy(str(path), Options(raw_mode=True))
    except Exception as exc:
        raise StoreError(f"store {path} could not be removed: {exc}") from exc


def _pieces(keys: Sequence[bytes], files: Sequence[Mapping[str, Any]]) -> list[tuple[bytes | None, bytes | None]]:
    """Ranges [first, last) that cover the sorted `keys`, each within one file of the deepest level. One range takes a second."""
    deepest = max((file["level"] for file in files), default=0)
    starts = sorted(file["start_key"] for file in files if file["level"] == deepest)
    pieces: dict[int, tuple[bytes, bytes]] = {}
    for key in keys:
        in_file = bisect_right(starts, key) if deepest else 0
        first = pieces[in_file][0] if in_file in pieces else key
        pieces[in_file] = (first, key + b"\0")
    return list(pieces.values())


class _Scan(Iterator[tuple[bytes, bytes]]):
    """An iterator that a closing store can end: continuing with it is then an error, not an early end."""

    def __init__(self, store: RocksStore, prefix: bytes, options: ReadOptions, items: Iterator[tuple[Any, Any]]) -> None:
        self._store, self._prefix = store, prefix
        self._options = options  # keeps the bound alive, which RocksDB reads at every step and rocksdict neither copies nor keeps
        self._items: Iterator[tuple[Any, Any]] | None = items
        self._ended = False

    def __next__(self) -> tuple[bytes, bytes]:
        items = self._items
        if items is None:
            if self._ended:
                raise StopIteration
            raise StoreError(f"store {self._store.path} was closed during a scan")
        try:
            row: tuple[bytes, bytes] | None = next(items, None)
        except Exception as exc:
            raise self._store._failed("read", exc) from exc
        if row is None or not row[0].startswith(self._prefix):
            self._ended, self._items = True, None
            raise StopIteration
        return row

    def close(self) -> None:
        self._items = None


class _Keys(Iterator[bytes]):
    """The keys of a stretch. Unlike `_Scan`, it asks RocksDB why there is no next key, which costs one more call per key."""

    def __init__(self, store: RocksStore, options: ReadOptions, rows: Any, start: bytes) -> None:
        self._store, self._options, self._start = store, options, start  # options: as in _Scan
        self._rows: Any = rows
        self._begun = self._ended = False

    def __next__(self) -> bytes:
        rows = self._rows
        if rows is None:
            if self._ended:
                raise StopIteration
            raise StoreError(f"store {self._store.path} was closed during a scan")
        try:
            if self._begun:
                rows.next()
            else:
                rows.seek(self._start)
                self._begun = True
            if rows.valid():
                key: bytes = rows.key()
                return key
            rows.status()
        except Exception as exc:
            self._ended, self._rows = True, None
            if "incomplete" in str(exc).lower():
                raise ManyDeleted from None
            raise self._store._failed("read", exc) from exc
        self._ended, self._rows = True, None
        raise StopIteration

    def close(self) -> None:
        self._rows = None


LOCK_WAIT_S = 10.0


def store_opener(root: Path) -> Callable[[str], Store]:
    """Returns a function that opens databases in `root`. It waits for a killed predecessor that may still hold the lock."""

    def open_store(name: str) -> Store:
        private_folder(root)
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                return RocksStore(root / name)
            except StoreError as exc:
                if "lock" not in str(exc).lower() or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    return open_store
