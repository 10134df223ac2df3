"""Rows of a desk about its partition as a whole: where they are, and how all rows are deleted."""

from __future__ import annotations

from ledger.store import Store

CLEAR_ROWS = 10_000  # in one write
META, VERSION_KEY = b"meta", b"version"


def clear(store: Store, partition: int) -> None:
    """Delete the fold of `partition`. The position is deleted last, so that an interrupted deletion is repeated."""
    prefix = b"%d/" % partition
    keys = [key for key, _ in store.scan(prefix) if key != prefix + META]
    for first in range(0, len(keys), CLEAR_ROWS):
        store.write(dict.fromkeys(keys[first : first + CLEAR_ROWS]))
    store.write({prefix + META: None})


def is_of_other_version(store: Store, partition: int, version: bytes) -> bool:
    """Whether `store` has rows of the partition, of another version."""
    meta, stored = store.get_many([b"%d/%b" % (partition, name) for name in (META, VERSION_KEY)])
    return meta is not None and stored != version


def unreadable_key(command_log: bytes, command_offset: int) -> bytes:
    """Key of a refused unreadable command. With the id of the command log: an offset is meaningless in another one."""
    return b"u/" + command_log + command_offset.to_bytes(8, "big")
