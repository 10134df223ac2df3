"""The Store on RocksDB. The only importer of rocksdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, WriteBatch, WriteBufferManager

from ledger.errors import StoreError
from ledger.store import after_prefix

BLOCK_CACHE_BYTES = 64 << 20
MEMTABLES_BYTES = 64 << 20


@cache
def _block_cache() -> Cache:
    return Cache(BLOCK_CACHE_BYTES)


@cache
def _memtables() -> WriteBufferManager:
    """One budget for the memtables of all databases of this process."""
    return WriteBufferManager(MEMTABLES_BYTES, False)


def store_options() -> Options:
    """Options of every database: point reads of recent orders and short scans."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(16 << 20)
    options.set_write_buffer_manager(_memtables())
    options.set_compression_type(DBCompressionType.lz4())
    options.set_keep_log_file_num(4)
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(10, False)  # "no such order" without a disk read
    blocks.set_block_cache(_block_cache())
    blocks.set_cache_index_and_filter_blocks(True)
    options.set_block_based_table_factory(blocks)
    return options


class RocksStore:
    """`ledger.store.Store` in the folder `path`. Raises `StoreError` when it is open in another process."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = Rdict(str(path), options=store_options())
        except Exception as exc:  # rocksdict raises plain Exception
            raise StoreError(f"{path}: {exc}") from exc

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        values: list[bytes | None] = self._db.get(keys)
        return values

    def write(self, rows: Mapping[bytes, bytes | None]) -> None:
        batch = WriteBatch(raw_mode=True)
        for key, value in rows.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._db.write(batch)
        except Exception as exc:  # rocksdict raises plain Exception
            raise StoreError(str(exc)) from exc

    def scan(self, prefix: bytes, start: bytes | None = None, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        rows = self._db.iter()
        try:
            if reverse:
                edge = start if start is not None else after_prefix(prefix)
                if edge is None:
                    rows.seek_to_last()
                else:
                    rows.seek_for_prev(edge)
                    if start is None and rows.valid() and rows.key() == edge:
                        rows.prev()
            else:
                rows.seek(max(start or prefix, prefix))
            while rows.valid():
                key: bytes = rows.key()
                if not key.startswith(prefix):
                    return
                yield key, rows.value()
                if reverse:
                    rows.prev()
                else:
                    rows.next()
        finally:
            del rows  # a live iterator keeps the database's lock after close()

    def close(self) -> None:
        self._db.close()
